"""One item of a row, a query or a document, as chat messages with the keys by which equal items are known."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from trainers.data.images import as_image, image_key


__all__ = ["ContrastiveInput", "as_input", "content_key"]


class ContrastiveInput(NamedTuple):
    """One query or document as chat messages, the images in it, and 63-bit keys, with and without instruction."""

    messages: list[dict]
    num_images: int
    key: int
    content: int


def as_input(item: Any, where: str, instruction: str | None = None) -> ContrastiveInput:
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
