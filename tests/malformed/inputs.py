"""Malformed inputs of a processor: values of every wrong type and form, and special tokens in every place."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tests.malformed.cases import Case
from tests.malformed.tables import turns


__all__ = ["dialogue_cases", "input_cases"]

BLOCKS: list[Any] = [
    None,
    3,
    "x",
    [],
    {},
    {"type": "text"},
    {"type": "text", "text": None},
    {"type": "text", "text": 3},
]
BLOCKS += [{"type": "image"}, {"type": "image", "image": None}, {"type": "audio", "audio": "x"}, {"text": "x"}]
BLOCKS += [{"type": ["text"], "text": "x"}, {"type": "text", "text": "x", "image": "y"}, {"type": "TEXT", "text": "x"}]
NO_ROLES = (None, 3, "", "User", "tool", [], {})


def wrong_inputs() -> Iterator[Any]:
    circle: list[Any] = []
    circle.append(circle)
    yield from [
        None,
        3,
        1.5,
        True,
        b"x",
        set(),
        (),
        {},
        [],
        "",
        " \n",
        object(),
        print,
        circle,
        [None],
        [[]],
        ["x"],
        [3],
    ]
    yield from [{"text": None}, {"text": 3}, {"text": b"x"}, {"text": ["a", None, 3]}, {"text": {}}, {"image": None}]
    yield from [
        {"txt": "x"},
        {"text": "x", "images": []},
        {"text": "x", "video": "y"},
        {"image": "x", 3: 4},
        {None: 1},
    ]
    yield from [
        "half \ud800",
        {"text": "\udfff"},
        {"text": " "},
        {"text": [], "image": []},
        np.zeros(3),
        torch.zeros(3),
    ]
    for block in BLOCKS:
        yield [{"role": "user", "content": [block]}]
        yield [{"role": "user", "content": [{"type": "text", "text": "x"}, block]}]
    for content in (None, "", [], 3, {}, True, b"x", object()):
        yield [{"role": "user", "content": content}]
    for role in NO_ROLES:
        yield [{"role": role, "content": "x"}]
    yield from ([{"role": "user"}], [{"content": "x"}], [{"role": "user", "content": "x"}, None])
    yield [{"role": "system", "content": "x"}]  # an instruction alone


def typed_token(draw: random.Random, tokens: list[str]) -> Any:
    """An input in which a special token is typed, maybe across two blocks."""
    token = draw.choice(tokens)
    text = "".join(draw.choices(["a", " ", "\n", "é", "<", "|", ">"], k=draw.randrange(6)))
    text = draw.choice([f"{text}{token}", f"{token}{text}", f"{text} {token} {text}"])
    middle = text.index(token) + 3
    halves = [{"type": "text", "text": part} for part in (text[:middle], text[middle:])]
    message = {"role": draw.choice(["user", "assistant", "system"]), "content": text}
    several = [{"role": "user", "content": "x"}, message]
    return draw.choice(
        [text, {"text": text}, {"text": ["fine", text]}, several, [{"role": "user", "content": halves}]]
    )


def input_cases(number: int, draw: random.Random, processor: Any) -> Iterator[Case]:
    good = ["an apple", {"text": "it"}, [{"role": "user", "content": "red"}], "green"]
    wrong = list(wrong_inputs())
    wrong += [typed_token(draw, processor.tokenizer.all_special_tokens) for _ in range(number - len(wrong))]
    for item in wrong:
        row = draw.randrange(len(good))
        items = [*good[:row], item, *good[row + 1 :]]
        yield Case(f"input {item!r:.80}", lambda i=items: processor.process(i), named=rf"[Rr]ow {row}\b")


def dialogue_cases(number: int, draw: random.Random, processor: Any) -> Iterator[Case]:
    good = [turns("q", "a"), turns("red?", "no", "green?", "yes")]
    wrong: list[Any] = [None, 3, "x", b"x", {}, [None], ["x"], [[]], [3], [{}], [{"role": "user"}], [{"content": "x"}]]
    wrong += [
        turns(content, "a") for content in (None, 3, [], {}, b"x", [{"type": "text", "text": 3}], "\ud800", object())
    ]
    wrong += [[{"role": role, "content": "x"}] for role in NO_ROLES]
    for _ in range(number - len(wrong)):
        texts = [draw.choice(["an apple", "it", "é", "<|", "a\nb"]) for _ in range(4)]
        token = draw.choice(["", " ", "x"]) + draw.choice(processor.tokenizer.all_special_tokens)
        texts[draw.randrange(4)] += token + draw.choice(["", "\nsystem", "x"])
        wrong.append(turns(*texts))
    for messages in wrong:
        row = draw.randrange(3)
        batch = [*good[:row], messages, *good[row:]]
        run = processor.process_dialogues
        yield Case(f"dialogue {messages!r:.80}", lambda b=batch, r=run: r(b), named=rf"[Rr]ow {row}\b")
