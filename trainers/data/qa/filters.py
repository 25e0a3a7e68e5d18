"""What is wrong with a question or an answer that a model wrote, if anything."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple


__all__ = ["Limits", "answer_fault", "is_refusal", "plain", "question_fault"]

# A phrase of three characters or more, five times in a row: a model that does not find its end.
LOOP = re.compile(r"(.{3,80}?)\1{4}")
REFUSAL = re.compile(
    r"\b(i am|i'm) (very |so |really )?(sorry|unable|not able)\b"
    r"|\bi (cannot|can not|can't|could not|couldn't|am not able to) "
    r"(see|view|help|assist|provide|answer|determine|identify|access|process|analy[sz]e|describe|fulfill|comply|tell)\b"
    r"|\bas an? (ai|artificial intelligence|(large )?language model)\b"
    r"|\bno (image|picture|photo)s? (was|is|were|has been|have been) (provided|attached|given|uploaded|included)\b"
    r"|\b(please|could you) (upload|provide|attach|share) (the|an|a|your) (image|picture|photo)"
    r"|\b(it is|it's) (not possible|impossible) to (tell|say|determine|know|see|identify|answer)\b"
    r"|\bcannot be (determined|answered|identified) (from|based|with)\b",
    re.IGNORECASE,
)
# What a tokenizer takes for one of its own tokens, and `load_dialogues` for the place of an image: stage 1 refuses it.
SPECIAL_TOKEN = re.compile(r"<\|[^<>|\s]{1,64}\|>|<image>")
SAYS_NOTHING = frozenset(
    "a an the this that these those it its is are was were be being been there here he she they them his her their "
    "of in on at to by with from for and as has have had do does".split()
)
OR = frozenset("or oder ou o или czy".split())
OR_WITHOUT_SPACES = ("还是", "還是", "或", "または", "それとも", "아니면")


class Limits(NamedTuple):
    """The most characters of a question and of an answer."""

    question: int = 300
    answer: int = 2000


def question_fault(question: str, earlier: Iterable[str], limits: Limits) -> str | None:
    """
    Looks at a question.

    Args:
        question (`str`): the question.
        earlier (`Iterable[str]`): questions about the same image before it.
        limits ([`Limits`]): lengths.

    Returns:
        `str` or `None`: `"empty"`, `"too long"`, `"no text"`, `"special token"`, `"repeated"`, or nothing.
    """
    words = plain(question)
    if not words:
        return "empty"
    if len(question) > limits.question:
        return "too long"
    if fault := _unfit(question):
        return fault
    if words in map(plain, earlier) or LOOP.search(words):
        return "repeated"
    return None


def answer_fault(question: str | None, answer: str, earlier: Iterable[str], limits: Limits) -> str | None:
    """
    Looks at an answer.

    Args:
        question (`str`, *optional*): what was asked; `None` if it was no question but a request.
        answer (`str`): the answer.
        earlier (`Iterable[str]`): answers about the same image before it. A short answer may come again.
        limits ([`Limits`]): lengths.

    Returns:
        `str` or `None`: `"empty"`, `"too long"`, `"no text"`, `"special token"`, `"refusal"`, `"repeated"`, `"answers
        itself"` (whoever has read the question knows the answer without the image), or nothing.
    """
    words = plain(answer)
    if not words:
        return "empty"
    if len(answer) > limits.answer:
        return "too long"
    if fault := _unfit(answer) or ("refusal" if is_refusal(answer) else None):
        return fault
    if (len(words.split()) > 4 and words in map(plain, earlier)) or LOOP.search(words):
        return "repeated"
    if question is not None and _in_the_question(words, plain(question)):
        return "answers itself"
    return None


def _unfit(text: str) -> str | None:
    """Whether it cannot stand in a row of stage 1: halves of surrogate pairs, control characters, special tokens."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\t\n\r" for letter in text):
        return "no text"
    return "special token" if SPECIAL_TOKEN.search(text) else None


def is_refusal(text: str) -> bool:
    """Whether a model says, in English, that it will not or cannot do it."""
    return REFUSAL.search(text.replace("’", "'")) is not None


def plain(text: str) -> str:
    """The words alone, in lower case: texts that are the same for a reader are equal."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _in_the_question(answer: str, question: str) -> bool:
    """Whether an answer says nothing that its question does not; a choice between two has to be in the question."""
    asked = set(question.split())
    if asked & OR or any(word in question for word in OR_WITHOUT_SPACES):
        return False
    said = set(answer.split()) - SAYS_NOTHING
    return said <= asked or (not answer.isascii() and answer in question)
