"""Stage 2 and its examination: pairs that cover some attributes (IND), tasks that ask for more (OOD)."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from benchmarks.world_study.pictures import draw_picture
from benchmarks.world_study.questions import KINDS, ask, describe_thing
from benchmarks.world_study.scenes import (
    BACKGROUNDS,
    COLOURS,
    NUMBERS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    WORDS,
    Scene,
    draw_scene,
)
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.encoding.maxsim import maxsim


# What the pairs are about: colour, shape and place. They say nothing of size, texture, word, background and number.
IND_KINDS = ("colour at place", "shape at place", "colour of shape", "shape of colour")
OOD_KINDS = tuple(kind for kind in KINDS if kind not in (*IND_KINDS, "thing at place"))
LABELS = {"background": BACKGROUNDS, "word": WORDS, "count": NUMBERS[2:5]}
# Candidates of a question are the answers of its side. What no pair ever had as a positive or a negative may lie
# anywhere: among those of IND it would be nearest to many, and say nothing of what the pairs are about.
IND_ANSWERS = (*COLOURS, *SHAPES)
OOD_ANSWERS = tuple(dict.fromkeys([*COLOURS, *SIZES, *TEXTURES, *BACKGROUNDS, *WORDS, *NUMBERS[2:5], *PLACES]))


def about_colour_and_shape(scene: Scene) -> str:
    """The description of the pairs."""
    things = [f"{PLACES[thing.place]} {describe_thing(thing, 'colour', 'shape')}" for thing in scene.things]
    return ", ".join(things)


def about_the_rest(scene: Scene) -> str:
    """A description by what the pairs never say."""
    things = [f"{PLACES[thing.place]} {describe_thing(thing, 'size', 'texture')}" for thing in scene.things]
    return f"{scene.background} background, {', '.join(things)}, {PLACES[scene.word_place]} word {scene.word}"


class Pairs(Dataset):
    """
    Rows of stage 2, every second a scene with its description, every other a scene with a question and its answer.

    Args:
        number (`int`): how many different pairs there are.
        length (`int`): how many rows are asked for, going round the pairs.
        seed (`int`): which pairs.
    """

    def __init__(self, number: int, length: int, seed: int) -> None:
        self.number, self.length, self.seed = number, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> dict[str, Any]:
        epoch, place = divmod(place, self.number)
        return self.pair(_order(self.seed, epoch, self.number)[place])

    def pair(self, number: int) -> dict[str, Any]:
        """One of the different pairs."""
        draw = random.Random(f"pairs {self.seed} {number}")
        scene = draw_scene(draw)
        image = draw_picture(scene)
        if number % 2:
            return {"query": {"image": image, "text": None}, "positive": _text(about_colour_and_shape(scene))}
        asked = None
        while asked is None:
            asked = ask(scene, draw.choice(IND_KINDS), draw)
        return {"query": {"image": image, "text": asked.question}, "positive": _text(asked.answer)}


@functools.lru_cache(2)
def _order(seed: int, epoch: int, number: int) -> list[int]:
    """Another order in every epoch, so that a batch has other neighbours."""
    return random.Random(f"order {seed} {epoch}").sample(range(number), number)


def _text(text: str) -> dict[str, Any]:
    return {"text": text, "image": None}


class Task(NamedTuple):
    """Queries, candidates, and which candidates are right, `(queries, candidates)`."""

    name: str
    queries: list[dict[str, Any]]
    candidates: list[dict[str, Any]]
    relevant: torch.Tensor


def make_tasks(number: int = 400, seed: str = "tasks") -> tuple[list[Task], list[Task]]:
    """The tasks IND and OOD, on scenes that each have a combination of shape and colour that was never seen."""
    draw = random.Random(seed)
    scenes = [draw_scene(draw, unseen=True) for _ in range(number)]
    pictures = [{"image": draw_picture(scene)} for scene in scenes]
    ind = [
        _to_scene("description to scene", [about_colour_and_shape(scene) for scene in scenes], pictures),
        _questions("question to answer", scenes, pictures, IND_KINDS, IND_ANSWERS, draw),
    ]
    ood = [
        _partial("partial description to scene", scenes, pictures, draw),
        _to_scene("other attributes to scene", [about_the_rest(scene) for scene in scenes], pictures),
        _questions("other question to answer", scenes, pictures, OOD_KINDS, OOD_ANSWERS, draw),
        *(_labels(kind, scenes, pictures, draw) for kind in LABELS),
    ]
    return ind, ood


def _to_scene(name: str, texts: list[str], pictures: list[dict[str, Any]]) -> Task:
    same = torch.tensor([[one == other for other in texts] for one in texts])
    return Task(name, [{"text": text} for text in texts], pictures, same)


def _partial(name: str, scenes: list[Scene], pictures: list[dict[str, Any]], draw: random.Random) -> Task:
    """Of one thing its place, colour and shape; every scene is right that has it."""
    chosen = [draw.choice(scene.things) for scene in scenes]
    facts = [{(thing.place, thing.colour, thing.shape) for thing in scene.things} for scene in scenes]
    relevant = [[(thing.place, thing.colour, thing.shape) in one for one in facts] for thing in chosen]
    texts = [f"{PLACES[thing.place]} {describe_thing(thing, 'colour', 'shape')}" for thing in chosen]
    return Task(name, [{"text": text} for text in texts], pictures, torch.tensor(relevant))


def _questions(
    name: str,
    scenes: list[Scene],
    pictures: list[dict[str, Any]],
    kinds: Sequence[str],
    answers: Sequence[str],
    draw: random.Random,
) -> Task:
    asked = [(picture, ask(scene, draw.choice(kinds), draw)) for scene, picture in zip(scenes, pictures, strict=True)]
    asked = [(picture, one) for picture, one in asked if one is not None]
    queries = [{**picture, "text": one.question} for picture, one in asked]
    relevant = torch.tensor([[one.answer == answer for answer in answers] for _, one in asked])
    return Task(name, queries, [{"text": answer} for answer in answers], relevant)


def _labels(kind: str, scenes: list[Scene], pictures: list[dict[str, Any]], draw: random.Random) -> Task:
    """Classification by one attribute, among its values."""
    asked = [ask(scene, kind, draw) for scene in scenes[: len(scenes) // 2]]
    queries = [{**picture, "text": one.question} for picture, one in zip(pictures, asked, strict=False)]
    relevant = torch.tensor([[one.answer == label for label in LABELS[kind]] for one in asked])
    return Task(f"class by {kind}", queries, [{"text": label} for label in LABELS[kind]], relevant)


@torch.no_grad()
def embed(
    model: ComaForEmbedding, processor: ComaProcessor, items: list[dict[str, Any]], states: bool = False
) -> torch.Tensor:
    """Embeddings of items of one form, or all states of each, 100 at a time, on the CPU."""
    batches = [processor.process(items[start : start + 100]) for start in range(0, len(items), 100)]
    parts = [model(**batch.to(model.device)) for batch in batches]
    return torch.cat([part.compression_states if states else part.embeddings for part in parts]).cpu()


def precision(
    model: ComaForEmbedding, processor: ComaProcessor, tasks: list[Task], states: bool = False
) -> dict[str, float]:
    """P@1 of every task in percent, and their `mean`: by the embeddings, or by MaxSim of all states."""
    was_training = model.training
    model.eval()
    known: dict[int, torch.Tensor] = {}  # the pictures are candidates of several tasks
    found = {}
    for task in tasks:
        key = id(task.candidates)
        if key not in known:
            known[key] = embed(model, processor, task.candidates, states)
        queries = embed(model, processor, task.queries, states)
        best = (maxsim(queries, known[key]) if states else queries @ known[key].T).argmax(dim=1)
        found[task.name] = round(100 * task.relevant.gather(1, best[:, None]).float().mean().item(), 2)
    model.train(was_training)
    return {**found, "mean": round(sum(found.values()) / len(found), 2)}


def chance(tasks: list[Task]) -> float:
    """The mean P@1 of guessing."""
    return 100 * sum(task.relevant.float().mean().item() for task in tasks) / len(tasks)
