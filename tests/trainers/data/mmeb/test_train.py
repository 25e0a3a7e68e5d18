"""MMEB-train as it is downloaded, its negatives in every form in which they are stored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from trainers.contrastive.collator import ComaContrastiveCollator
from trainers.data.mmeb.train import TRAIN_SETS, load_mmeb_train
from trainers.data.rows import BadRows, NumberedRows


@pytest.fixture
def mmeb(emoji_files: dict[str, Path], tmp_path: Path) -> Path:
    """Two sets: classification from an image, retrieval of images by text, with negatives."""
    folder, pictures = tmp_path / "MMEB-train", []
    for place, file in enumerate(emoji_files.values()):
        pictures.append(f"images/emoji/Train/{place}{file.suffix}")
        (folder / pictures[-1]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / pictures[-1])
    names = list(emoji_files)
    rows = [
        {"qry": "<|image_1|>\nWhat is drawn?\n", "qry_image_path": picture, "pos_text": name, "pos_image_path": ""}
        for name, picture in zip(names, pictures, strict=True)
    ]
    save(folder, "ImageNet_1K", "original-00000-of-00002", rows[:5])
    save(folder, "ImageNet_1K", "original-00001-of-00002", rows[5:])
    save(folder, "ImageNet_1K", "diverse_instruction-00000-of-00001", [{**rows[0], "qry": "<|image_1|>\nName it."}])
    rows = [
        {"qry": f"Find {name}.\n", "qry_image_path": "", "pos_text": "<|image_1|>\nThis.", "pos_image_path": picture,
         "neg_text": "<|image_1|>", "neg_image_path": pictures[place - 1]}
        for place, (name, picture) in enumerate(zip(names, pictures, strict=True))
    ]  # fmt: skip
    save(folder, "MSCOCO_t2i", "original-00000-of-00001", rows)
    return folder


def save(folder: Path, name: str, file: str, rows: list[dict[str, Any]]) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows).to_parquet(folder / name / f"{file}.parquet")


def test_two_sets(mmeb: Path, emoji_files: dict[str, Path], make_coma: Callable) -> None:
    rows = load_mmeb_train(mmeb, ["ImageNet_1K", "MSCOCO_t2i"])
    number = len(emoji_files)
    assert list(rows["source"]) == ["ImageNet_1K"] * number + ["MSCOCO_t2i"] * number
    found = NumberedRows(rows).__getitems__(range(2 * number))
    assert [row["positive"]["text"] for row in found[:number]] == list(emoji_files)
    # Without the mark, whose image stands first, texts are as they were.
    assert found[0]["query"]["text"] == "\nWhat is drawn?\n" and found[number]["positive"]["text"] == "\nThis."
    assert found[0]["query"]["image"]["path"] == str(mmeb / "images/emoji/Train/0.png")
    assert found[0]["positive"]["image"] is None and found[number]["query"]["image"] is None
    assert [item["text"] for item in found[number]["negatives"]] == [None] and not found[0]["negatives"]
    batch = ComaContrastiveCollator(make_coma()[1])(found)
    assert len(batch["documents"]) == 3 * number
    other = load_mmeb_train(mmeb, ["ImageNet_1K"], "diverse_instruction")
    assert NumberedRows(other)[0]["query"]["text"] == "\nName it."


def test_the_sets_of_the_paper() -> None:
    assert len(TRAIN_SETS) == 20 and "ImageNet_1K" in TRAIN_SETS and "MSCOCO_i2t" in TRAIN_SETS


NEGATIVES = [
    ({}, []),
    ({"neg_text": ""}, []),
    ({"neg_text": None, "neg_image_path": ""}, []),
    ({"neg_text": "x"}, ["x"]),
    ({"neg_text": ["x", "y"]}, ["x", "y"]),
    ({"neg_text": ["x", ""]}, ["x"]),
    ({"neg_text": "['x', \"it's\"]"}, ["x", "it's"]),
    ({"neg_text": "[]"}, []),
    ({"neg_text": "['', '']", "neg_image_path": "['a.png', 'b.png']"}, ["a.png", "b.png"]),
    ({"neg_text": ["<|image_1|>\nthis", "y"], "neg_image_path": ["a.png", ""]}, ["\nthis+a.png", "y"]),
    ({"neg_text": "", "neg_image_path": "a.png"}, ["a.png"]),
    ({"neg_text": "<|image_1|>", "neg_image_path": "a.png"}, ["a.png"]),
]


@pytest.mark.parametrize(("stored", "expected"), NEGATIVES, ids=str)
def test_negatives_in_every_form(stored: dict, expected: list[str], tmp_path: Path) -> None:
    row = {"qry": "q", "qry_image_path": "", "pos_text": "p", "pos_image_path": "", **stored}
    (tmp_path / "CIRR").mkdir()
    (tmp_path / "CIRR" / "original.jsonl").write_text(json.dumps(row))
    (found,) = load_mmeb_train(tmp_path, ["CIRR"]).with_format("arrow")[:].to_pylist()
    names = [
        (item["text"], Path(item["image"]["path"]).name if item["image"] else None) for item in found["negatives"]
    ]
    assert ["+".join(filter(None, name)) for name in names] == expected


def test_what_is_missing_is_said(mmeb: Path) -> None:
    with pytest.raises(ValueError, match=r"CIRR has no original\*.*there are \['ImageNet_1K', 'MSCOCO_t2i'\]"):
        load_mmeb_train(mmeb, ["CIRR"])
    with pytest.raises(ValueError, match="split='train' does not exist; choose original or diverse_instruction"):
        load_mmeb_train(mmeb, split="train")
    with pytest.raises(ValueError, match="Row 0 of ImageNet_1K: there is no image .*Unpack the archives"):
        load_mmeb_train(mmeb, ["ImageNet_1K"], image_root=mmeb / "elsewhere")
    save(mmeb, "NIGHTS", "original", [{"qry": "q", "pos_text": "p"}])
    with pytest.raises(ValueError, match=r"has no columns \['pos_image_path', 'qry_image_path'\]"):
        load_mmeb_train(mmeb, ["NIGHTS"])


def test_bad_rows_are_named_with_their_file(mmeb: Path) -> None:
    good = {"qry": "q", "qry_image_path": "", "pos_text": "p", "pos_image_path": ""}
    save(mmeb, "CIRR", "original", [good, {**good, "pos_text": ""}, good])
    with pytest.raises(
        ValueError, match=r"^Row 1 of CIRR/original.parquet is bad: column pos_text and pos_image_path: "
    ):
        load_mmeb_train(mmeb, ["CIRR"])
    bad_rows = BadRows("skip")
    assert len(load_mmeb_train(mmeb, ["CIRR"], on_bad_row=bad_rows)) == 2 and bad_rows.skipped == 1
    save(mmeb, "WebQA", "original", [good, {**good, "qry": ""}])
    bad_rows = BadRows("skip")
    assert len(load_mmeb_train(mmeb, ["CIRR", "WebQA"], on_bad_row=bad_rows)) == 3 and bad_rows.skipped == 2
    assert list(bad_rows.reasons) == ["CIRR/original.parquet, 1", "WebQA/original.parquet, 1"]
