"""Every kind of input gives the rows it holds, literally, in any pieces."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hub_scripts.corpus import Columns, open_corpus


DEFAULT = Columns()
TEXTS = ["NA", "007", "2020-01-01", 'two\nlines, "quoted"', None, "null"]
IMAGES = ["a.png", None, "sub/b.png", None, "/c.png", None]


def read(path: Path, columns: Columns = DEFAULT, image_root: Path | None = None) -> list[dict]:
    corpus = open_corpus(path, columns, image_root)
    whole = corpus.read(0, corpus.num_rows)
    pieces = [corpus.read(start, min(start + 3, corpus.num_rows)) for start in range(0, corpus.num_rows, 3)]
    assert [row for piece in pieces for row in piece] == whole
    return whole


def quoted(value: str | None) -> str:
    return "" if value is None else '"' + value.replace('"', '""') + '"'


def write(folder: Path, suffix: str) -> Path:
    path = folder / f"table{suffix}"
    rows = [{"text": text, "image": image, "more": 1} for text, image in zip(TEXTS, IMAGES, strict=True)]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in rows))
    else:
        between = "\t" if suffix == ".tsv" else ","
        lines = [between.join([quoted(row["text"]), quoted(row["image"]), "1"]) for row in rows]
        path.write_text("\n".join([between.join(["text", "image", "more"]), *lines]) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables(tmp_path: Path, suffix: str) -> None:
    rows = read(write(tmp_path, suffix))
    assert [row["text"] for row in rows] == TEXTS
    assert [row["path"] for row in rows] == IMAGES
    assert [row["id"] for row in rows] == list("012345")
    assert rows[2]["image"] == str(tmp_path / "sub" / "b.png") and rows[4]["image"] == "/c.png"
    assert read(tmp_path / f"table{suffix}", image_root=Path("/root"))[0]["image"] == "/root/a.png"


def test_texts_that_look_like_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,title\n01,007\n02,1e5\n")
    rows = read(tmp_path / "t.csv", Columns(text="title"))
    assert [(row["id"], row["text"]) for row in rows] == [("01", "007"), ("02", "1e5")]


def test_columns_by_other_names(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "no", "title": "yes", "number": 5}\n{"title": "also", "number": 6}\n')
    rows = read(path, Columns(id="number", text="title"))
    assert [(row["id"], row["text"], row["image"]) for row in rows] == [("5", "yes", None), ("6", "also", None)]


def test_bytes_in_parquet(tmp_path: Path) -> None:
    stored = [{"bytes": b"one", "path": "a.png"}, {"bytes": None, "path": "b.png"}, None]
    pq.write_table(pa.table({"image": pa.array(stored), "raw": pa.array([b"x", None, b"y"])}), tmp_path / "t.parquet")
    rows = read(tmp_path / "t.parquet")
    assert [row["image"] for row in rows] == [b"one", str(tmp_path / "b.png"), None]
    assert [row["path"] for row in rows] == ["a.png", "b.png", None]
    assert [row["image"] for row in read(tmp_path / "t.parquet", Columns(image="raw"))] == [b"x", None, b"y"]


def test_lines_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes("one\r\ntwo\u2028and a half\n\nfour\n".encode())
    assert [row["text"] for row in read(tmp_path / "t.txt")] == ["one", "two\u2028and a half", "", "four"]


def test_folder_in_order_with_what_is_left_alone(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpg", "a/notes.md", "c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rows = read(tmp_path)
    assert [row["id"] for row in rows] == ["a/z.jpg", "b.PNG", "c.webp"]
    assert rows[0]["image"] == str(tmp_path / "a" / "z.jpg")
    assert open_corpus(tmp_path, DEFAULT).left_alone == 1


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("t.doc", "x", DEFAULT, "must be a folder of pictures or end with"),
        ("t.csv", "a,b\n1,2\n", DEFAULT, "No column is called text or image; name one of a, b"),
        ("t.csv", "text\nx\n", Columns(image="file"), "no column 'file'; there are text"),
        ("t.csv", "text\n", DEFAULT, "has no rows"),
        ("t.jsonl", '{"text": "x"}\n{"text": 1}\n', DEFAULT, "values of several types"),
        ("t.jsonl", '{"text": 1}\n', DEFAULT, "Column 'text' is int64 and not text"),
        ("t.jsonl", '{"text": "x"}\n{"text"\n', DEFAULT, "Line 2 of .* is not JSON"),
        ("t.jsonl", "[1]\n", DEFAULT, "Line 1 of .* is not an object"),
        ("folder", None, DEFAULT, "has no pictures"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, content: str, columns: Columns, message: str) -> None:
    path = tmp_path / name
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=message):
        open_corpus(path, columns)


def test_nothing_there() -> None:
    with pytest.raises(ValueError, match="nothing.csv is not there"):
        open_corpus(Path("nothing.csv"), DEFAULT)
