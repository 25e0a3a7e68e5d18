"""Rows of stage 1 from LLaVA's `conversations`, and from the published data of CoMa, which have the same form."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from trainers.data.build import Policy, build_dataset
from trainers.data.column_names import refuse_misnamed
from trainers.data.dialogues import MessageNames, dialogue_row
from trainers.data.faults import fault
from trainers.data.images import ImageRoot, as_stored_list, root_of
from trainers.data.schema import DIALOGUE_FEATURES, VIDEO_DIALOGUE_FEATURES
from trainers.data.tables import Records, open_records
from trainers.data.text_format import TextFormat
from trainers.data.videos import has_videos, late_video


__all__ = ["llava_row", "llava_shows_video", "load_coma_sft", "load_llava"]

VIDEOS = ("video", "videos")
KNOWN = ("id", "image", "images", *VIDEOS, "conversations")  # an image, or a video, is in one of the two
NAMES = MessageNames(
    column="conversations",
    role="from",
    content="value",
    roles={"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"},
    image_is_video=True,  # as in LLaVA-Video-178K
)


def load_llava(
    source: str | Path | Dataset,
    image_root: str | Path | None = None,
    on_bad_row: Policy = "raise",
    text_format: TextFormat | None = None,
) -> Dataset:
    r"""
    Loads rows of stage 1 from the format of LLaVA: `image` and `video` (a path, a list of them, or none) and
    `conversations`, a list of `{"from": "human" | "gpt", "value": text}` with as many `<image>` as there are images
    and as many `<video>` as there are videos. In a row that has videos and no image, `<image>` stands for a video as
    `<video>` does: the two together are as many as the videos.

    Args:
        source, image_root, on_bad_row, text_format:
            As in [`load_dialogues`].

    Returns:
        `Dataset`: columns `images`, `text` (always `None`), `messages`, and `videos` where there are any.

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
    convert, features = partial(llava_row, root=root, placeholders=placeholders), DIALOGUE_FEATURES
    is_known = records.columns is not None
    if set(VIDEOS) & set(records.columns) if is_known else has_videos(records, llava_shows_video):
        convert, features = partial(convert, videos=True), VIDEO_DIALOGUE_FEATURES
    return build_dataset(records, convert, features, on_bad_row, ["conversations"], KNOWN)


def llava_shows_video(record: dict[str, Any]) -> bool:
    """Whether a record has a video."""
    return any(record.get(name) for name in VIDEOS)


def llava_row(
    record: dict[str, Any], root: ImageRoot, placeholders: bool = True, videos: bool = False
) -> dict[str, Any]:
    """A row of stage 1; without `placeholders`, there may be none of them; with `videos`, if there can be any."""
    refuse_misnamed(record, KNOWN[1:])
    if not videos and llava_shows_video(record):
        raise late_video("video" if record.get("video") else "videos")
    row = {"images": _files(record, "image", root), "text": None}
    if videos:
        row["videos"] = _files(record, "video", root)
    return dialogue_row(row, record.get("conversations"), root, NAMES, placeholders)


def _files(record: dict[str, Any], kind: str, root: ImageRoot) -> list[dict[str, Any]]:
    """What is in one of the two columns; it may be in both, if it is the same."""
    of_one, of_several = (as_stored_list(record.get(name), name, root) for name in (kind, f"{kind}s"))
    if of_one and of_several and of_one != of_several:
        raise fault(f"{kind}s", f"others than in the column {kind!r}", "all of them in one of the two")
    return of_one or of_several
