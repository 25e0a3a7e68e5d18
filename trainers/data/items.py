"""What the processor takes of a row: the input of stage 1; queries and documents of stage 2 with their keys."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from trainers.data.images import as_image, image_key


__all__ = ["ContrastiveInput", "content_key", "to_compression_input", "to_item"]


def to_compression_input(row: dict[str, Any], place: int) -> dict[str, Any]:
    """
    What the processor takes of a row; images come before the text, as in the official recipe.

    Raises:
        ValueError: for a row without content, or with content of another type.
    """
    images, text = row.get("images") or [], row.get("text")
    if not isinstance(images, list | tuple) or not isinstance(text, str | None):
        raise ValueError(f"Row {place}: `images` must be a list and `text` a string or None, got {str(row)[:200]}.")
    images = [as_image(image) for image in images]
    if missing := [number for number, image in enumerate(images) if image is None]:
        raise ValueError(f"Row {place}: the images {missing} of {len(images)} are missing (None).")
    if not images and not text:
        raise ValueError(f"Row {place}: there are neither `images` nor `text` to be compressed.")
    return {name: value for name, value in {"image": images, "text": text}.items() if value}


class ContrastiveInput(NamedTuple):
    """One query or document as chat messages, the images in it, and 63-bit keys, with and without instruction."""

    messages: list[dict]
    num_images: int
    key: int
    content: int


def to_item(item: Any, where: str, instruction: str | None = None) -> ContrastiveInput:
    """A query or document of a row; images come before the text, as in the official recipe."""
    if not isinstance(item, dict) or not item.keys() <= {"text", "image"}:
        raise ValueError(f'{where} must be {{"text": …, "image": …}}, got {str(item)[:80]!r}.')
    text, images = item.get("text"), item.get("image")
    images = [as_image(image) for image in (images if isinstance(images, list) else [images]) if image is not None]
    if not images and not (text and text.strip()):
        raise ValueError(f"{where} is empty: it has neither a text nor an image.")
    content = [{"type": "image", "image": image} for image in images]
    content += [{"type": "text", "text": text}] if text else []
    messages = [{"role": "user", "content": content}]
    key = "\0".join([*map(image_key, images), text or ""])
    if not instruction:
        return ContrastiveInput(messages, len(images), content_key(key), content_key(key))
    messages.insert(0, {"role": "system", "content": instruction})
    return ContrastiveInput(messages, len(images), content_key(f"{instruction}\0\0{key}"), content_key(key))


def content_key(content: str | None) -> int:
    """63 bits of a hash, the same on every process; -1 for nothing."""
    if content is None:
        return -1
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big") >> 1
