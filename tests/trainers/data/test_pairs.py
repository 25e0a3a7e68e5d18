"""Tables of any kind become the same rows of stage 2."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from trainers.contrastive_collator import ComaContrastiveCollator
from trainers.data.pairs import PairColumns, load_pairs
from trainers.rows import NumberedRows


TABLE = {
    "q": ["1", "", "three, 'x'"],
    "qi": ["", "b.png", "a.png"],
    "p": ["A", "NA", "C"],
    "n": ["x", "", "y"],
    "s": ["s1", "", "s2"],
}
COLUMNS = PairColumns(query_text="q", query_image="qi", positive_text="p", negative_text="n", source="s")


@pytest.fixture
def folder(picture: Callable, tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        picture(28, 28, seed).save(tmp_path / f"{name}.png")
    return tmp_path


def save(folder: Path, kind: str) -> str:
    path, dataset = folder / f"table.{kind}", Dataset.from_dict(TABLE)
    if kind == "csv":
        dataset.to_csv(path)
    elif kind == "tsv":
        dataset.to_csv(path, sep="\t")
    elif kind == "jsonl":
        dataset.to_json(path)
    elif kind == "parquet":
        dataset.to_parquet(path)
    else:
        path = folder / "saved"
        dataset.save_to_disk(path)
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "folder"])
def test_every_kind_gives_the_same_rows(folder: Path, kind: str, make_coma: Callable) -> None:
    rows = load_pairs(save(folder, kind), COLUMNS, str(folder))
    assert rows.column_names == ["query", "positive", "negatives", "source"]
    found = NumberedRows(rows).__getitems__([0, 1, 2])
    assert [row["query"]["text"] for row in found] == ["1", None, "three, 'x'"]
    assert [row["query"]["image"] and row["query"]["image"]["path"] for row in found] == [
        None,
        str(folder / "b.png"),
        str(folder / "a.png"),
    ]
    assert [row["positive"] for row in found] == [{"text": text, "image": None} for text in ("A", "NA", "C")]
    assert [[item["text"] for item in row["negatives"]] for row in found] == [["x"], [], ["y"]]
    assert [row["source"] for row in found] == ["s1", None, "s2"]
    batch = ComaContrastiveCollator(make_coma()[1])(found)
    assert batch["inputs"].images_per_row.sum() == 2 and batch["owners"].tolist() == [0, 1, 2, 0, 2]


def test_lists_of_negatives_and_rows_that_are_ready(folder: Path) -> None:
    table = [
        {"q": "a", "p": "b", "nt": ["x", ""], "ni": ["", "a.png", "b.png"], "g": 1},
        {"q": "c", "p": "d", "nt": [], "ni": [], "g": 1},
    ]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, table)))
    columns = PairColumns(query_text="q", positive_text="p", negative_text="nt", negative_image="ni", group="g")
    rows = load_pairs(str(folder / "t.jsonl"), columns)
    negatives = NumberedRows(rows)[0]["negatives"]
    assert [(item["text"], item["image"] and Path(item["image"]["path"]).name) for item in negatives] == [
        ("x", None),
        (None, "a.png"),
        (None, "b.png"),
    ]
    assert list(rows["group"]) == ["1", "1"]
    rows.save_to_disk(folder / "ready")
    assert load_pairs(str(folder / "ready")).features == rows.features


def test_a_missing_picture_is_named_with_its_row(folder: Path, make_coma: Callable) -> None:
    (folder / "t.csv").write_text("q,p\na.png,x\nlost.png,y\n")
    rows = NumberedRows(load_pairs(str(folder / "t.csv"), PairColumns(query_image="q", positive_text="p")))
    with pytest.raises(ValueError, match=r"Row 1 of the data set is bad: .*lost\.png"):
        ComaContrastiveCollator(make_coma()[1])(rows.__getitems__([0, 1]))


def test_a_broken_table_is_said(folder: Path) -> None:
    (folder / "t.jsonl").write_text('{"q": "a"}\nno json\n')
    with pytest.raises(ValueError, match=r"t\.jsonl cannot be read"):
        load_pairs(str(folder / "t.jsonl"), PairColumns(query_text="q", positive_text="q"))
