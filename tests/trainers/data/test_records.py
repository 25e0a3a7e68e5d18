"""Every kind of file gives the same records, one by one, and a bad one does not take the others with it."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from trainers.data.records import open_records


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
