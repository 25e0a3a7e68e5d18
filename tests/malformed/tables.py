"""Malformed tables: a row is two texts with its number between signs that nothing else has."""

import csv
import io
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.malformed.cases import Case, Check
from trainers.data.corpus import Columns, open_corpus
from trainers.data.dialogues import load_dialogues
from trainers.data.pairs import PairColumns, load_pairs
from trainers.data.rows import BadRows


__all__ = ["ROWS", "TABLES", "Rows", "at_most", "exactly", "load", "message_cases", "rows_of", "table_cases", "turns"]

ODD = [
    "an apple",
    'say "hi"',
    "a, b; c",
    "two\nlines",
    "=1+1",
    "\ufeff in it",
    "NaN",
    "null",
    " blanks ",
    "👩\u200d🌾",
]
ODD += ["'", "\\", "x" * 3000, "<b>", "\u2028", "1e5", "true", "\x0b", '""', ",,,", "{}", "[", "a\tb", "\x1b[2J", "é"]
ROWS = 6
Rows = list[tuple[str, str]]
Read = tuple[Rows, set[int]]  # good rows, and the numbers of those that were reported
Drawn = tuple[list[bytes], Check | None]  # pieces of a file; without a check it must be refused
Mutation = Callable[[random.Random, Rows], Drawn]


def rows_of(draw: random.Random) -> Rows:
    return [(f"⟦{row}⟧ {draw.choice(ODD)}", f"⟦{row}⟧ p {draw.choice(ODD)}") for row in range(ROWS)]


def exactly(rows: Rows, bad: Iterable[int]) -> Check:
    """All rows but the bad ones came back, and these were reported under their numbers."""
    bad = set(bad)

    def check(found: Read) -> str | None:
        expected = [row for number, row in enumerate(rows) if number not in bad]
        if found[0] != expected:
            return f"{found[0]!r:.300} instead of {expected!r:.300}"
        return None if found[1] == bad else f"bad rows are {sorted(found[1])} instead of {sorted(bad)}"

    return check


def at_most(rows: Rows, touched: Iterable[int]) -> Check:
    """Rows that nobody touched came back as they were; of the others there may be something else."""
    touched = set(touched)

    def check(found: Read) -> str | None:
        kept = [row for number, row in enumerate(rows) if number not in touched]
        lost = [row for row in kept if row not in found[0]]
        if len(lost) > len(found[1]):  # a line end of the header that has changed makes every row a bad one
            return f"lost without a word: {lost!r:.200} of {found!r:.300}"
        numbers = [set(map(int, re.findall(r"⟦(\d)⟧", text or ""))) for row in found[0] for text in row]
        if swallowed := [several for several in numbers if len(several) > 1 and not several <= touched]:
            return f"several rows in one: {swallowed}"
        if len([row for row in found[0] if row not in rows]) > len(touched):
            return f"made up: {found[0]!r:.300}"
        return None

    return check


def load(path: Path) -> Read:
    """Pairs, the bad rows skipped."""
    bad = BadRows("skip")
    pairs = load_pairs(path, PairColumns(query_text="q", positive_text="p"), on_bad_row=bad)
    return [(row["query"]["text"], row["positive"]["text"]) for row in pairs], set(bad.reasons)


def embed(path: Path) -> Read:
    """The corpus of `coma embed`, by each of the two columns, in two pieces."""
    sides = []
    for column in "qp":
        corpus = open_corpus(path, Columns(text=column))
        half = corpus.num_rows // 2
        sides.append(corpus.read(0, half) + corpus.read(half, corpus.num_rows))
    bad = {number for side in sides for number, row in enumerate(side) if row["error"] is not None}
    rows = [(q["text"], p["text"]) for q, p in zip(*sides, strict=True)]
    return [row for number, row in enumerate(rows) if number not in bad], bad


def table_cases(kind: str, number: int, draw: random.Random, folder: Path) -> Iterator[Case]:
    for place in range(number):
        rows, mutate = rows_of(draw), draw.choice(TABLES[kind])
        pieces, check = mutate(draw, rows)
        path = folder / f"{kind}{place}.{kind}"
        path.write_bytes(b"".join(pieces))
        read = (load, embed)[place % 2]
        yield Case(f"{path.name}, {mutate.__name__}, by {read.__name__}", lambda r=read, f=path: r(f), check)


def with_flip(draw: random.Random, pieces: list[bytes]) -> tuple[list[bytes], set[int]]:
    """One byte is another; the pieces that it belongs to, a line end to the next one, too."""
    piece = draw.randrange(len(pieces))
    flipped = bytearray(pieces[piece])
    place = draw.randrange(len(flipped))
    flipped[place] = draw.choice([flipped[place] ^ 1 << draw.randrange(8), *b'",\n\r\t\0\\{}[]:\xff '])
    touched = {piece, piece + 1} if place == len(flipped) - 1 else {piece}
    return [*pieces[:piece], bytes(flipped), *pieces[piece + 1 :]], touched


def as_another_encoding(draw: random.Random, text: str, rows: Rows) -> Drawn:
    """UTF-16 is read, with and without a mark; UTF-32 is refused."""
    encoding = draw.choice(["utf-16", "utf-16-le", "utf-32"])
    return [text.encode(encoding)], None if encoding == "utf-32" else exactly(rows, [])


# CSV


def csv_line(values: Iterable[str], separator: str = ",") -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=separator, lineterminator="\n").writerow(values)
    return buffer.getvalue().encode()


def csv_pieces(rows: Rows, separator: str = ",") -> list[bytes]:
    return [csv_line(("q", "p"), separator), *(csv_line(row, separator) for row in rows)]


def with_separator(separator: str) -> list[Mutation]:
    def a_bad_row(draw: random.Random, rows: Rows) -> Drawn:
        pieces, row = csv_pieces(rows, separator), draw.randrange(ROWS)
        q, p = rows[row]
        bad = [csv_line([q], separator), csv_line([q, p, "more"], separator), csv_line([f"{q}\0", p], separator)]
        pieces[row + 1] = draw.choice([*bad, b"\xff" + separator.encode() + b"p\n"])
        return pieces, exactly(rows, [row])

    def a_quote_that_is_not_closed(draw: random.Random, rows: Rows) -> Drawn:
        pieces, row = csv_pieces(rows, separator), draw.randrange(ROWS)
        pieces[row + 1] = b'"' + pieces[row + 1]
        return pieces, at_most(rows, range(row, ROWS))

    def nothing_that_matters(draw: random.Random, rows: Rows) -> Drawn:
        pieces = [piece + b"\n" * draw.randrange(2) for piece in csv_pieces(rows, separator)]
        return [draw.choice([b"", b"\xef\xbb\xbf"]), *pieces], exactly(rows, [])

    def another_encoding(draw: random.Random, rows: Rows) -> Drawn:
        text = b"".join(csv_pieces(rows, separator)).decode()
        return as_another_encoding(draw, text, rows)

    def a_bad_header(draw: random.Random, rows: Rows) -> Drawn:
        headers = ["q|q|p\n", "q;p\n", "\n", "q|\n", "Q|P\n", "\udcff|p\n", "q|p\0\n", ""]
        header = draw.choice(headers).replace("|", separator).encode("utf-8", "surrogateescape")
        return [header, *csv_pieces(rows, separator)[1:]], None

    def cut_off(draw: random.Random, rows: Rows) -> Drawn:
        *pieces, last = csv_pieces(rows, separator)
        return [*pieces, last[: draw.randrange(len(last))]], at_most(rows, [ROWS - 1])

    def another_byte(draw: random.Random, rows: Rows) -> Drawn:
        pieces, touched = with_flip(draw, csv_pieces(rows, separator))
        return pieces, at_most(rows, {piece - 1 for piece in touched} | ({0} if 0 in touched else set()))

    broken = [a_bad_row, a_quote_that_is_not_closed, another_encoding, a_bad_header, cut_off]
    return [*broken, nothing_that_matters, *[another_byte] * 4]


# JSON

NO_TEXT = ["true", "[]", '["x"]', "{}", '{"text": "x"}', "NaN", "Infinity", "9" * 5000, r'"\ud800 x"', r'"x\u0000"']
NO_TEXT += ["[" * 900 + "]" * 900, '{"q":' * 400 + "1" + "}" * 400]
NO_ROW = ["null", "3", "[]", '"x"', "[{}]", "true"]
NO_JSON = ["[" * 1500, "{" * 100_000, "{'q': 'x'}", '{"q": "x" "p": "y"}', '{"q": "x",}', "{q: 1}", "\0\0\0"]
NO_UTF8 = [b"\xff", b"\xc3(", b"\xed\xa0\x80"]


def json_objects(draw: random.Random, rows: Rows) -> list[bytes]:
    ascii_only = draw.random() < 0.5
    return [json.dumps(dict(zip("qp", row, strict=True)), ensure_ascii=ascii_only).encode() for row in rows]


def bad_object(draw: random.Random, good: bytes) -> bytes:
    """JSON that is no row, or has no text in it."""
    return draw.choice([draw.choice(NO_ROW), f'{{"q": {draw.choice(NO_TEXT)}, "p": "x"}}']).encode()


def no_object(draw: random.Random, good: bytes) -> bytes:
    """No JSON, or more than it can say."""
    twice = good[:-1] + b', "' + draw.choice([b"q", b"p"]) + b'": "again"}'
    wrong = good.replace(b'"q": "', b'"q": "' + draw.choice(NO_UTF8))
    return draw.choice([draw.choice(NO_JSON).encode(), twice, wrong, good[: draw.randrange(1, len(good))]])


def a_bad_line(draw: random.Random, rows: Rows) -> Drawn:
    objects, row = json_objects(draw, rows), draw.randrange(ROWS)
    objects[row] = draw.choice([bad_object, no_object])(draw, objects[row])
    return [line + b"\n" for line in objects], exactly(rows, [row])


def no_lines_of_ours(draw: random.Random, rows: Rows) -> Drawn:
    return as_another_encoding(draw, b"\n".join(json_objects(draw, rows)).decode(), rows)


def lines_that_are_good(draw: random.Random, rows: Rows) -> Drawn:
    end = draw.choice([b"\n", b"\r\n", b"\n\n", b" \n"])
    return [draw.choice([b"", b"\xef\xbb\xbf", b"\n"]), end.join(json_objects(draw, rows))], exactly(rows, [])


def another_byte_in_a_line(draw: random.Random, rows: Rows) -> Drawn:
    pieces, touched = with_flip(draw, [line + b"\n" for line in json_objects(draw, rows)])
    return pieces, at_most(rows, touched)


def json_list(objects: list[bytes]) -> bytes:
    return b"[" + b",\n".join(objects) + b"]"


def a_bad_element(draw: random.Random, rows: Rows) -> Drawn:
    objects, row = json_objects(draw, rows), draw.randrange(ROWS)
    objects[row] = bad_object(draw, objects[row])
    check = None if b"999" in objects[row] else exactly(rows, [row])  # where Python's parser stops, all does
    return [json_list(objects)], check


def no_element(draw: random.Random, rows: Rows) -> Drawn:
    objects, row = json_objects(draw, rows), draw.randrange(ROWS)
    objects[row] = no_object(draw, objects[row])
    return [json_list(objects)], None


def no_list(draw: random.Random, rows: Rows) -> Drawn:
    objects = json_objects(draw, rows)
    whole = json_list(objects)
    cut = whole[: draw.randrange(1, len(whole))]
    more = whole + draw.choice([whole, b"]", b",", b"{}", b"x", b"\0"])
    others = [b"{}", b"3", b"null", b"[", objects[0], b"\n".join(objects), whole.decode().encode("utf-32")]
    return [draw.choice([cut, more, draw.choice(others)])], None


def a_list_that_is_good(draw: random.Random, rows: Rows) -> Drawn:
    return [draw.choice([b"", b"\xef\xbb\xbf", b"\n\t "]), json_list(json_objects(draw, rows)), b" \n"], exactly(
        rows, []
    )


def another_byte_in_a_list(draw: random.Random, rows: Rows) -> Drawn:
    *first, last = json_objects(draw, rows)
    pieces, touched = with_flip(draw, [*(piece + b"," for piece in first), last])
    return [b"[", *pieces, b"]"], at_most(rows, touched)


# Parquet


def as_parquet(draw: random.Random, q: pa.Array, rows: Rows) -> bytes:
    sink, group = io.BytesIO(), draw.choice([1, 4, 100])
    table = pa.table({"q": q, "p": [p for _, p in rows]})
    pq.write_table(table, sink, row_group_size=group, write_page_checksum=True)
    return sink.getvalue()


def a_column_of_texts(draw: random.Random, rows: Rows) -> Drawn:
    kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
    return [as_parquet(draw, pa.array([q for q, _ in rows]).cast(draw.choice(kinds)), rows)], exactly(rows, [])


def a_column_of_something_else(draw: random.Random, rows: Rows) -> Drawn:
    value = draw.choice([[1], {"a": 1}, True, b"\xff", [None], ["x"]])
    return [as_parquet(draw, pa.array([value] * ROWS), rows)], exactly(rows, range(ROWS))


def a_cell_with_a_nul(draw: random.Random, rows: Rows) -> Drawn:
    row = draw.randrange(ROWS)
    column = pa.array([f"{q}\0" if number == row else q for number, (q, _) in enumerate(rows)])
    return [as_parquet(draw, column, rows)], exactly(rows, [row])


def cut_parquet(draw: random.Random, rows: Rows) -> Drawn:
    data = as_parquet(draw, pa.array([q for q, _ in rows]), rows)
    return [data[: draw.randrange(len(data))]], None


def other_bytes(draw: random.Random, rows: Rows) -> Drawn:
    data = bytearray(as_parquet(draw, pa.array([q for q, _ in rows]), rows))
    for _ in range(draw.randrange(1, 4)):
        data[draw.randrange(len(data) * 3 // 4)] ^= 1 << draw.randrange(8)
    return [bytes(data)], at_most(rows, [])


TABLES: dict[str, list[Mutation]] = {
    "csv": with_separator(","),
    "tsv": with_separator("\t"),
    "jsonl": [*[a_bad_line] * 4, no_lines_of_ours, lines_that_are_good, *[another_byte_in_a_line] * 3],
    "json": [*[a_bad_element] * 2, *[no_element] * 2, *[no_list] * 2, a_list_that_is_good, another_byte_in_a_list],
    "parquet": [a_column_of_texts, a_column_of_something_else, a_cell_with_a_nul, cut_parquet, *[other_bytes] * 2],
}


# Dialogues of stage 1


def turns(*texts: Any) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


NO_CONTENT = [None, "", " ", 3, True, {}, [], [None], [[]], ["x"], [{"type": "video"}], [{"type": "text"}]]
NO_CONTENT += ["half \ud800", "nul \0", "<image> of nothing", [{"type": "image"}], {"text": "x"}]
NO_CONTENT += [[{"type": "text", "text": "\udfff"}], [{"type": "text", "text": 3}]]
NO_MESSAGES: list[Any] = [None, "x", 3, {}, [], [{}], ["x"], [None], [[]], turns("q"), turns("q", "a", "q")]
NO_ROLE = ("x", None, 3, [], "User", "tool", "assistant")
NO_MESSAGES += [[{"role": role, "content": "q"}, *turns("q", "a")[1:]] for role in NO_ROLE]
NO_MESSAGES += [[*turns("q", "a"), {"role": "system", "content": "x"}], [{"role": "system", "content": "x"}]]
NO_MESSAGES += [
    [{"content": "q"}, *turns("q", "a")[1:]],
    [{"role": "user"}, *turns("q", "a")[1:]],
    turns("q", "a")[::-1],
]
NO_MESSAGES += [turns(content, "a") for content in NO_CONTENT] + [turns("q", content) for content in NO_CONTENT]


def message_cases(number: int, draw: random.Random, folder: Path) -> Iterator[Case]:
    def read(path: Path) -> Read:
        bad = BadRows("skip")
        found = load_dialogues(path, on_bad_row=bad)
        return [(row["text"], row["messages"][1]["content"]) for row in found], set(bad.reasons)

    for place in range(number):
        rows, row = rows_of(draw), draw.randrange(ROWS)
        lines = [{"text": text, "messages": turns("What?", answer)} for text, answer in rows]
        lines[row]["messages"] = draw.choice(NO_MESSAGES)
        path = folder / f"messages{place}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        yield Case(f"messages {lines[row]['messages']!r:.80}", lambda f=path: read(f), exactly(rows, [row]))
