"""Scenes as pixels: stamps of every shape, size and texture, made once, are laid on the background."""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.world_study.scenes import SHAPES, SIZES, TEXTURES, WORDS, Scene


STAMP = 16  # pixels of a place, and of an image token
SIDE = 3 * STAMP
RADIUS = {"small": 3.5, "big": 6.5}  # with room for the jitter
DIM = 0.45  # of a colour, where a texture is dark
RGB = {
    "red": (230, 40, 40),
    "green": (40, 190, 60),
    "blue": (60, 90, 255),
    "yellow": (245, 225, 50),
    "purple": (160, 50, 200),
    "orange": (255, 140, 20),
    "cyan": (60, 220, 230),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
    "grey": (110, 110, 110),
    "brown": (90, 55, 25),
    "navy": (15, 20, 80),
}
INK = (255, 170, 190)


@functools.cache
def stamp(shape: str, size: str, texture: str) -> np.ndarray:
    """How much colour a thing has where, `(STAMP, STAMP, 1)`; 0 is background."""
    y, x = np.mgrid[:STAMP, :STAMP] - (STAMP - 1) / 2
    r = RADIUS[size]
    across, up = np.abs(x), np.abs(y)
    box = np.maximum(across, up) <= r
    within = {
        "square": box,
        "bar": box & (up <= r / 2.5),
        "post": box & (across <= r / 2.5),
        "cross": box & (np.minimum(across, up) <= r / 3),
        "ring": box & (np.maximum(across, up) >= r / 1.8),
        "wedge": box & (x <= y),
    }[shape]
    rows, columns = (y // 2).astype(int), (x // 2).astype(int)
    bright = {"plain": True, "striped": rows % 2 == 0, "checked": (rows + columns) % 2 == 0}[texture]
    return (within * np.where(bright, 1, DIM))[..., None]


@functools.cache
def letters(word: str) -> np.ndarray:
    """The same of a word."""
    picture = Image.new("L", (STAMP, STAMP))
    pen = ImageDraw.Draw(picture)
    for number, letter in enumerate(word):
        pen.text((5 * number, 2), letter, fill=255, font=ImageFont.load_default_imagefont())
    return (np.asarray(picture) > 127)[..., None].astype(float)


def corner(place: int) -> tuple[int, int]:
    """Where a place begins."""
    row, column = divmod(place, 3)
    return STAMP * row, STAMP * column


def draw_picture(scene: Scene) -> np.ndarray:
    """Pixels of a scene, `(SIDE, SIDE, 3)` in bytes."""
    pixels = np.empty((SIDE, SIDE, 3), np.uint8)
    pixels[:] = RGB[scene.background]
    inked = [(stamp(t.shape, t.size, t.texture), RGB[t.colour], t.place) for t in scene.things]
    inked.append((letters(scene.word), INK, scene.word_place))
    for (mask, colour, place), moved in zip(inked, (*scene.jitter, (0, 0)), strict=True):
        top, left = corner(place)
        mask = np.roll(mask, moved, axis=(0, 1))  # its margin is as wide as the jitter
        part = pixels[top : top + STAMP, left : left + STAMP]
        np.copyto(part, (mask * colour).astype(np.uint8), where=mask > 0)
    return pixels


def sheet() -> np.ndarray:
    """All stamps in rows, to be looked at."""
    things = [np.hstack([stamp(s, size, t) for size in SIZES for t in TEXTURES]) for s in SHAPES]
    words = [np.hstack([letters(word) for word in WORDS[start : start + 6]]) for start in (0, 2)]
    return np.vstack(things + words)[..., 0]
