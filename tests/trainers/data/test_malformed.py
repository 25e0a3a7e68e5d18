"""Over two hundred malformed rows: each is named with its row, its column, what was found and what was expected, and
the good rows around it survive where bad ones are skipped. (Broken images: `test_malformed_images.py`.)
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from datasets import Dataset

from trainers.data.dialogues import DialogueColumns, load_dialogues
from trainers.data.llava import load_coma_sft, load_llava
from trainers.data.mmeb.train import load_mmeb_train
from trainers.data.pairs import PairColumns, load_pairs, load_triplets
from trainers.data.rows import BadRows


class Case(NamedTuple):
    """A format, what is bad in a row that is good otherwise (`...` removes a column), and what must be said of it."""

    source: str
    bad: dict[str, Any] | bytes
    column: str
    found: str


def turns(*texts: Any) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def talk(*texts: Any) -> list[dict[str, Any]]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


GOOD: dict[str, dict[str, Any]] = {
    "messages": {"images": ["a.png"], "text": None, "messages": turns("q", "a", "q", "a")},
    "columns": {"image": "a.png", "q": "What is it?", "a": "A cat."},
    "llava": {"id": "0", "image": "a.png", "conversations": talk("<image>\nq", "a", "q", "a")},
    "coma": {"id": 0, "image": "a.png", "conversations": talk("q", "a", "q", "a")},
    "pairs": {"q": "query", "qi": "a.png", "p": "positive", "n": ["x", "y"], "ni": [None, "a.png"], "s": "source"},
    "ready": {"query": {"text": "q", "image": "a.png"}, "positive": {"text": "p"}, "negatives": [{"text": "n"}]},
    "triplets": {"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": {"text": "n", "image": "a.png"}},
    "mmeb": {
        "qry": "<|image_1|>\nq",
        "qry_image_path": "a.png",
        "pos_text": "p",
        "pos_image_path": "",
        "neg_text": "n",
        "neg_image_path": "",
    },
}
LOAD: dict[str, Callable] = {
    "messages": load_dialogues,
    "columns": lambda source, **kwargs: load_dialogues(
        source, columns=DialogueColumns(images="image", question="q", answer="a"), **kwargs
    ),
    "llava": load_llava,
    "coma": load_coma_sft,
    "pairs": lambda source, **kwargs: load_pairs(source, PairColumns("q", "qi", "p", None, "n", "ni", "s"), **kwargs),
    "ready": load_pairs,
    "triplets": load_triplets,
    "mmeb": lambda source, **kwargs: load_mmeb_train(source.parent.parent, ["CIRR"], **kwargs),
}

LONE = "half of a smile \ud83d"  # JSON can say it, UTF-8 cannot
# What no image can be, as a value of JSON.
NO_PICTURE = [
    3,
    1.5,
    True,
    {"a": 1},
    {"path": 3},
    "http://host/a.png",
    "https://host/a.png",
    "s3://bucket/a.png",
    "data:image/png,abc",
    "data:image/png;base64,@@@",
    "data:image/png;base64,",
    "a\0.png",
    "  ",
    f"{LONE}.png",
]
NO_MESSAGES = [None, 3, "q", {}, {"role": "user"}, ["q", "a"], [["q", "a"]], [None]]
NO_TEXT = [3, 1.5, True, [], {}, ["a"]]


def of_dialogues() -> Iterator[Case]:
    for value in NO_PICTURE:
        yield Case("messages", {"images": [value]}, r"images\[0\]", "")
        yield Case("llava", {"image": value}, "image", "")
    yield Case("messages", {"images": ["a.png", None]}, r"images\[1\]", "nothing")
    yield Case("messages", {"images": ["a.png", ""]}, r"images\[1\]", "nothing")
    yield Case("columns", {"image": 3}, "image", "int 3")
    yield Case("coma", {"image": {"bytes": None, "path": 3}}, "image", "int 3")
    for value in NO_TEXT:
        yield Case("messages", {"text": value}, "text", type(value).__name__)
    yield Case("messages", {"text": LONE}, "text", ".*not UTF-8")
    yield Case("messages", {"images": None}, "images, text", "neither of them")
    yield Case("messages", {"images": [], "text": " "}, "images, text", "neither of them")
    yield Case("llava", {"image": None, "conversations": talk("q", "a")}, "images, text", "neither")
    yield Case("coma", {"image": ...}, "images, text", "neither")
    for source, column in (("messages", "messages"), ("llava", "conversations"), ("coma", "conversations")):
        yield Case(source, {column: ...}, column, "nothing" if column == "conversations" else "a row with")
        for value in NO_MESSAGES:
            yield Case(source, {column: value}, column, "")
    yield from of_turns()


def of_turns() -> Iterator[Case]:
    odd = {  # order of roles -> the message that is wrong, if one is
        "": None,
        "u": None,
        "a": 0,
        "au": 0,
        "uu": 1,
        "uaa": 2,
        "uau": None,
        "uaua a": 4,
        "s": None,
        "su": None,
        "sa": 1,
        "usa": 1,
        "uas": 2,
        "ssua": 1,
        "uuaa": 1,
    }
    names = {
        "messages": {"u": "user", "a": "assistant", "s": "system"},
        "llava": {"u": "human", "a": "gpt", "s": "system"},
    }
    for order, wrong in odd.items():
        for source, column, role, text in (
            ("messages", "messages", "role", "content"),
            ("llava", "conversations", "from", "value"),
        ):
            rows = [
                {role: names[source][who], text: "<image>" * (not n and source == "llava") + "x"}
                for n, who in enumerate(order.replace(" ", ""))
            ]
            if source == "llava" and not rows:
                continue  # has no placeholder either
            yield Case(source, {column: rows}, column if wrong is None else rf"{column}\[{wrong}\]\.{role}", "")
    for source, column, role, text in (
        ("messages", "messages", "role", "content"),
        ("coma", "conversations", "from", "value"),
    ):
        good = GOOD[source][column]
        for value in (None, 3, "robot", "USER", ["user"], "tool"):
            yield Case(source, {column: [{**good[0], role: value}, *good[1:]]}, rf"{column}\[0\]\.{role}", "")
        for value in (None, 3, "", " \n", [], {"text": "a"}, LONE):
            yield Case(source, {column: [*good[:3], {**good[3], text: value}]}, rf"{column}\[3\]\.{text}", "")
    for block in (
        3,
        "text",
        {"text": "a"},
        {"type": "audio"},
        {"type": "text"},
        {"type": "text", "text": 3},
        {"type": "image_url", "image_url": {"url": "http://host/a.png"}},
        {"type": "image", "image": 3},
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "image", "base64": "?"},
    ):
        yield Case(
            "messages",
            {"messages": turns([{"type": "text", "text": "q"}, block], "a")},
            r"messages\[0\]\.content\[1\]",
            "",
        )


def of_placeholders() -> Iterator[Case]:
    pictures = {0: None, 1: "a.png", 2: ["a.png", "a.png"]}
    for count, number in ((2, 1), (1, 0), (3, 2), (1, 2), (9, 1)):
        found = f"{count} placeholders for images, expected one for each of the {number} images$"
        text = "<image>" * count + "q"
        blocks = [*[{"type": "image"}] * count, {"type": "text", "text": "q"}]
        for source, name, column, messages in (
            ("llava", "image", "conversations", talk(text, "a")),
            ("coma", "image", "conversations", talk("q", "a", text, "a")),
            ("messages", "images", "messages", turns(blocks, "a")),
        ):
            yield Case(source, {name: pictures[number], column: messages}, column, found)
    yield Case("llava", {"conversations": talk("q", "a")}, "conversations", "0 placeholders")
    for text, image in (
        ("<|image_1|>q", ""),
        ("<|image_1|><|image_1|>q", "a.png"),
        ("<|image_1|><|image_2|>q", "a.png"),
        ("<|image_2|>q", "a.png"),
    ):
        yield Case("mmeb", {"qry": text, "qry_image_path": image}, "qry", r"\d marks and")
    yield Case("mmeb", {"pos_text": "<|image_1|>"}, "pos_text", "1 marks and no image")
    yield Case("mmeb", {"neg_text": ["n", "<|image_1|>"]}, r"neg_text\[1\]", "1 marks and no image")


def of_pairs() -> Iterator[Case]:
    for value in NO_PICTURE:
        yield Case("pairs", {"qi": value}, "qi", "")
    for value in NO_TEXT[2:]:
        yield Case("pairs", {"p": value}, "p", type(value).__name__)
        yield Case("triplets", {"positive": {"text": value}}, r"positive\.text", type(value).__name__)
    yield Case("pairs", {"p": float("nan")}, "p", "float nan")
    yield Case("pairs", {"p": LONE}, "p", ".*not UTF-8")
    yield Case("pairs", {"s": LONE}, "s", ".*not UTF-8")
    yield Case("pairs", {"p": ...}, "positive", "a row with the columns")
    yield Case("pairs", {"p": ""}, "p and positive_image", "neither")
    yield Case("pairs", {"q": None, "qi": ""}, "q and qi", "neither")
    yield Case("pairs", {"q": ..., "qi": ...}, "query", "a row with the columns")
    yield Case("pairs", {"n": ["x", 3.5, True]}, r"n\[2\]", "bool True")
    yield Case("pairs", {"n": {"text": "x"}}, r"n\[0\]", "dict")
    yield Case("pairs", {"ni": [None, {"url": "a.png"}]}, r"ni\[1\]", "dict")
    yield Case("pairs", {"n": ["x", " "], "ni": None}, r"n\[1\] and ni\[1\]", "neither")
    yield Case("pairs", {"s": [1]}, "s", "list")
    for column in ("query", "positive"):
        for value in (
            None,
            "",
            {},
            {"text": ""},
            {"text": None, "image": ""},
            3,
            {"image": 3},
            {"text": "a", "image": "http://a"},
        ):
            yield Case("ready", {column: value}, column, "")
    for value in (3, "n", {"text": "n"}, [None], [{}], [{"text": "n"}, {"text": ""}]):
        yield Case("ready", {"negatives": value}, "negatives", "")
    yield Case("ready", {"source": ["s"]}, "source", "list")
    yield Case("ready", {"messages": turns("q")}, "messages", "1 messages")
    for name, value in (
        ("anchor", ...),
        ("anchor", None),
        ("anchor", ""),
        ("positive", ...),
        ("positive", 3),
        ("positive", []),
        ("negative_1", " "),
        ("negative_2", 3),
        ("negative_2", {"text": ""}),
        ("negative_1", LONE),
    ):
        yield Case("triplets", {name: value}, name, "")


def of_mmeb() -> Iterator[Case]:
    for column in ("qry", "pos_text"):
        yield Case("mmeb", {column: 3}, column, "int 3")
        yield Case("mmeb", {column: ["a"]}, column, "list")
    for column, value in (
        ("qry_image_path", 3),
        ("qry_image_path", ["a.png"]),
        ("pos_image_path", "https://host/a.png"),
    ):
        yield Case("mmeb", {column: value}, column, "")
    yield Case("mmeb", {"pos_text": "", "pos_image_path": ""}, "pos_text and pos_image_path", "neither")
    yield Case("mmeb", {"qry": "", "qry_image_path": ""}, "qry and qry_image_path", "neither")
    yield Case("mmeb", {"pos_text": ..., "pos_image_path": ...}, "pos_text and pos_image_path", "neither")
    for value in (
        "['a' 'b']",
        "[a, b]",
        "['a', ",
        "[open('x')]",
        "['a']]",
        "[__import__('os')]",
        "['a'\n 'b']",
        "[1, 2]",
        "['a', ['b']]",
    ):
        if value.endswith("]"):
            yield Case("mmeb", {"neg_text": value}, "neg_text", "")
    for value in (3, {"a": 1}, ["a", 3], [["a"]]):
        yield Case("mmeb", {"neg_text": value}, r"neg_text\[\d\]", "")


CASES = [*of_dialogues(), *of_placeholders(), *of_pairs(), *of_mmeb()]


def write(folder: Path, source: str, lines: list[dict[str, Any] | bytes]) -> Path:
    file = folder / "CIRR" / "original.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return file


def test_there_are_two_hundred() -> None:
    assert len(CASES) + len(LINES) + 2 * len(TABLES) > 260


def check(load: Callable, message: str, good: int) -> None:
    """The message under `raise`; under `skip` all but one row, and the same message as the reason."""
    with pytest.raises(ValueError, match=message) as error:
        load(on_bad_row="raise")
    bad_rows = BadRows("skip")
    assert len(load(on_bad_row=bad_rows)) == good
    assert list(bad_rows.reasons) == [1] and str(error.value).endswith(bad_rows.reasons[1])
    assert ", expected " in bad_rows.reasons[1]


def bad_row(case: Case) -> dict[str, Any]:
    return {name: value for name, value in {**GOOD[case.source], **case.bad}.items() if value is not ...}


def load_rows(folder: Path, source: str, rows: list[dict[str, Any]], on_bad_row: str | BadRows) -> Dataset:
    (folder / "a.png").touch()  # the converter of MMEB looks whether images have been unpacked at all
    root = {} if source == "mmeb" else {"image_root": folder}
    return LOAD[source](write(folder, source, rows), **root, on_bad_row=on_bad_row)


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(f"{case.source}-{case.bad}")[1:80])
def test_a_malformed_row(case: Case, tmp_path: Path) -> None:
    good = GOOD[case.source]
    with pytest.raises(ValueError, match=rf"(?s)^Row 1 of \S+ is bad: column {case.column}.*?: found {case.found}"):
        load_rows(tmp_path, case.source, [good, bad_row(case), good], "raise")


@pytest.mark.parametrize("source", GOOD)
def test_the_good_rows_survive(source: str, tmp_path: Path) -> None:
    cases, good, bad_rows = [case for case in CASES if case.source == source], GOOD[source], BadRows("skip")
    rows = [row for case in cases for row in (good, bad_row(case))]
    survived = load_rows(tmp_path, source, rows, bad_rows).with_format("arrow")[:]
    assert survived == load_rows(tmp_path, source, [good] * len(cases), "raise").with_format("arrow")[:]
    assert bad_rows.skipped == len(cases) == len(bad_rows.reasons)
    for number, (case, (row, reason)) in enumerate(zip(cases, bad_rows.reasons.items(), strict=True)):
        assert str(row).endswith(str(2 * number + 1))
        assert re.match(rf"(?s)column {case.column}.*?: found {case.found}", reason) and ", expected " in reason


LINES = {
    "no JSON": (b"no json", "not JSON"),
    "cut off": (b'{"q": "a", "p"', "not JSON"),
    "two objects": (b'{"q": "a"} {"q": "b"}', "not JSON"),
    "single quotes": (b"{'q': 'a'}", "not JSON"),
    "Latin-1": (b'{"q": "caf\xe9", "p": "' + "é".encode() + b'"}', "not UTF-8"),
    "UTF-16": ('{"q": "a"}'.encode("utf-16-le").replace(b"\n", b""), "not JSON"),
    "an image": (b"\x89PNG\r\x1a\x00\xff", "not UTF-8"),
    "a list": (b'["a", "b"]', "list"),
    "a text": (b'"a"', "'a'"),
    "a number": (b"3", "int 3"),
    "null": (b"null", "nothing"),
    "deep": (b"[" * 100_000, "not JSON"),
    "zeros": (b"\0\0\0\0", "not JSON"),
}


@pytest.mark.parametrize(("line", "found"), LINES.values(), ids=LINES)
def test_a_malformed_line(line: bytes, found: str, tmp_path: Path) -> None:
    good = b'{"q": "a", "p": "b"}'
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([good, line, good]))
    columns = PairColumns(query_text="q", positive_text="p")
    message = rf"^Row 1 of rows.jsonl is bad: line 2: found .*{found}.*, expected a JSON object"
    check(lambda **policy: load_pairs(tmp_path / "rows.jsonl", columns, **policy), message, good=2)


TABLES = {
    "too few values": (b"a", r"line 3: found 1 values, expected 2, one for each of \['q', 'p'\]"),
    "too many values": (b"a,b,c", "line 3: found 3 values, expected 2"),
    "Latin-1": ("é caf".encode() + b"\xe9,b", "column q: found .*not UTF-8, expected a text in UTF-8"),
    "an empty cell": (b"a,", "column p and positive_image: found neither a text nor an image"),
    "blanks": (b" ,b", "column q and query_image: found neither a text nor an image"),
    "more after a quote": (b'"a"b,c', r"line 3: found no row \('.+' expected after"),
}


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize(("line", "message"), TABLES.values(), ids=TABLES)
def test_a_malformed_line_of_a_table(line: bytes, message: str, kind: str, tmp_path: Path) -> None:
    content = b"\n".join([b"q,p", b"a,b", line, b"a,b"])
    (tmp_path / f"rows.{kind}").write_bytes(content.replace(b",", b"\t") if kind == "tsv" else content)
    columns = PairColumns(query_text="q", positive_text="p")
    check(lambda **policy: load_pairs(tmp_path / f"rows.{kind}", columns, **policy), f"^Row 1 .* is bad: {message}", 2)


def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('q,p\na,b\nc,"d\ne,f\n')
    columns = PairColumns(query_text="q", positive_text="p")
    for policy in ("raise", "skip"):  # nobody knows how many rows it has swallowed
        with pytest.raises(
            ValueError, match=r"rows\.csv: line 3: found a quote that is opened there and never closed"
        ):
            load_pairs(tmp_path / "rows.csv", columns, on_bad_row=policy)


def test_a_column_of_another_type(tmp_path: Path) -> None:
    Dataset.from_dict({"images": [[1], [2]], "messages": ["q", "a"]}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(
        ValueError, match=r"^Row 0 of rows.parquet is bad: column images\[0\]: found int 1, expected a path"
    ):
        load_dialogues(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"has no row that can be used. column images\[0\]: found int 1"):
        load_dialogues(tmp_path / "rows.parquet", on_bad_row="skip")
