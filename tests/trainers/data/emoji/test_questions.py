"""Every answer about every emoji is true, and no way of asking is forgotten."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from trainers.data.emoji import load_emoji, questions
from trainers.data.emoji.questions import LANGUAGES, write_dialogues


Row = dict


@pytest.fixture(scope="module")
def emoji() -> list[Row]:
    return load_emoji(["noto"]).remove_columns("image").to_list()


def turns_of(messages: list[dict]) -> list[tuple[str, str]]:
    contents = [message["content"] for message in messages]
    return list(zip(contents[::2], contents[1::2], strict=True))


def filled(question: str, templates: tuple[str, ...]) -> str | None:
    """What stands in the gap of the template that made the question."""
    for template in templates:
        before, after = template.split("{}")
        if question.startswith(before) and question.endswith(after):
            return question[len(before) : len(question) - len(after)]
    return None


def sort_and_truth(row: Row, question: str, answer: str) -> tuple[str, bool]:
    """Which sort of question it is, and whether the answer is right."""
    plain = {
        "name": (questions.NAME, row["label"]),
        "keywords": (questions.KEYWORDS, ", ".join(row["tags"])),
        "group": (questions.GROUP, row["group"].replace("-", " and ")),
        "subgroup": (questions.SUBGROUP, row["subgroup"].replace("-", " ")),
        **{language: (questions.NAME_IN[language], row[f"label_{language}"]) for language in LANGUAGES},
    }
    for sort, (wordings, truth) in plain.items():
        if question in wordings:
            return sort, answer == truth
    if (group := filled(question, questions.IS_GROUP)) is not None:
        return "is_group", answer == ("yes" if group == row["group"].replace("-", " and ") else "no")
    if (options := filled(question, questions.CHOICE)) is not None:
        names = options.split(", ")
        return "choice", answer == row["label"] and len(set(names)) == 3 and row["label"] in names
    name = filled(question, questions.IS_NAME)
    return "is_name", name is not None and answer == ("yes" if name == row["label"] else "no")


def test_every_answer_is_true(emoji: list[Row]) -> None:
    for row, messages in zip(emoji, write_dialogues(emoji, 0, 8, LANGUAGES), strict=True):
        sorts = set()
        for question, answer in turns_of(messages):
            sort, right = sort_and_truth(row, question, answer)
            assert right, (row["label"], question, answer)
            sorts.add(sort)
        assert len(sorts) == 8  # no question is asked twice


def test_a_wrong_name_shares_no_word_with_the_right_one(emoji: list[Row]) -> None:
    refused = 0
    for row, messages in zip(emoji, write_dialogues(emoji, 0, 8, LANGUAGES), strict=True):
        for question, answer in turns_of(messages):
            name = filled(question, questions.IS_NAME)
            if sort_and_truth(row, question, answer)[0] == "is_name" and answer == "no":
                refused += 1
                assert not {*row["label"].lower().split(), *row["tags"]} & {*name.lower().split()}
    assert refused > 500


def test_every_sort_is_sometimes_first_and_yes_is_as_likely_as_no(emoji: list[Row]) -> None:
    first, answers = Counter(), Counter()
    for row, messages in zip(emoji, write_dialogues(emoji, 0, 5, LANGUAGES), strict=True):
        turns = turns_of(messages)
        first[sort_and_truth(row, *turns[0])[0]] += 1
        answers.update(answer for _, answer in turns if answer in ("yes", "no"))
    assert (
        min(first[sort] for sort in ("name", "keywords", "group", "subgroup", "choice", "is_name", "is_group")) > 100
    )
    assert all(first[language] > 10 for language in LANGUAGES)
    assert 0.45 < answers["yes"] / answers.total() < 0.55


def test_every_wording_is_used(emoji: list[Row]) -> None:
    asked = Counter(question for row in write_dialogues(emoji, 0, 8, LANGUAGES) for question, _ in turns_of(row))
    wordings = [*questions.NAME, *questions.KEYWORDS, *questions.GROUP, *questions.SUBGROUP]
    wordings += [wording for language in LANGUAGES for wording in questions.NAME_IN[language]]
    assert all(asked[wording] > 20 for wording in wordings)


def test_the_seed_decides_in_every_process(emoji: list[Row]) -> None:
    expected = write_dialogues(emoji, 1, 5, LANGUAGES)
    assert expected != write_dialogues(emoji, 2, 5, LANGUAGES)
    code = (
        "import json, sys; from trainers.data.emoji.questions import *;"
        "print(json.dumps(write_dialogues(json.load(sys.stdin), 1, 5, LANGUAGES)))"
    )
    other = [sys.executable, "-c", code]
    strings = {**os.environ, "PYTHONHASHSEED": "1"}  # orders sets of strings, differently in most processes
    run = subprocess.run(other, check=True, capture_output=True, input=json.dumps(emoji), text=True, env=strings)
    assert json.loads(run.stdout) == expected


def test_only_the_languages_asked_for(emoji: list[Row]) -> None:
    for languages, sorts in (((), 7), (("fr",), 8)):
        for row, messages in zip(emoji, write_dialogues(emoji, 0, sorts, languages), strict=True):
            kinds = {sort_and_truth(row, *turn)[0] for turn in turns_of(messages)}
            assert kinds & set(LANGUAGES) == set(languages)


def test_the_name_is_always_asked(emoji: list[Row]) -> None:
    for row, messages in zip(emoji, write_dialogues(emoji, 0, 1, LANGUAGES), strict=True):
        assert [sort_and_truth(row, *turn) for turn in turns_of(messages)] == [("name", True)]


def test_one_emoji_alone_gets_a_whole_dialogue(emoji: list[Row]) -> None:
    (messages,) = write_dialogues(emoji[:1], 0, 8, LANGUAGES)
    assert len(turns_of(messages)) == 8
    assert all(answer != "no" for _, answer in turns_of(messages))


@pytest.mark.parametrize(
    ("turns", "languages", "message"),
    [
        (9, LANGUAGES, "turns=9 must lie between 1 and 8"),
        (8, (), "turns=8 must lie between 1 and 7"),
        (0, (), "turns=0"),
        (5, ("de", "it"), "'it' is not one of de, fr, es, ja, zh"),
    ],
)
def test_what_cannot_be_asked_is_named(emoji: list[Row], turns: int, languages: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_dialogues(emoji[:3], 0, turns, languages)
