"""Malformed images: damaged files of every format, and what is no file at all, among good inputs."""

import io
import os
import random
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from modeling_coma.inputs_coma import MAX_IMAGE_PIXELS
from tests.malformed.cases import Case, Check


__all__ = ["image_cases", "picture"]

FORMATS = [(form, mode) for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP") for mode in ("RGB", "L", "P")]
FORMATS = [one for one in FORMATS if one not in (("JPEG", "P"), ("WEBP", "P"))]


def picture(draw: random.Random, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(draw.randrange(2**32)).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((56, 28), Image.Resampling.NEAREST).convert(mode)


def large_png(width: int, height: int) -> bytes:
    """A small file of a large image, rows and all."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" * (1 + (width + 7) // 8)) * min(height, 14_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def as_pillow_sees_it(data: bytes) -> Image.Image | None:
    """What Pillow itself makes of a file; `None` if it does not, or should not."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                return None
            image.load()
            return image.copy()
    except Exception:  # whatever it is
        return None


def no_images(folder: Path) -> Iterator[tuple[Any, str]]:
    """What cannot be an image, and what must be named beside its row."""
    os.mkfifo(folder / "fifo.png")
    (folder / "folder.png").mkdir()
    (folder / "loop.png").symlink_to(folder / "loop.png")
    for name in ("fifo.png", "folder.png", "loop.png", "nothing.png"):
        yield str(folder / name), re.escape(name)
    yield "/dev/zero", "/dev/zero"
    arrays = [np.zeros((0, 3, 3), np.uint8), np.zeros((28, 28), np.float32), np.zeros((2, 2, 2, 2), np.uint8)]
    images = [Image.new("RGB", (1, 500)), Image.new("F", (28, 28))]
    sizes = [(13_300, 13_300), (100_000, 100_000), (2**31 - 1, 1), (0, 5)]
    for image in ("a\0b", "x" * 5000, b"", 3, object(), *arrays, *images, *(large_png(*size) for size in sizes)):
        yield image, ""


def damaged(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    how = draw.randrange(4)
    if how == 0:
        return data[: draw.randrange(1, len(data))]
    if how == 1:
        return data[: draw.randrange(len(data))] + draw.randbytes(draw.randrange(1, 200))
    for _ in range(draw.choice([1, 2, 8])):  # anywhere, or where the header is
        changed[draw.randrange(len(data) if how == 2 else min(64, len(data)))] = draw.randrange(256)
    return bytes(changed)


def image_cases(number: int, draw: random.Random, folder: Path, processor: Any) -> Iterator[Case]:
    good = ["an apple", picture(draw), {"text": "it"}]

    def batch(image: Any, row: int) -> list[Any]:
        item = draw.choice([{"image": image}, {"image": image, "text": "an apple"}])
        return [*good[:row], item, *good[row + 1 :]]

    for image, said in no_images(folder):
        row = draw.randrange(len(good))
        items = batch(image, row)
        yield Case(f"image {image!r:.60}", lambda i=items: processor.process(i), named=rf"Row {row}\b.*{said}")
    for place in range(number):
        form, mode = draw.choice(FORMATS)
        buffer, row = io.BytesIO(), draw.randrange(len(good))
        picture(draw, mode).save(buffer, form)
        data, path = damaged(draw, buffer.getvalue()), folder / f"{place}.{form.lower()}"
        path.write_bytes(data)
        items = batch(draw.choice([data, str(path)]), row)
        check = same_as_pillow(data, items, row, processor)
        yield Case(f"image {path.name}", lambda i=items: processor.process(i), check, rf"Row {row}\b")


def same_as_pillow(data: bytes, items: list[Any], row: int, processor: Any) -> Check:
    """Pixels are those that Pillow sees, where it needs no judgement to make them RGB."""

    def check(inputs: Any) -> str | None:
        expected = as_pillow_sees_it(data)
        if expected is None:
            return "it passed, and Pillow cannot read it"
        if expected.has_transparency_data or expected.mode.startswith(("I", "F")):
            return None
        changed = [*items[:row], {**items[row], "image": expected.convert("RGB")}, *items[row + 1 :]]
        return (
            None if torch.equal(processor.process(changed)["pixel_values"], inputs["pixel_values"]) else "other pixels"
        )

    return check
