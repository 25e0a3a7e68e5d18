"""Tables of any kind become the same rows of stage 2."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value

from trainers.contrastive.collator import ComaContrastiveCollator
from trainers.data.pairs import PairColumns, load_pairs, load_triplets
from trainers.data.rows import BadRows, NumberedRows
from trainers.data.schema import PAIR_FEATURES


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
    rows = NumberedRows(load_pairs(folder / "t.csv", PairColumns(query_image="q", positive_text="p")))
    with pytest.raises(ValueError, match=r"Row 1 of the data set is bad: column query\.image: found .*lost\.png"):
        ComaContrastiveCollator(make_coma()[1])(rows.__getitems__([0, 1]))


def test_a_broken_line_is_said(folder: Path) -> None:
    (folder / "t.jsonl").write_text('{"q": "a"}\nno json\n{"q": "b"}')
    columns, bad_rows = PairColumns(query_text="q", positive_text="q"), BadRows("skip")
    with pytest.raises(
        ValueError, match=r"^Row 1 of t\.jsonl is bad: line 2: found .*no json.*, expected a JSON object"
    ):
        load_pairs(folder / "t.jsonl", columns)
    assert len(load_pairs(folder / "t.jsonl", columns, on_bad_row=bad_rows)) == 2 and bad_rows.skipped == 1


def test_a_column_that_no_line_has_is_said(folder: Path) -> None:
    (folder / "t.jsonl").write_text('{"q": "a", "p": "b"}\n')
    columns = PairColumns(query_text="q", positive_text="p", positive_image="image")
    with pytest.raises(ValueError, match=r"t.jsonl has no columns \['image'\]; it has \['p', 'q'\]"):
        load_pairs(folder / "t.jsonl", columns)
    with pytest.raises(
        ValueError, match=r"^Row 0 .* query: found a row with the columns \['p', 'q'\], expected a column 'k'"
    ):
        load_pairs(folder / "t.jsonl", PairColumns(query_text="k", positive_text="p"))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved", "dataset"])
def test_rows_that_are_ready(kind: str, folder: Path) -> None:
    rows = [
        {
            "query": {"text": "q", "image": None},
            "positive": {"text": None, "image": "a.png"},
            "negatives": [],
            "source": "s",
            "group": "g",
        },
        {
            "query": {"text": "q", "image": "b.png"},
            "positive": {"text": "p", "image": None},
            "source": None,
            "group": None,
            "negatives": [{"text": "n", "image": None}, {"text": None, "image": "a.png"}],
        },
    ]
    source = folder / f"rows.{kind}"
    if kind == "jsonl":
        rows[0]["positive"] = {"image": "a.png"}
        rows[1]["positive"] = "p"
        source.write_text("\n".join(map(json.dumps, rows)))
    else:
        for item in (rows[0]["positive"], rows[1]["query"], rows[1]["negatives"][1]):
            item["image"] = str(folder / item["image"])
        features = Features({**PAIR_FEATURES, "group": Value("string")})
        dataset = Dataset.from_list(rows, features=features)
        source = dataset if kind == "dataset" else source
        if kind != "dataset":
            (dataset.to_parquet if kind == "parquet" else dataset.save_to_disk)(source)
    loaded = load_pairs(source)
    assert (loaded is source) == (kind == "dataset")
    found = NumberedRows(loaded).__getitems__([0, 1])
    names = [found[0]["positive"], found[1]["query"], found[1]["negatives"][1]]
    files = [folder / name for name in ("a.png", "b.png", "a.png")]
    if kind == "saved":  # which has taken the images in
        assert [item["image"]["bytes"] for item in names] == [file.read_bytes() for file in files]
    else:
        assert [item["image"]["path"] for item in names] == list(map(str, files))
    assert [row["group"] for row in found] == ["g", None] and found[1]["positive"]["text"] == "p"


def test_ready_rows_with_messages_for_the_joint_objective(folder: Path, conversation: Callable) -> None:
    rows = [
        {"query": "q", "positive": {"image": "a.png"}, "messages": conversation("q", "a")},
        {"query": "q", "positive": "p"},
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = NumberedRows(load_pairs(folder / "rows.jsonl"))
    assert loaded[0]["messages"] == rows[0]["messages"] and loaded[1]["messages"] is None


def test_triplets_of_sentence_transformers(folder: Path, make_coma: Callable) -> None:
    picture = {"bytes": (folder / "a.png").read_bytes(), "path": None}
    rows = [
        {"id": 1, "anchor": "q", "positive": "p", "negative_1": "x", "negative_2": "y"},
        {"id": 2, "anchor": {"text": "q", "image": "a.png"}, "positive": "p", "negative_1": None},
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = NumberedRows(load_triplets(folder / "rows.jsonl"))
    assert [[item["text"] for item in row["negatives"]] for row in found] == [["x", "y"], []]
    assert found[1]["query"] == {"text": "q", "image": {"bytes": None, "path": str(folder / "a.png")}}

    features = Features({"anchor": Image(), "positive": Value("string"), "negative": Value("string")})
    dataset = Dataset.from_list([{"anchor": picture, "positive": "p", "negative": "n"}], features=features)
    dataset.to_parquet(folder / "t.parquet")
    for source in (dataset, folder / "t.parquet"):
        row = NumberedRows(load_triplets(source))[0]
        assert row["query"] == {"text": None, "image": picture} and row["negatives"] == [{"text": "n", "image": None}]
    assert ComaContrastiveCollator(make_coma()[1])([row])["owners"].tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"has no columns \['anchor'\]"):
        load_triplets(dataset.remove_columns("anchor"))


def test_ready_rows_with_an_image_root(folder: Path) -> None:
    rows = [{"query": {"text": "q", "image": None}, "positive": {"text": None, "image": "a.png"}, "negatives": []}]
    dataset = Dataset.from_list(rows, features=Features({name: PAIR_FEATURES[name] for name in rows[0]}))
    found = NumberedRows(load_pairs(dataset, image_root=folder))[0]
    assert found["positive"]["image"] == {"bytes": None, "path": str(folder / "a.png")}
    outside = Dataset.from_list([{**rows[0], "positive": {"text": None, "image": "../a.png"}}])
    with pytest.raises(ValueError, match=r"column positive\.image: found '../a\.png', expected a path inside of"):
        load_pairs(outside, image_root=folder)
