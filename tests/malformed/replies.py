"""Malformed replies of a chat server: bodies with other bytes, and questions in pieces of lists, JSON and thoughts."""

import json
import random
from collections.abc import Iterator
from typing import Any

from tests.malformed.cases import Case
from trainers.data.qa.parsing import find_questions, without_thoughts
from trainers.data.qa.server import _read_reply


__all__ = ["reply_cases"]

PIECES = ["1. What is it?", "\n", "- Where?", " ", '"', "[", "]", "{", "}", '"question":', ",", "<think>", "</think>"]
PIECES += ["```", "```json\n", "Q2: Why?", "**", "\ud800", "\0", "?", "。", "？", "(3)", "3 dogs?", "\u2028", "null"]
PIECES += ["NaN", "<|im_end|>", "[" * 1500, "9" * 5000]
ENDS = ("?", "？", "？」", "؟", "⁇")


def reply_cases(number: int, draw: random.Random) -> Iterator[Case]:
    for place in range(number):
        yield question_case(draw) if place % 2 else body_case(draw)


def question_case(draw: random.Random) -> Case:
    text = "".join(draw.choices(PIECES, k=draw.randrange(1, 12)))
    words = "".join(without_thoughts(text).split())

    def check(found: list[str]) -> str | None:
        made_up = [one for one in found if "".join(one.split()) not in words or not one.endswith(ENDS)]
        return f"made up: {made_up}" if made_up or not found else None

    return Case(f"questions {text!r:.100}", lambda: find_questions(text), check)


def body_case(draw: random.Random) -> Case:
    content = draw.choice(["A cup.", None, "é", "[" * 1500])
    body = json.dumps({"choices": [{"message": {"content": content}}], "usage": {"prompt_tokens": 3}}).encode()
    place = draw.randrange(len(body))
    other = body[:place] + draw.randbytes(2) + body[place + 1 :]
    more = body[:place] + draw.choice([b'"', b"{", b"\0", b"[[", b"1e999", b'"a": 1,']) + body[place:]
    body = draw.choice([body[:place], other, more])

    def check(reply: Any) -> str | None:
        expected = json.loads(body.decode("utf-8-sig"))["choices"][0]["message"]["content"]
        return None if reply.text == (expected or "") else f"{reply!r}"

    return Case(f"reply {body!r:.100}", lambda: _read_reply(body.decode("utf-8-sig")), check)
