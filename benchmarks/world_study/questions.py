"""What is said about a scene: questions with their answers, in varied wording, and descriptions, whole and partial."""

import random
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.world_study.scenes import NUMBERS, PLACES, Scene, Thing


class Asked(NamedTuple):
    """A question about a scene: what it is about, its wording and its answer."""

    kind: str
    question: str
    answer: str


ATTRIBUTES = ("colour", "shape", "size", "texture")
DESCRIBE = "describe it."
AT_PLACE = ("what {a} is at {p}?", "{a} at {p}?", "name the {a} at {p}.")
OF_THING = ("what {a} is the {t}?", "{a} of the {t}?", "name the {a} of the {t}.")


def describe_thing(thing: Thing, *attributes: str) -> str:
    """In the order of speech: `big red striped circle`, or what of it is to be said."""
    said = attributes or ("size", "colour", "texture", "shape")
    words = [getattr(thing, name) for name in ("size", "colour", "texture", "shape") if name in said]
    return " ".join(words if "shape" in said else [*words, "thing"])


def _at_place(attribute: str) -> Callable[[Scene, random.Random], tuple[str, str]]:
    def ask(scene: Scene, draw: random.Random) -> tuple[str, str]:
        thing = draw.choice(scene.things)
        return draw.choice(AT_PLACE).format(a=attribute, p=PLACES[thing.place]), getattr(thing, attribute)

    return ask


def _of_thing(attribute: str, known: str) -> Callable[[Scene, random.Random], tuple[str, str] | None]:
    def ask(scene: Scene, draw: random.Random) -> tuple[str, str] | None:
        thing = _unique(scene, draw, known)
        if thing is None:
            return None
        answer = PLACES[thing.place] if attribute == "place" else getattr(thing, attribute)
        return draw.choice(OF_THING).format(a=attribute, t=describe_thing(thing, known)), answer

    return ask


def _unique(scene: Scene, draw: random.Random, known: str) -> Thing | None:
    """A thing that one of its attributes tells from the others of its scene."""
    values = [getattr(thing, known) for thing in scene.things]
    several = [thing for thing, value in zip(scene.things, values, strict=True) if values.count(value) == 1]
    return draw.choice(several) if several else None


def _thing_at(scene: Scene, draw: random.Random) -> tuple[str, str]:
    thing = draw.choice(scene.things)
    wording = draw.choice(("what is at {p}?", "describe {p}."))
    return wording.format(p=PLACES[thing.place]), describe_thing(thing)


def _count(scene: Scene, draw: random.Random) -> tuple[str, str]:
    return draw.choice(("how many things?", "how many things are there?")), NUMBERS[len(scene.things)]


def _further_north(scene: Scene, draw: random.Random) -> tuple[str, str] | None:
    return _compare(scene, draw, lambda thing: thing.place // 3, "further north")


def _further_west(scene: Scene, draw: random.Random) -> tuple[str, str] | None:
    return _compare(scene, draw, lambda thing: thing.place % 3, "further west")


def _compare(scene: Scene, draw: random.Random, key: Callable[[Thing], int], word: str) -> tuple[str, str] | None:
    colours = [thing.colour for thing in scene.things]
    first, second = draw.sample(scene.things, 2)
    if key(first) == key(second) or colours.count(first.colour) > 1 or colours.count(second.colour) > 1:
        return None
    wording = draw.choice(("which is {w}, {a} or {b}?", "is {a} or {b} {w}?"))
    return wording.format(w=word, a=first.colour, b=second.colour), min(first, second, key=key).colour


def _background(scene: Scene, draw: random.Random) -> tuple[str, str]:
    return draw.choice(("what background?", "what is the background?")), scene.background


def _word(scene: Scene, draw: random.Random) -> tuple[str, str]:
    return draw.choice(("what word?", "what word is written?")), scene.word


def _word_place(scene: Scene, draw: random.Random) -> tuple[str, str]:
    return draw.choice(("where is the word?", "place of the word?")), PLACES[scene.word_place]


KINDS: dict[str, Callable[[Scene, random.Random], tuple[str, str] | None]] = {
    **{f"{attribute} at place": _at_place(attribute) for attribute in ATTRIBUTES},
    "thing at place": _thing_at,
    "colour of shape": _of_thing("colour", "shape"),
    "shape of colour": _of_thing("shape", "colour"),
    "size of colour": _of_thing("size", "colour"),
    "texture of colour": _of_thing("texture", "colour"),
    "place of colour": _of_thing("place", "colour"),
    "count": _count,
    "further north": _further_north,
    "further west": _further_west,
    "background": _background,
    "word": _word,
    "place of word": _word_place,
}
ATTRIBUTE_OF_KIND = {
    **{kind: kind.split()[0] for kind in KINDS},
    "thing at place": "whole thing",
    "further north": "relation",
    "further west": "relation",
    "place of word": "place",
}


def ask(scene: Scene, kind: str, draw: random.Random) -> Asked | None:
    """A question of a kind, or nothing where a scene has no such question."""
    found = KINDS[kind](scene, draw)
    return None if found is None else Asked(kind, *found)


def ask_several(scene: Scene, draw: random.Random, number: int, kinds: tuple[str, ...] = tuple(KINDS)) -> list[Asked]:
    """Questions of different kinds, as far as there are so many."""
    asked = (ask(scene, kind, draw) for kind in draw.sample(kinds, len(kinds)))
    return [one for one, _ in zip((one for one in asked if one is not None), range(number), strict=False)]


def describe(scene: Scene, draw: random.Random | None = None) -> str:
    """A whole description: in reading order, or in one that is drawn."""
    parts = {thing.place: f"{PLACES[thing.place]} {describe_thing(thing)}" for thing in scene.things}
    parts[scene.word_place] = f"{PLACES[scene.word_place]} word {scene.word}"
    order = sorted(parts)
    if draw is not None:
        draw.shuffle(order)
    return f"{scene.background} background, {', '.join(parts[place] for place in order)}"


def whole_description(scene: Scene) -> Asked:
    """The one turn of a dialogue that says everything."""
    return Asked("description", DESCRIBE, describe(scene))


def as_messages(asked: list[Asked]) -> list[dict[str, str]]:
    """A dialogue of questions and answers."""
    turns = [(("user", one.question), ("assistant", one.answer)) for one in asked]
    return [{"role": role, "content": content} for turn in turns for role, content in turn]
