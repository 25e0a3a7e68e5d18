"""What the processor takes of a row: the input of stage 1; queries and documents of stage 2 with their keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from trainers.data.images import as_image, image_key
from trainers.data.videos import video_key


__all__ = ["ContrastiveInput", "content_key", "to_compression_input", "to_item"]


def to_compression_input(row: dict[str, Any], place: int) -> list[dict[str, Any]]:
    """
    What the processor takes of a row; images and videos come before the text, as in the official recipe.

    Raises:
        ValueError: for a row without content, or with content of another type.
    """
    images, videos, text = row.get("images") or [], row.get("videos") or [], row.get("text")
    if not all(isinstance(one, list | tuple) for one in (images, videos)) or not isinstance(text, str | None):
        what = "`images` and `videos` must be lists and `text` a string or None"
        raise ValueError(f"Row {place}: {what}, got {str(row)[:200]}.")
    for kind, values in (("images", images), ("videos", videos)):
        if missing := [number for number, value in enumerate(values) if value is None]:
            raise ValueError(f"Row {place}: the {kind} {missing} of {len(values)} are missing (None).")
    if not images and not videos and not text:
        raise ValueError(f"Row {place}: there are neither `images` nor `text` to be compressed.")
    return [{"role": "user", "content": _blocks(images, videos, text)}]


def _blocks(images: Iterable[Any], videos: Iterable[Any], text: str | None) -> list[dict[str, Any]]:
    """The content of a message; images come first, then videos."""
    blocks = [{"type": "image", "image": as_image(image)} for image in images]
    blocks += [{"type": "video", "video": as_image(video)} for video in videos]
    return blocks + ([{"type": "text", "text": text}] if text else [])


class ContrastiveInput(NamedTuple):
    """One query or document as chat messages, and 63-bit keys, with and without instruction."""

    messages: list[dict]
    key: int
    content: int


def to_item(item: Any, where: str, instruction: str | None = None) -> ContrastiveInput:
    """A query or document of a row; images and videos come before the text, as in the official recipe."""
    if not isinstance(item, dict) or not item.keys() <= {"text", "image", "video"}:
        raise ValueError(f'{where} must be {{"text": …, "image": …, "video": …}}, got {str(item)[:80]!r}.')
    text, images, video = item.get("text"), item.get("image"), item.get("video")
    images = [image for image in (images if isinstance(images, list) else [images]) if image is not None]
    videos = [] if video is None else [video]
    if not images and not videos and not (text and text.strip()):
        raise ValueError(f"{where} is empty: it has neither a text nor an image nor a video.")
    content = _blocks(images, videos, text)
    messages = [{"role": "user", "content": content}]
    keys = [image_key(block["image"]) for block in content if block["type"] == "image"]
    keys += [f"video {video_key(block['video'])}" for block in content if block["type"] == "video"]
    key = "\0".join([*keys, text or ""])
    if not instruction:
        return ContrastiveInput(messages, content_key(key), content_key(key))
    messages.insert(0, {"role": "system", "content": instruction})
    return ContrastiveInput(messages, content_key(f"{instruction}\0\0{key}"), content_key(key))


def content_key(content: str | None) -> int:
    """63 bits of a hash, the same on every process; -1 for nothing."""
    if content is None:
        return -1
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big") >> 1
