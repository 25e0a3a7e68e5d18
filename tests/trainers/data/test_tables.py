"""Every kind of file gives the same records, one by one, and a bad one does not take the others with it."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from trainers.data.pairs import PairColumns, load_pairs
from trainers.data.rows import BadRows
from trainers.data.tables import open_records


ROWS = [{"a": "1", "b": "NA"}, {"a": "two, 'x'", "b": "ü\nnext line"}, {"a": "", "b": "null"}]


def write(folder: Path, kind: str) -> str | Dataset:
    path, dataset = folder / f"rows.{kind}", Dataset.from_list(ROWS)
    if kind in ("csv", "tsv"):
        dataset.to_csv(path, sep="\t" if kind == "tsv" else ",")
    elif kind == "jsonl":
        dataset.to_json(path, force_ascii=False)
    elif kind == "json":
        path.write_text(json.dumps(ROWS, indent=2), encoding="utf-8")
    elif kind == "parquet":
        dataset.to_parquet(path)
    elif kind == "folder":
        dataset.save_to_disk(path)
    else:
        return dataset
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet", "folder", "dataset"])
def test_every_kind_gives_the_same_records(tmp_path: Path, kind: str) -> None:
    records = open_records(write(tmp_path, kind))
    assert list(records.rows()) == ROWS == list(records.rows())
    assert records.columns == (None if kind in ("jsonl", "json") else ["a", "b"])
    assert records.name == ("the data set" if kind == "dataset" else f"rows.{kind}")


def test_marks_of_byte_order_blank_lines_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}')
    assert list(open_records(tmp_path / "a.jsonl").rows()) == [{"a": 1}, {"a": 2}]
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4\r\n")
    assert list(open_records(tmp_path / "a.csv").rows()) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf [ ]\n")
    assert list(open_records(tmp_path / "a.json").rows()) == []


def test_the_identity_changes_with_the_content(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}')
    first = open_records(file).identity
    assert open_records(file).identity == first
    file.write_text('{"a": 10}')
    assert open_records(file).identity != first
    dataset = Dataset.from_list(ROWS)
    assert open_records(dataset).identity != open_records(dataset.select([0])).identity


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xls", b"", "must be a folder of `save_to_disk`, or a file that ends with .csv"),
        ("a.parquet", b"PAR1 no", "cannot be read as Parquet"),
        ("a.json", b'{"a": 1}', "must hold a list"),
        ("a.json", b'[{"a": 1}, {"a": ]', "its row 1 is not JSON"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "after its row 0, found"),
        ("a.json", b'[{"a": 1}, {"a": "\xff"}]', "is not UTF-8"),
        ("a.json", b'[{"a": 1}', "after its row 0, found ''"),
        ("a.csv", b"a,a\n1,2\n", "must name every column, each in another way"),
        ("a.csv", b"a,\n1,2\n", "must name every column"),
    ],
)
def test_what_cannot_be_read_at_all_is_said(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(open_records(tmp_path / name).rows())


def test_what_is_no_table_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.csv")
    (tmp_path / "link.jsonl").symlink_to("nowhere")
    (tmp_path / "device.json").symlink_to("/dev/zero")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "several").mkdir()
    (tmp_path / "several" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    for source, message in (
        ("fifo.csv", "must be a file; it is a FIFO"),
        ("link.jsonl", "cannot be read: No such file"),
        ("device.json", "must be a file; it is a FIFO, a device"),
        ("missing.csv", "cannot be read: No such file"),
        ("folder.csv", "must be a folder of `save_to_disk`, or a file"),
        ("several", "several has several data sets"),
        ("x" * 5000 + ".csv", "File name too long"),
        ("a\0.csv", "null byte"),
    ):
        with pytest.raises(ValueError, match=message):
            open_records(tmp_path / source)
    with pytest.raises(ValueError, match="A list is no source of rows"):
        open_records([{"a": 1}])
    (tmp_path / "T.CSV").write_text("a\n1\n")
    assert list(open_records(tmp_path / "T.CSV").rows()) == [{"a": "1"}]


def test_labels_are_their_names(tmp_path: Path) -> None:
    """And not the numbers by which `datasets` stores them."""
    names = ClassLabel(names=["cat", "dog"])
    features = Features({"label": names, "many": List(names), "n": Value("int64")})
    dataset = Dataset.from_dict({"label": [1, 0, -1], "many": [[0, 1], [], None], "n": [1, 0, 2]}, features)
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "t.parquet")
    expected = [
        {"label": "dog", "many": ["cat", "dog"], "n": 1},
        {"label": "cat", "many": [], "n": 0},
        {"label": None, "many": None, "n": 2},
    ]
    for source in (dataset, tmp_path / "saved", tmp_path / "t.parquet"):
        assert list(open_records(source).rows()) == expected
        assert list(open_records(source).rows(["label"])) == [{"label": row["label"]} for row in expected]
    pairs = load_pairs(dataset, PairColumns(query_text="n", positive_text="label"), on_bad_row="skip")
    assert list(pairs["positive"]) == [{"text": "dog", "image": None}, {"text": "cat", "image": None}]


def test_values_that_cannot_be_read_are_bad_rows(tmp_path: Path) -> None:
    raw = pa.array([b"a", b"\xff", b"c"])
    broken = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    times = pa.array([0, 2**62, 1], pa.timestamp("s"))
    pq.write_table(pa.table({"a": broken, "b": ["x", "y", "z"]}), tmp_path / "texts.parquet")
    pq.write_table(
        pa.table({"a": times.cast(pa.int64()).view(pa.timestamp("ms")), "b": ["x"] * 3}), tmp_path / "t.parquet"
    )
    for name in ("texts.parquet", "t.parquet"):
        first, bad, last = open_records(tmp_path / name).rows()
        assert first["b"] and last["b"] and str(bad).startswith("column a: found a value that cannot be read")
        assert [row["b"] for row in open_records(tmp_path / name).rows(["b"])][1]  # nobody asked for the bad one


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    file, rows = tmp_path / "t.parquet", [f"text number {number} " * 20 for number in range(4000)]
    pq.write_table(pa.table({"query": rows, "positive": rows}), file, row_group_size=500, use_dictionary=False)
    whole = file.read_bytes()
    for content in (whole[:-100], whole[: len(whole) // 2], b"", b"PAR1" * 5):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"t\.parquet cannot be read as Parquet"):
            open_records(file)
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + b"\xff" * 2000 + whole[middle + 2000 :])
    for policy in ("raise", "skip"):
        with pytest.raises(ValueError, match=r"t\.parquet: from its row \d+ on it cannot be read: \S+"):
            load_pairs(file, PairColumns(query_text="query", positive_text="positive"), on_bad_row=policy)


def test_a_damaged_data_set_is_named(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    for name in ("state.json", "dataset_info.json", "data-00000-of-00001.arrow"):
        file = tmp_path / "saved" / name
        whole = file.read_bytes()
        for content in (whole[: len(whole) // 2], b"", b"{}"):
            if (name, content) == ("dataset_info.json", b"{}"):
                continue  # it lacks a description, and the columns have types without
            file.write_bytes(content)
            with pytest.raises(ValueError, match="saved cannot be read as a data set of `save_to_disk`"):
                list(open_records(tmp_path / "saved").rows())
        file.unlink()
        if name != "state.json":
            with pytest.raises(ValueError, match="saved cannot be read as a data set"):
                open_records(tmp_path / "saved")
        file.write_bytes(whole)


def test_columns_of_one_name(tmp_path: Path) -> None:
    pq.write_table(pa.table([["x"], ["y"]], names=["a", "a"]), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: its columns, \['a', 'a'\], must each have another name"):
        open_records(tmp_path / "t.parquet")


def test_a_text_is_a_table_of_lines(tmp_path: Path) -> None:
    """For trainings as for `coma embed`: one column, `text`, and a row for every line, blank ones too."""
    (tmp_path / "t.txt").write_bytes('one\r\nsay "hi", two\n\nü caf'.encode() + b"\xe9\n")
    records = open_records(tmp_path / "t.txt")
    assert records.columns == ["text"]
    assert [row["text"] for row in records.rows()][:3] == ["one", 'say "hi", two', ""]
    bad_rows = BadRows("skip")
    pairs = load_pairs(tmp_path / "t.txt", PairColumns(query_text="text", positive_text="text"), on_bad_row=bad_rows)
    assert [row["query"]["text"] for row in pairs] == ["one", 'say "hi", two']
    assert "neither a text nor an image" in bad_rows.reasons[2] and "not UTF-8" in bad_rows.reasons[3]
