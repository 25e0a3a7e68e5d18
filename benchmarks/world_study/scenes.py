"""Scenes as facts: things with shape, colour, size, texture and place on a background, and a word among them."""

import itertools
import random
from typing import NamedTuple


SHAPES = ("square", "bar", "post", "cross", "ring", "wedge")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white")
SIZES = ("small", "big")
TEXTURES = ("plain", "striped", "checked")
BACKGROUNDS = ("black", "grey", "brown", "navy")
# In reading order. Of one word each: "top left" has to be put together before it can be looked for.
PLACES = ("northwest", "north", "northeast", "west", "centre", "east", "southwest", "south", "southeast")
WORDS = ("cat", "sun", "box", "key", "jar", "pen", "hat", "owl")
NUMBERS = ("none", "one", "two", "three", "four", "five")
LEAST, MOST = 2, 4  # things of a scene

# Combinations that nothing is trained on: of every shape one colour, of every colour at most one shape.
UNSEEN = frozenset(zip(SHAPES, COLOURS, strict=False))
COMBINATIONS = tuple(itertools.product(SHAPES, COLOURS))
SEEN = tuple(pair for pair in COMBINATIONS if pair not in UNSEEN)


class Thing(NamedTuple):
    """One drawn object, at a place by its number in reading order."""

    shape: str
    colour: str
    size: str
    texture: str
    place: int


class Scene(NamedTuple):
    """Everything that can be asked about one picture; things are in reading order."""

    things: tuple[Thing, ...]
    background: str
    word: str
    word_place: int
    jitter: tuple[tuple[int, int], ...]  # of the things, in pixels


def draw_scene(draw: random.Random, unseen: bool = False) -> Scene:
    """
    A random scene.

    Args:
        draw (`random.Random`): decides all of it.
        unseen (`bool`, *optional*, defaults to `False`): whether one of its things, and one alone, has a combination
            of shape and colour that no scene of training has.
    """
    number = draw.randint(LEAST, MOST)
    places = draw.sample(range(len(PLACES)), number + 1)
    pairs = [draw.choice(SEEN) for _ in range(number)]
    if unseen:
        pairs[0] = draw.choice(sorted(UNSEEN))
    things = [
        Thing(*pair, draw.choice(SIZES), draw.choice(TEXTURES), place)
        for pair, place in zip(pairs, places[1:], strict=True)
    ]
    things.sort(key=lambda thing: thing.place)
    jitter = tuple((draw.randint(-1, 1), draw.randint(-1, 1)) for _ in range(number))
    return Scene(tuple(things), draw.choice(BACKGROUNDS), draw.choice(WORDS), places[0], jitter)
