"""A table of text has the rows that were written into it, and no others, whatever is in its fields."""

import csv
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainers.data.corpus import Columns, open_corpus
from trainers.data.pairs import PairColumns, load_pairs
from trainers.data.rows import BadRows
from trainers.data.tables import open_records


LETTER = "Dear Sir, thank you for your letter\n" * 4000  # longer than what the module csv takes
COLUMNS = PairColumns(query_text="q", positive_text="p")


def load(path: Path, bad_rows: str | BadRows = "raise") -> list[tuple[str, str]]:
    rows = load_pairs(path, COLUMNS, on_bad_row=bad_rows)
    return [(row["query"]["text"], row["positive"]["text"]) for row in rows]


def read(path: Path, **columns: str) -> list[dict]:
    corpus = open_corpus(path, Columns(**columns))
    return corpus.read(0, corpus.num_rows)


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_fields_of_any_length(tmp_path: Path, policy: str) -> None:
    rows = [("a", "b"), ("letter", LETTER), ("c", "d")]
    with (tmp_path / "p.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("q", "p"), *rows])
    bad_rows = BadRows(policy)
    assert load(tmp_path / "p.csv", bad_rows) == rows and bad_rows.skipped == 0
    assert [row["text"] for row in read(tmp_path / "p.csv", text="p")] == [text for _, text in rows]


ALPHABET = ["a", "ü", "7", " ", '"', ",", "\t", "\n", "\r", "\r\n", ";", "\u2028", "NA", '""']


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_whatever_is_written_is_read(tmp_path: Path, separator: str, end: str) -> None:
    """Two hundred tables of random texts, as the module csv writes them."""
    draw, path = random.Random(0), tmp_path / f"t.{'csv' if separator == ',' else 'tsv'}"
    for _ in range(200):
        names = ["one", "two", "three"][: draw.randint(1, 3)]
        rows = [["".join(draw.choices(ALPHABET, k=draw.randint(0, 6))) for _ in names] for _ in range(5)]
        rows = [[f"x{row[0]}", *row[1:]] for row in rows]  # no blank line, and no blanks before a quote
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([names, *rows])
        assert list(open_records(path).rows()) == [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.parametrize("columns", [2, 3])
def test_a_quote_too_many_or_too_few_is_never_silent(tmp_path: Path, columns: int) -> None:
    """A quote at any place: the rows are those of the file, or reading ends."""
    rows = [["a b", 'say "hi"', "c"], ["d", "two\nlines, and more", "e"], ["f", "", "g"], ["h", "i", "j"]]
    rows = [row[:columns] for row in rows]
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["one", "two", "three"][:columns], *rows])
    whole = path.read_text()
    places = range(whole.index("\n") + 1, len(whole) + 1)
    changed = [whole[:place] + '"' + whole[place:] for place in places]
    changed += [whole[:place] + whole[place + 1 :] for place in places if whole[place : place + 1] == '"']
    for content in changed:
        path.write_text(content)
        with pytest.raises(ValueError, match=r"t\.csv: lines? \d"):
            list(open_records(path).rows())


ENDS_READING = {
    "never closed": ('q,p\na,b\nc,"d\ne,f\ng,h\n', "line 3: found a quote that is opened there and never closed"),
    "closed in a later row": ('q,p\na,"b\nc,d\n"e",f\n', "opened in line 2"),
    "an odd number in the line": ('q,p\na,"5" long"\nc,d\n', "line 2: found no row"),
    "the rest of a field, later": ('q,p\na,"5" long\nc,d\ne",f\n', "line 4: found a quote in '"),
    "a field of lines, later": ('q,p\n"5" long,x\nc,"d\ne"\n', "line 4: found a field from line 3 to line 4"),
}


@pytest.mark.parametrize(("content", "message"), ENDS_READING.values(), ids=ENDS_READING)
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_where_nobody_knows_where_rows_begin(tmp_path: Path, content: str, message: str, policy: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    match = message if policy == "skip" else ""  # the bad row before it is named first
    with pytest.raises(ValueError, match=f"t.csv.*{match}"):
        load(tmp_path / "t.csv", policy)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "t.csv", text="q")


SKIPPED = {
    "after a quote": ('a,"b"c', "line 3: found no row"),
    "twice after a quote": ('a,"say "hi" to"', "line 3: found no row"),
    "blanks before a quote": ('a, "b"', "line 3: found no row .blanks before the quote"),
    "a carriage return": ("a,b\rc,d", "line 3: found a carriage return in the middle of a row"),
    "too few": ('"a\nb"', "lines 3 to 4: found 1 values, expected 2"),
}


@pytest.mark.parametrize(("line", "message"), SKIPPED.values(), ids=SKIPPED)
def test_a_bad_row_between_good_ones(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(f"q,p\n1,2\n{line}\n3,4\n".encode())
    bad_rows = BadRows("skip")
    assert load(tmp_path / "t.csv", bad_rows) == [("1", "2"), ("3", "4")]
    assert list(bad_rows.reasons) == [1] and bad_rows.reasons[1].startswith(message.replace(".", "(")[:20])
    with pytest.raises(ValueError, match=f"^Row 1 of t.csv is bad: {message}"):
        load(tmp_path / "t.csv")
    rows = read(tmp_path / "t.csv", text="q")
    assert [row["text"] for row in rows] == ["1", None, "3"] and [row["id"] for row in rows] == list("012")
    assert rows[1]["error"].startswith("Row 1 of t.csv: line") and rows[0]["error"] is None


LITERAL = ["007", "1e5", "NA", "null", "None", "True", "nan", "2020-01-01", '5" screen', "'a'", "#x", "0x1F"]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_whatever_it_looks_like_a_text_is_a_text(tmp_path: Path, kind: str) -> None:
    path, separator = tmp_path / f"t.{kind}", "," if kind == "csv" else "\t"
    path.write_text(
        "".join(f"{text}{separator}x\n" for text in ["q", *LITERAL]).replace("q,x", "q,p").replace("q\tx", "q\tp")
    )
    assert [query for query, _ in load(path)] == LITERAL
    assert [row["text"] for row in read(path, text="q")] == LITERAL


def test_the_column_of_numbers_that_pandas_writes(tmp_path: Path) -> None:
    """Its name is empty: nothing reads it, and it is in nobody's way. Other columns without a name are refused."""
    (tmp_path / "t.csv").write_text(',q,p\n0,a,b\n1,"c,d",e\n')
    assert load(tmp_path / "t.csv") == [("a", "b"), ("c,d", "e")]
    assert [row["text"] for row in read(tmp_path / "t.csv", text="q")] == ["a", "c,d"]
    (tmp_path / "t.csv").write_text(",,q,p\n")
    with pytest.raises(ValueError, match="must name every column"):
        load(tmp_path / "t.csv")


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty: its first line must name the columns"),
    "blank": (b"\n\r\n\n", "is empty"),
    "twice": (b"text,text\na,b\n", "must name every column, each in another way"),
    "no name": (b"text,\na,b\n", "must name every column"),
    "semicolons": (b"text;image\na,b\n", "'text;image', names one column, or several with ';' .*--csv-separator"),
    "tabs": (b"text\timage\na\n", r"or several with '.t' between them"),
    "either separator": (b"text;x,image\na;x,b\n", "separated by ',' or ';': say which, --csv-separator"),
    "UTF-32": ("text,image\n".encode("utf-32"), "is UTF-32"),
    "either encoding": (
        "text,image\ncr\xe8me,b\n".encode("cp1252"),
        "'crème' as cp1252, 'crčme' as cp1250.*--encoding",
    ),
    "no known encoding": ("text,image\nкошка,b\n".encode("cp1251"), "does not tell .*--encoding, .* cp1251 .Cyr"),
    "header only": (b"text,image\n", "has no r"),
    "quotes": (b'"text"s,image\n', "first line must name the columns: line 1: found no row"),
}


@pytest.mark.parametrize(("content", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_tables_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    reads: list[Callable] = [
        lambda: open_corpus(tmp_path / "t.csv", Columns()),
        lambda: load_pairs(tmp_path / "t.csv", PairColumns(query_text="text", positive_text="image")),
    ]
    for attempt in reads:
        with pytest.raises(ValueError, match=message) as error:
            attempt()
        assert "t.csv" in str(error.value)


def test_marks_line_ends_and_blank_lines(tmp_path: Path) -> None:
    for content in (
        b"\xef\xbb\xbfq,p\r\n1,2\r\n\r\n3,4",
        b"\nq,p\n1,2\n\n\n3,4\n\n",
        b"q,p\r1,2\r3,4\r",
        b"q,p\r\r\n1,2\r\r\n3,4\r\r\n",
        b'"q","p"\n"1","2"\n3,4\n',
    ):
        (tmp_path / "t.csv").write_bytes(content)
        assert list(open_records(tmp_path / "t.csv").rows()) == [{"q": "1", "p": "2"}, {"q": "3", "p": "4"}]


def test_the_limit_of_other_readers_is_never_lowered(tmp_path: Path) -> None:
    """The module csv has one limit of fields for the whole process."""
    before = csv.field_size_limit(10**9)
    try:
        (tmp_path / "t.csv").write_text("q,p\na,b\n")
        assert list(open_records(tmp_path / "t.csv").rows()) == [{"q": "a", "p": "b"}]
        assert csv.field_size_limit() == 10**9
    finally:
        csv.field_size_limit(before)


def test_line_ends_within_a_header(tmp_path: Path) -> None:
    """The end of a row is that after the header, not one in a name."""
    (tmp_path / "t.csv").write_bytes(b'"q\r1",p\na,"b\rc"\n')
    assert list(open_records(tmp_path / "t.csv").rows()) == [{"q\r1": "a", "p": "b\rc"}]


@pytest.mark.parametrize("field", ['"\n"', 'x"y', '""""', '5" and 6"', "x"])
def test_quotes_are_read_in_linear_time(tmp_path: Path, field: str) -> None:
    """A row of very many fields, between quotes or with quotes in them."""
    (tmp_path / "t.csv").write_text("q,p\n" + ",".join([field] * 100_000) + "\na,b\n")
    start = time.process_time()
    bad, good = open_records(tmp_path / "t.csv").rows()
    assert "found 100000 values, expected 2" in str(bad) and good == {"q": "a", "p": "b"}
    assert time.process_time() - start < 5  # in the square of their number it takes minutes
