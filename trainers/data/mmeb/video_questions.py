"""Questions on videos, each set of which has columns and a way to write its options of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainers.data.faults import describe, fault
from trainers.data.mmeb.columns import name_in, text_in, texts_in
from trainers.data.mmeb.video_layout import subset_videos


__all__ = ["VideoQuestion", "read_question"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
YES_OR_NO = ("yes", "no")


class VideoQuestion(NamedTuple):
    """
    What a row asks.

    Args:
        text (`str`): the question with its options, as it stands after the instruction.
        candidates (`list[tuple[str, str]]`): the name of each option, and its text.
        right (`str`): the name of the right one.
        column, video (`str`): where the video is named, and the folder of its frames.
        file (`str`): its file.
    """

    text: str
    candidates: list[tuple[str, str]]
    right: str
    column: str
    video: str
    file: str


def read_question(name: str, row: dict[str, Any]) -> VideoQuestion:
    """
    Reads a row of a set of questions.

    Args:
        name (`str`): of the set.
        row (`dict`): of it.

    Returns:
        [`VideoQuestion`]: options are known by their letter and text, their embeddings are of the text alone; those of
        MVBench are embedded with their letter.

    Raises:
        ValueError: for a row that is malformed, with the column, what was found and what was expected.
    """
    question = text_in(row, "question")
    if name == "Video-MME":
        options = texts_in(row, "options")
        text = "\n".join([question, *options])
        return _question(text, _without_letters(options), _place(row, LETTERS), row, "videoID")
    if name == "EgoSchema":
        options = texts_in(row, "option")
        text = question + " ".join(options)  # with nothing between the question and the first one, as in the benchmark
        return _question(text, _without_letters(options), _number(row), row, "video_idx")
    if name == "NExTQA":
        options = [text_in(row, f"a{number}") for number in range(5)]
        text = _with_options(question, _with_letters(options))
        return _question(text, [(option, option) for option in options], _number(row), row, "video")
    if name == "MVBench":
        options = texts_in(row, "candidates")
        lettered = _with_letters(options)
        asked = _question(
            _with_options(question, lettered), list(zip(lettered, lettered, strict=True)), _place(row, options), row,
            "video",
        )  # fmt: skip
        return _of_subset(asked, row)
    candidates = [(answer, answer) for answer in YES_OR_NO]
    asked = _question(f"{question}? (A) yes; (B) no.", candidates, _place(row, YES_OR_NO), row, "video_name")
    return asked._replace(video=f"v_{asked.video}", file=f"v_{asked.file}")


def _question(
    text: str, candidates: list[tuple[str, str]], right: int, row: dict[str, Any], column: str
) -> VideoQuestion:
    if right >= len(candidates):
        raise fault("answer", describe(row["answer"]), f"one of {len(candidates)} options")
    video = name_in(row, column)
    return VideoQuestion(text, candidates, candidates[right][0], column, video, f"{video}.mp4")


def _of_subset(asked: VideoQuestion, row: dict[str, Any]) -> VideoQuestion:
    """Videos of MVBench are named with the end of their file, and lie in a folder of the part of the set."""
    subset, folders = text_in(row, "subset"), subset_videos()
    if subset not in folders:
        raise fault("subset", repr(subset), f"one of {', '.join(folders)}")
    return asked._replace(video=f"{subset}/{asked.video}", file=f"{folders[subset]}/{asked.video}")


def _place(row: dict[str, Any], of: Any) -> int:
    """Which of some options the answer is; the last of equal ones, as in the benchmark."""
    answer, options = text_in(row, "answer"), list(of)
    if answer not in options:
        raise fault("answer", repr(answer), f"one of {', '.join(options)[:200]}")
    return max(place for place, option in enumerate(options) if option == answer)


def _number(row: dict[str, Any]) -> int:
    answer = name_in(row, "answer")
    if not answer.isdecimal():
        raise fault("answer", repr(answer), "the number of an option, from 0")
    return int(answer)


def _with_letters(options: list[str]) -> list[str]:
    return [f"({chr(ord('A') + place)}) {option}" for place, option in enumerate(options)]


def _with_options(question: str, lettered: list[str]) -> str:
    return "\n".join([question, "Options:", *lettered]).rstrip()


def _without_letters(options: list[str]) -> list[tuple[str, str]]:
    """Options such as "A. a cat.": as they are by name, and as they are embedded; cut as the benchmark cuts them."""
    return [(option, option[option.find(". ") :].strip(". ")) for option in options]
