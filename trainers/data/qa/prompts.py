"""What a model is asked when it writes a dialogue about an image (paper, section 3.3), in each of four formats."""

from __future__ import annotations

import hashlib
from typing import Literal, get_args


__all__ = ["ANSWER_PROMPT", "FORMATS", "REQUESTS", "QAFormat", "draw", "prompts_digest", "question_prompt"]

QAFormat = Literal["multi-turn", "single-turn", "caption", "description"]
FORMATS = get_args(QAFormat)

QUESTION_PROMPT = """\
Look closely at the picture and write {number} about it. {together} what matters in it:
- the main objects, and their attributes: colour, number, material, shape, position;
- the scene: where and when it is, and what is going on;
- any text, sign or logo that can be read;
- how people, animals and things relate to each other.
Leave out what the picture has nothing of. The picture alone must be enough to answer: ask for nothing that takes \
other knowledge or a guess. Ask for one thing at a time, never for the same thing twice, and do not give the answer \
away in the question. Write nothing but {form}, ending with a question mark."""

ANSWER_PROMPT = """\
Answer questions about the picture from what it shows and nothing else, truthfully and precisely, in one sentence or \
two, without remarks about the task."""

# What the rows of the two formats without questions say. They vary, so that nothing depends on the wording of one.
REQUESTS = {
    "caption": (
        "Write a caption for the picture, one sentence.",
        "Say in one sentence what the picture shows.",
        "Give a short caption.",
        "What does the picture show, in a sentence?",
    ),
    "description": (
        "Describe the picture in detail.",
        "Describe what can be seen: the objects, the scene, any text, and how they relate.",
        "Write a detailed description of the picture.",
        "What is in the picture? Leave nothing out that matters.",
    ),
}


def question_prompt(at_least: int, at_most: int) -> str:
    """
    The request for questions.

    Args:
        at_least, at_most (`int`): how many.

    Returns:
        `str`
    """
    if at_most == 1:
        together, form = "It should ask for as much as one question can of", "the question"
        return QUESTION_PROMPT.format(number="one question", together=together, form=form)
    number = f"{at_least} to {at_most}" if at_least < at_most else str(at_most)
    form = "the questions, numbered, one on a line, each"
    together = "Together they should cover"
    return QUESTION_PROMPT.format(number=f"{number} questions", together=together, form=form)


def draw(wordings: tuple[str, ...], seed: int) -> str:
    """One of some wordings, the same for the same seed."""
    return wordings[seed % len(wordings)]


def prompts_digest() -> str:
    """Changes when any wording here does."""
    everything = repr((QUESTION_PROMPT, ANSWER_PROMPT, REQUESTS)).encode()
    return hashlib.blake2b(everything, digest_size=8).hexdigest()
