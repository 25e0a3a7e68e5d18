"""Anything that can be embedded, as chat messages with checked RGB pictures."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import DecompressionBombError


def to_messages(item: Any, row: int = 0) -> list[dict]:
    r"""
    Converts one input to chat messages.

    Args:
        item: a text; a picture (PIL image or `np.ndarray`); `{"text": …, "image": …}`, whose values may be lists and
            whose keys are in the order of the prompt; or chat messages, which interleave texts and pictures at will.
        row (`int`): place in the batch, for error messages.
    Raises `ValueError` for an input without content, and for a type that means nothing here.
    """
    if isinstance(item, str | Image.Image | np.ndarray):
        item = {"text" if isinstance(item, str) else "image": item}
    if isinstance(item, list) and item and all(isinstance(message, dict) and "role" in message for message in item):
        messages = [{**message, "content": _blocks(message.get("content"), row)} for message in item]
    elif isinstance(item, dict) and item and item.keys() <= {"text", "image"}:
        pairs = [(k, v) for k in item for v in (item[k] if isinstance(item[k], list) else [item[k]]) if v is not None]
        messages = [{"role": "user", "content": _blocks([{"type": k, k: v} for k, v in pairs], row)}]
    else:
        what = 'a text, a PIL image, {"text": …, "image": …} or a list of chat messages with roles'
        raise ValueError(f"Row {row}: cannot embed {type(item).__name__} {str(item)[:80]!r}; give {what}.")
    if not any(block["type"] == "image" or block["text"].strip() for m in messages for block in m["content"]):
        raise ValueError(f"Row {row} is empty: it has no image and no text other than blanks.")
    return messages


def _blocks(content: str | list[dict] | None, row: int) -> list[dict]:
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])
    for place, block in enumerate(blocks):
        kind = block.get("type") if isinstance(block, dict) else None
        image = [block[key] for key in ("image", "path") if block.get(key) is not None] if kind == "image" else []
        if not image and not (kind == "text" and isinstance(block.get("text"), str)):
            raise ValueError(f"Row {row}: a content block is a text or an image that is there, not {str(block)[:80]}.")
        blocks[place] = {"type": "image", "image": image[0]} if image else block
    return blocks


def to_rgb(image: Any, row: int = 0) -> Image.Image:
    r"""
    Decodes a picture to 8-bit RGB: transparency is laid on white, 16-bit greys are scaled, EXIF rotation is applied.

    Args:
        image: a PIL image, a `np.ndarray` of shape `(height, width[, 3])` in uint8, a path or the bytes of a file.
        row (`int`): place in the batch, for error messages.
    Raises `ValueError` for a picture that cannot be decoded, or whose longer side is over 200 times the shorter one.
    """
    try:
        if isinstance(image, bytes | str | Path):
            image = Image.open(BytesIO(image) if isinstance(image, bytes) else image)
        if getattr(image, "mode", None) == "F" or getattr(image, "dtype", np.uint8) not in (np.uint8, np.uint16):
            raise TypeError("no telling which number is white; scale the pixels to np.uint8")
        image = ImageOps.exif_transpose(Image.fromarray(image) if isinstance(image, np.ndarray) else image)
        if image.mode.startswith("I"):  # 16-bit greys, which PIL would clip to white
            image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, TypeError, AttributeError, RuntimeError, DecompressionBombError) as e:
        raise ValueError(f"Row {row}: cannot decode the image {str(image)[:80]!r}: {e}") from e
    if min(image.size) == 0 or max(image.size) > 200 * min(image.size):  # the limit of the Qwen image processors
        raise ValueError(f"Row {row}: {image.width}x{image.height} pixels; an image has at least 1x1, at most 1:200.")
    return image


__all__ = ["to_messages", "to_rgb"]
