"""Real emoji, broken in all the usual ways: each is named with its row and its column when it comes into a batch, and
the good rows around it survive where bad ones are skipped.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from PIL import Image

from modeling_coma import ComaProcessor
from trainers.compression.collator import ComaCompressionCollator
from trainers.contrastive.collator import ComaContrastiveCollator
from trainers.data.dialogues import load_dialogues
from trainers.data.pairs import PairColumns, load_pairs
from trainers.data.rows import BadRows, NumberedRows


MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]

BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda content: content[: len(content) // 2],
    "its first 20 bytes": lambda content: content[:20],
    "0 bytes": lambda content: b"",
    "its first bytes, then others": lambda content: content[:16] + b"?" * 500,
    "a page of an error": lambda content: b"<!DOCTYPE html><title>404 Not Found</title>",
}
PLACES = {
    "images": lambda bad, good: {"images": [good, bad], "text": None, "messages": MESSAGES},
    "query": lambda bad, good: {"query": {"image": bad}, "positive": {"text": "p", "image": good}},
    "positive": lambda bad, good: {"query": {"text": "q"}, "positive": {"image": bad}, "negatives": [{"image": good}]},
    "negatives": lambda bad, good: {
        "query": {"image": good},
        "positive": {"text": "p"},
        "negatives": [{"image": bad}],
    },
}
COLUMNS = {
    "images": "images[1]",
    "query": "query.image",
    "positive": "positive.image",
    "negatives": "negatives[0].image",
}


@pytest.fixture(scope="module")
def processor(make_coma: Callable) -> ComaProcessor:
    return make_coma()[1]


def collate_with(
    bad: Path, place: str, emoji_files: dict[str, Path], processor: ComaProcessor, tmp_path: Path
) -> None:
    """The row is loaded, because images are not opened then, and named when it comes into a batch."""
    good = str(next(iter(emoji_files.values())))
    rows: list[dict[str, Any]] = [PLACES[place](one, good) for one in (good, str(bad), good)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = NumberedRows((load_dialogues if place == "images" else load_pairs)(tmp_path / "rows.jsonl"))
    collator = ComaCompressionCollator if place == "images" else ComaContrastiveCollator
    message = (
        f"Row 1 of the data set is bad: column {COLUMNS[place]}: found {str(bad)!r}, expected an image that can be"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        collator(processor)(dataset.__getitems__([0, 1, 2]))
    skipping = collator(processor, on_bad_row="skip")
    batch = skipping(dataset.__getitems__([0, 1, 2]))
    assert len(batch["labels"] if place == "images" else batch["queries"]) == 2
    assert list(skipping.bad_rows.reasons) == [1] and skipping.bad_rows.skipped == 1


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_picture(
    how: str, kind: str, emoji_files: dict[str, Path], processor: ComaProcessor, tmp_path: Path
) -> None:
    whole = next(file for file in emoji_files.values() if file.suffix == f".{kind}")
    bad = tmp_path / f"bad.{kind}"
    bad.write_bytes(BROKEN[how](whole.read_bytes()))
    collate_with(bad, "images", emoji_files, processor, tmp_path)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", ["missing", "a folder", "a thread", "a damaged chunk"])
def test_a_file_that_is_no_picture(
    what: str, place: str, emoji_files: dict[str, Path], processor: ComaProcessor, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    if what == "a folder":
        bad.mkdir()
    elif what == "a thread":
        Image.new("RGB", (1, 300)).save(bad)
    elif what == "a damaged chunk":
        content = bytearray(next(iter(emoji_files.values())).read_bytes())
        content[content.index(b"IDAT") + 200] ^= 255
        bad.write_bytes(content)
    collate_with(bad, place, emoji_files, processor, tmp_path)


def test_broken_bytes_in_parquet(emoji_files: dict[str, Path], processor: ComaProcessor, tmp_path: Path) -> None:
    pictures = [file.read_bytes() for file in emoji_files.values()]
    pictures[1] = pictures[1][:100]
    pictures[2] = b""
    Dataset.from_list([{"image": one, "name": "x"} for one in pictures]).to_parquet(tmp_path / "rows.parquet")
    columns, bad_rows = PairColumns(query_image="image", positive_text="name"), BadRows("skip")
    rows = NumberedRows(load_pairs(tmp_path / "rows.parquet", columns, on_bad_row=bad_rows))
    assert bad_rows.reasons == {
        2: "column image: found 0 bytes, expected a path, the bytes of a file, a data: URI or nothing"
    }
    with pytest.raises(
        ValueError, match=r"Row 1 of the data set is bad: column query\.image: found 100 bytes, expected an i"
    ):
        ComaContrastiveCollator(processor)(rows.__getitems__(range(len(rows))))
