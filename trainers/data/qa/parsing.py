"""The questions in what a model wrote: numbered or bulleted lists, JSON, or plain lines."""

from __future__ import annotations

import json
import re
from typing import Any

from trainers.data.qa.chat import Fault


__all__ = ["find_questions", "without_thoughts"]

# Nothing here may go back over what it has read: a reply can be 280,000 characters of anything. So quantifiers over
# blanks are possessive (`*+`), and what may stand between them does not overlap.
THOUGHT = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
FENCE = re.compile(r"^[ \t]*+```[\w-]*+[ \t\r]*+$", re.MULTILINE)
# 1. 1) (1) 1: Q1. Question 1: - * • and any of them in bold
MARK = re.compile(
    r"(?:\*\*|__)?\s*+(?:(?:q|question|frage|问题|質問)?\s*+[(\[]?\d{1,2}\s*+[.):\]、．：]|[-*•–‣]\s)"
    r"\s*+(?:\*\*|__)?\s*+",
    re.IGNORECASE,
)
LABEL = re.compile(r"(?:q|question|frage|问题|質問)\s*+[:：]\s*+", re.IGNORECASE)
AROUND = " \t\r\n\"'“”„«»「」`*_,"
QUESTION_MARKS = ("?", "？", "؟", "⁇", "？」")


def find_questions(text: str) -> list[str]:
    """
    Finds the questions in a reply.

    Args:
        text (`str`): a JSON list of texts, or of objects with the key `question`, or an object with such a list; a
            list whose items are numbered or have bullets; or lines. Remarks around them are left out, and so are
            items that do not end with a question mark.

    Returns:
        `list[str]`: the questions in their order, stripped of numbers, bullets, quotes and emphasis.

    Raises:
        Fault: if it is JSON that breaks off or has no questions where they should be, or has no question at all.
    """
    text = FENCE.sub("", without_thoughts(text)).strip()
    items = _from_json(text) if text[:1] in ("[", "{") else _from_lines(text)
    questions = [question for item in items if (question := _bare(item)).endswith(QUESTION_MARKS)]
    if not questions:
        raise Fault("no questions", f"there is none in {text[:200]!r}")
    return questions


def without_thoughts(text: str) -> str:
    """A reply without what a model that thinks aloud says before it, and without a thought that does not end."""
    kept, start, thinking, first = [], 0, False, True
    for mark in THOUGHT.finditer(text):
        ends = bool(mark[1])
        if not thinking and not ends:
            kept.append(text[start : mark.start()])
            thinking = True
        elif ends and (thinking or first):
            # Of some models the mark at which thoughts begin is part of the prompt, and the reply has only the end.
            start, thinking = mark.end(), False
        first = False
    if not thinking:
        kept.append(text[start:])
    return "".join(kept).strip()


def _from_json(text: str) -> list[str]:
    try:
        found, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise Fault("no questions", f"JSON that cannot be read ({error}): {text[:200]!r}") from error
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else list(found.values())
    questions = [_question_of(item) for item in found]
    if not questions or None in questions:
        raise Fault("no questions", f"JSON of another form: {text[:200]!r}")
    return questions


def _question_of(item: Any) -> str | None:
    if isinstance(item, dict):
        item = item.get("question", item.get("text"))
    return item if isinstance(item, str) else None


def _from_lines(text: str) -> list[str]:
    lines = [line.lstrip() for line in text.splitlines() if line.strip()]
    marked = [line[mark.end() :] for line in lines if (mark := MARK.match(line))]
    return marked or lines


def _bare(item: str) -> str:
    return " ".join(_without_label(item.strip(AROUND)).strip(AROUND).split())


def _without_label(item: str) -> str:
    label = LABEL.match(item)
    return item[label.end() :] if label else item
