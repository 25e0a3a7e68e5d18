"""Rows of stage 1 from LLaVA's `conversations`, and from the published data of CoMa, which have the same form."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from trainers.data.build import Policy, build_dataset
from trainers.data.column_names import refuse_misnamed
from trainers.data.dialogues import MessageNames, dialogue_row
from trainers.data.images import ImageRoot, as_stored_list, root_of
from trainers.data.schema import DIALOGUE_FEATURES
from trainers.data.tables import Records, open_records
from trainers.data.text_format import TextFormat


__all__ = ["llava_row", "load_coma_sft", "load_llava"]

KNOWN = ("id", "image", "images", "conversations")  # an image is in one of the two
NAMES = MessageNames(
    column="conversations",
    role="from",
    content="value",
    roles={"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"},
)


def load_llava(
    source: str | Path | Dataset,
    image_root: str | Path | None = None,
    on_bad_row: Policy = "raise",
    text_format: TextFormat | None = None,
) -> Dataset:
    r"""
    Loads rows of stage 1 from the format of LLaVA: `image` (a path, a list of them, or none) and `conversations`, a
    list of `{"from": "human" | "gpt", "value": text}` with as many `<image>` as there are images.

    Args:
        source, image_root, on_bad_row, text_format:
            As in [`load_dialogues`].

    Returns:
        `Dataset`: columns `images`, `text` (always `None`), `messages`.

    Raises:
        ValueError: as in [`load_dialogues`].
    """
    return _load(open_records(source, text_format), root_of(source, image_root), on_bad_row, placeholders=True)


def load_coma_sft(
    source: str | Path | Dataset,
    image_root: str | Path | None = None,
    on_bad_row: Policy = "raise",
    text_format: TextFormat | None = None,
) -> Dataset:
    """As [`load_llava`], for the published dialogues of CoMa (`id`, `image`, `conversations`): as the image is
    compressed before the dialogue, nothing in it has to stand for the image."""
    return _load(open_records(source, text_format), root_of(source, image_root), on_bad_row, placeholders=False)


def _load(records: Records, root: ImageRoot, on_bad_row: Policy, placeholders: bool) -> Dataset:
    convert = partial(llava_row, root=root, placeholders=placeholders)
    return build_dataset(records, convert, DIALOGUE_FEATURES, on_bad_row, ["conversations"], KNOWN)


def llava_row(record: dict[str, Any], root: ImageRoot, placeholders: bool = True) -> dict[str, Any]:
    """A row of stage 1; without `placeholders`, there may be none of them."""
    refuse_misnamed(record, KNOWN[1:])
    column = "images" if record.get("image") is None and "images" in record else "image"
    images = as_stored_list(record.get(column), column, root)
    return dialogue_row({"images": images, "text": None}, record.get("conversations"), root, NAMES, placeholders)
