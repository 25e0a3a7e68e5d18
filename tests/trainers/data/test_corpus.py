"""Every kind of input gives the rows it holds, literally, in any pieces."""

import io
import json
import re
import tarfile
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from trainers.data.corpus import Columns, open_corpus
from trainers.data.pairs import PairColumns, load_pairs


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
    assert open_corpus(tmp_path, DEFAULT).left_alone.endswith(": 1 files are left alone: a/notes.md (no image)")


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("t.doc", "x", DEFAULT, "must be a folder of images or end with"),
        ("t.csv", "a,b\n1,2\n", DEFAULT, "No column is called text, image or video; name one of a, b"),
        ("t.csv", "text\nx\n", Columns(image="file"), "no column 'file'; there are text"),
        ("t.csv", "text\n", DEFAULT, "has no rows"),
        ("t.jsonl", "[1]\n", DEFAULT, "No row of t.jsonl can be read: line 1: found list"),
        ("t.jsonl", "", DEFAULT, "has no rows"),
        ("t.txt", "", DEFAULT, "has no rows"),
        ("t.txt", "x\n", Columns(text="line"), "no column 'line'; there are text"),
        ("t.json", '{"text": "x"}', DEFAULT, "must hold a list"),
        ("folder", None, DEFAULT, "has no images"),
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


def test_a_row_that_cannot_be_read_is_known_by_its_error(tmp_path: Path) -> None:
    lines = ['{"text": "x"}', '{"text"', "[1]", '{"text": [1]}', '{"text": true}', '{"image": 3}', '{"text": "y"}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    rows = read(tmp_path / "t.jsonl")
    assert [row["text"] for row in rows] == ["x", None, None, None, None, None, "y"]
    assert [row["id"] for row in rows] == list("0123456")
    told = [
        "line 2: .*not JSON",
        "line 3: found list",
        "column text: found list",
        "column text: found bool",
        "column image",
    ]
    for number, words in enumerate(told, 1):
        assert re.match(f"Row {number} of t.jsonl: {words}", rows[number]["error"])


NUMBERS = {
    "strings": pa.array(["1", None]),
    "large": pa.array(["1", None], pa.large_string()),
    "views": pa.array(["1", None], pa.string_view()),
    "categories": pa.array(["1", None]).dictionary_encode(),
    "integers": pa.array([1, None], pa.int16()),
    "decimals": pa.array([Decimal(1), None]),
}


@pytest.mark.parametrize("texts", NUMBERS.values(), ids=NUMBERS)
def test_texts_of_every_type_are_those_of_the_trainings(tmp_path: Path, texts: pa.Array) -> None:
    """`coma embed` and `load_pairs` read a column alike."""
    pq.write_table(pa.table({"text": texts, "other": pa.array(["a", "b"])}), tmp_path / "t.parquet")
    assert [row["text"] for row in read(tmp_path / "t.parquet")] == ["1", None]
    pairs = load_pairs(
        tmp_path / "t.parquet", PairColumns(query_text="text", positive_text="other"), on_bad_row="skip"
    )
    assert [row["query"]["text"] for row in pairs] == ["1"]


@pytest.mark.parametrize(
    "texts", [pa.array([True, None]), pa.array([b"x", None]), pa.array([[1], None]), pa.array([1.5, float("nan")])[1:]]
)
def test_types_that_are_no_texts(tmp_path: Path, texts: pa.Array) -> None:
    pq.write_table(pa.table({"text": texts, "image": ["a.png"] * len(texts)}), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet")[0]["error"].startswith("Row 0 of t.parquet: column text: found ")
    with pytest.raises(ValueError, match="^Row 0 of t.parquet is bad: column text: found "):
        load_pairs(tmp_path / "t.parquet", PairColumns(query_text="text", positive_image="image"))


def test_saved_data_sets_and_lists(tmp_path: Path) -> None:
    dataset = Dataset.from_dict({"text": ["a", "b"], "image": ["x.png", None]})
    dataset.save_to_disk(tmp_path / "saved")
    (tmp_path / "t.json").write_text(json.dumps(dataset.to_list()))
    for path, folder in ((tmp_path / "saved", tmp_path / "saved"), (tmp_path / "t.json", tmp_path)):
        rows = read(path)
        assert [(row["text"], row["image"]) for row in rows] == [("a", str(folder / "x.png")), ("b", None)]


def test_a_mark_of_byte_order_is_no_text(tmp_path: Path) -> None:
    for name, content in (("t.txt", "a\nb\n"), ("t.csv", "text\na\nb\n"), ("t.jsonl", '{"text": "a"}\n{"text": "b"}')):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert [row["text"] for row in read(tmp_path / name)] == ["a", "b"]
        (tmp_path / name).write_text(content, encoding="utf-16")
        assert [row["text"] for row in read(tmp_path / name)] == ["a", "b"]


def test_lines_that_are_no_texts(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes("é\n".encode() + b"caf\xe9\nt\0o\nfour")
    rows = read(tmp_path / "t.txt")
    assert [row["text"] for row in rows] == ["é", None, None, "four"]
    assert (
        "not UTF-8" in rows[1]["error"] and "NUL" in rows[2]["error"] and rows[2]["error"].startswith("Row 2 of t.txt")
    )


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".json", "", ".tar"])
def test_rows_from_any_number_on(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": f"row {number}"} for number in range(1000)]
    path = tmp_path / f"t{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=90)
    elif suffix == ".tar":
        with tarfile.open(path, "w") as tar:
            for row in rows:
                info = tarfile.TarInfo(f"{row['text']}.txt")
                info.size = len(row["text"])
                tar.addfile(info, io.BytesIO(row["text"].encode()))
    else:
        write_as = {".csv": "to_csv", ".jsonl": "to_json", "": "save_to_disk"}[suffix]
        getattr(Dataset.from_list(rows), write_as)(path)
    corpus = open_corpus(path, DEFAULT)
    for start, stop in ((0, 300), (300, 700), (5, 6), (990, 1000), (0, 1000), (1000, 1000)):
        assert [row["text"] for row in corpus.read(start, stop)] == [row["text"] for row in rows[start:stop]]
        names = [f"t.tar/{row['text']}" if suffix == ".tar" else str(number) for number, row in enumerate(rows)]
        assert [row["id"] for row in corpus.read(start, stop)] == names[start:stop]


def test_a_file_that_changes_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\na\nb\nc\n")
    corpus = open_corpus(tmp_path / "t.csv", DEFAULT)
    (tmp_path / "t.csv").write_text("text\na\n")
    with pytest.raises(ValueError, match="t.csv has changed while it was read: it ends at row 1"):
        corpus.read(0, 3)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for number in (2_000, 20_000):
        (tmp_path / "t.csv").write_text("text\n" + f"{'words ' * 100}\n" * number)
        tracemalloc.start()
        corpus = open_corpus(tmp_path / "t.csv", DEFAULT)
        for start in range(0, number, 500):
            corpus.read(start, start + 500)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
