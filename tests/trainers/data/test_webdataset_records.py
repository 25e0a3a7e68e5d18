"""Samples of WebDataset shards are rows of a corpus, each by its number, and bad ones are rows with an error."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trainers.data.corpus import Columns, open_corpus


DEFAULT = Columns()


def read(path: Path, columns: Columns = DEFAULT) -> list[dict]:
    corpus = open_corpus(path, columns)
    whole = corpus.read(0, corpus.num_rows)
    for start in reversed(range(corpus.num_rows)):
        assert corpus.read(start, start + 1) == whole[start : start + 1]
    return whole


def test_samples_of_several_shards_are_in_order(write_shard: Callable, tmp_path: Path) -> None:
    for shard in range(3):
        numbers = range(4 * shard, 4 * shard + 4) if shard != 1 else []  # an empty shard has none
        members = {f"in/{number}.{kind}": f"{kind} {number}".encode() for number in numbers for kind in ("png", "txt")}
        write_shard(f"{shard}.tar{'.gz' if shard == 2 else ''}", members)
    (tmp_path / "1.tar.gz").unlink(missing_ok=True)
    rows = read(tmp_path / "*.tar") + read(tmp_path / "2.tar.gz")
    numbers = [0, 1, 2, 3, 8, 9, 10, 11]
    assert [row["text"] for row in rows] == [f"txt {number}" for number in numbers]
    assert [row["image"] for row in rows] == [f"png {number}".encode() for number in numbers]
    assert [row["id"] for row in rows] == [
        f"{'0.tar' if number < 4 else '2.tar.gz'}/in/{number}" for number in numbers
    ]
    assert {row["path"] for row in rows} == {row["error"] for row in rows} == {None}


def test_columns_of_a_json_and_other_members(write_shard: Callable) -> None:
    meta = {"text": "of the JSON", "title": "a title", "id": "x7"}
    members = {"1.json": json.dumps(meta).encode(), "1.txt": b"of the member", "1.a.png": b"a", "1.b.png": b"b"}
    shard = write_shard("a.tar", members)
    (row,) = read(shard)
    assert row["error"] == (
        "Row 0 of a.tar: column images: found 2 in x7, expected one; name one by its ending, as image column"
    )
    (row,) = read(shard, Columns(image="b.png"))
    assert (row["id"], row["text"], row["image"]) == ("x7", "of the JSON", b"b")
    (row,) = read(shard, Columns(id="title", text="txt", image="a.png"))
    assert (row["id"], row["text"], row["image"]) == ("a title", "of the member", b"a")
    with pytest.raises(ValueError, match="There is no column 'caption'; there are id, "):
        read(shard, Columns(text="caption"))


def test_bad_samples_and_damage_are_rows_with_an_error(write_shard: Callable, tmp_path: Path) -> None:
    write_shard("b.tar", {"0.txt": b"good", "1.txt": b"caf\xe9", "2.txt": b"good"})
    whole = write_shard("a.tar", {"0.txt": b"good", "1.txt": b"x" * 3000})
    whole.write_bytes(whole.read_bytes()[:2500])
    rows = read(tmp_path / "*.tar")
    assert [row["text"] for row in rows] == ["good", None, "good", None, "good"]
    assert rows[1]["error"].startswith("Row 1 of *.tar: a.tar/0: after it, the shard cannot be read: ")
    assert rows[3]["error"].startswith("Row 3 of *.tar: b.tar/1: column txt: found 4 bytes, which are not UTF-8")


def test_what_is_no_shard_is_said(write_shard: Callable, tmp_path: Path) -> None:
    (tmp_path / "no.tar").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="No row of no.tar can be read: .*after it, the shard cannot be read"):
        read(tmp_path / "no.tar")
    with pytest.raises(ValueError, match=r"none\*.tar is not there"):
        read(tmp_path / "none*.tar")
