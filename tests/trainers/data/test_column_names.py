"""A column that nothing reads is told; if its name is nearly one that is read, it is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from trainers.data.column_names import misnamed
from trainers.data.corpus import Columns, open_corpus
from trainers.data.dialogues import load_dialogues
from trainers.data.llava import load_llava
from trainers.data.mmeb.train import load_mmeb_train
from trainers.data.pairs import PairColumns, load_pairs, load_triplets
from trainers.data.schema import PAIR_FEATURES, validate_pairs


MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
PAIR = {"query": "a", "positive": "b"}
MISSPELT: dict[str, tuple[Callable, dict, str, str]] = {
    "negative": (load_pairs, {**PAIR, "negative": ["c"]}, "negative", "negatives"),
    "Negatives": (load_pairs, {**PAIR, "Negatives": ["c"]}, "Negatives", "negatives"),
    "negatves": (load_pairs, {**PAIR, "negatves": ["c"]}, "negatves", "negatives"),
    "sources": (load_pairs, {**PAIR, "sources": "s"}, "sources", "source"),
    "group_": (load_pairs, {**PAIR, "group_": "s"}, "group_", "group"),
    "image": (load_dialogues, {"text": "t", "image": "a.png", "messages": MESSAGES}, "image", "images"),
    "image_1": (load_dialogues, {"text": "t", "image_1": "a.png", "messages": MESSAGES}, "image_1", "images"),
    "texts": (load_dialogues, {"images": ["a.png"], "texts": "t", "messages": MESSAGES}, "texts", "text"),
    "imgae": (load_llava, {"imgae": "a.png", "conversations": TURNS}, "imgae", "image"),
    "negatives": (load_triplets, {"anchor": "a", "positive": "b", "negatives": "c"}, "negatives", "negative"),
    "negative1": (load_triplets, {"anchor": "a", "positive": "b", "negative1": "c"}, "negative1", "negative"),
}


@pytest.mark.parametrize(("load", "row", "name", "meant"), MISSPELT.values(), ids=MISSPELT)
def test_a_misspelt_column_is_refused(tmp_path: Path, load: Callable, row: dict, name: str, meant: str) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    message = f"Row 0 of t.jsonl is bad: column {name}: found a name that nothing reads, expected '{meant}'"
    with pytest.raises(ValueError, match=f"^{message}"):
        load(tmp_path / "t.jsonl")


def test_in_tables_of_every_kind(tmp_path: Path) -> None:
    table = Dataset.from_dict({"anchor": ["a"], "positive": ["b"], "negativ": ["c"]})
    table.to_csv(tmp_path / "t.csv")
    table.to_parquet(tmp_path / "t.parquet")
    table.save_to_disk(tmp_path / "saved")
    for source in (tmp_path / "t.csv", tmp_path / "t.parquet", tmp_path / "saved", table):
        with pytest.raises(ValueError, match="column negativ: found a name that nothing reads, expected 'negative'"):
            load_triplets(source)


def test_in_rows_that_are_ready() -> None:
    rows = Dataset.from_list([{"query": {"text": "a", "image": None}, "positive": {"text": "b", "image": None}}])
    for name in ("negative", "Source", "groups"):
        with pytest.raises(ValueError, match=f"column {name}: found a name that nothing reads"):
            load_pairs(rows.add_column(name, ["x"]))
    inside = Dataset.from_list([{"query": {"text": "a", "imgae": "x.png"}, "positive": {"text": "b"}}])
    with pytest.raises(ValueError, match="column imgae: found a name that nothing reads, expected 'image'"):
        validate_pairs(inside)


def test_in_what_is_embedded(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,images\na,b.png\n")
    with pytest.raises(ValueError, match="column images: found a name that nothing reads, expected 'image'"):
        open_corpus(tmp_path / "t.csv", Columns())
    named = open_corpus(tmp_path / "t.csv", Columns(image="images")).read(0, 1)
    assert named[0]["path"] == "b.png"
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n{"Text": "b"}\n')
    assert (
        open_corpus(tmp_path / "t.jsonl", Columns()).read(0, 2)[1]["error"].startswith("Row 1 of t.jsonl: column Text")
    )


def test_in_mmeb(tmp_path: Path) -> None:
    row = {"qry": "a", "qry_image_path": "", "pos_text": "b", "pos_image_path": "", "neg_texts": "c"}
    (tmp_path / "CIRR").mkdir()
    (tmp_path / "CIRR" / "original.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match="column neg_texts: .* expected 'neg_text'"):
        load_mmeb_train(tmp_path, ["CIRR"])


def test_other_columns_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_text("q,p,price,sku\na,b,1,2\nc,d,3,4\n")
    assert len(load_pairs(tmp_path / "t.csv", PairColumns(query_text="q", positive_text="p"))) == 2
    assert [record.getMessage() for record in caplog.records] == ["t.csv: nothing reads the columns ['price', 'sku']."]
    caplog.clear()
    open_corpus(tmp_path / "t.csv", Columns(text="p"))
    assert [record.getMessage() for record in caplog.records] == [
        "t.csv: nothing reads the columns ['price', 'q', 'sku']."
    ]


def test_a_column_that_is_there_is_not_meant_by_another() -> None:
    assert misnamed(["negative", "negatives"], ["negatives"]) == {}
    assert misnamed(["question_id", "question"], ["question"]) == {}
    assert (
        misnamed(["resource", "caption", "url", "context", "title", "label"], [*PAIR_FEATURES, "text", "image"]) == {}
    )
