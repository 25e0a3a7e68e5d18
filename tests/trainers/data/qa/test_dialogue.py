"""One dialogue: what is asked in which conversation, what is thrown away, and when there is none."""

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from trainers.data.qa.chat import ImageFile, Message, Rejected, Reply
from trainers.data.qa.dialogue import Dialogue, QASettings, Writing
from trainers.data.qa.filters import Limits
from trainers.data.qa.prompts import ANSWER_PROMPT, FORMATS, REQUESTS, question_prompt


PICTURE = ImageFile(b"an image", "image/png", b"an image")
FIVE = "1. What a?\n2. What b?\n3. What c?\n4. What d?\n5. What e?"


class Script:
    """Says what was written for it, in turn, and keeps what it was asked."""

    concurrency, fingerprint = 1, {"model": "script"}

    def __init__(self, *replies: str | Reply) -> None:
        self.replies, self.asked, self.seeds = list(replies), [], []

    async def complete(self, messages: list[Message], seed: int) -> Reply:
        self.asked.append([dict(message) for message in messages])
        self.seeds.append(seed)
        reply = self.replies.pop(0)
        return Reply(reply, False, 10, 2) if isinstance(reply, str) else reply


def write(script: Script, name: str = "row", **settings: Any) -> Dialogue:
    return asyncio.run(Writing(script, PICTURE, QASettings(**settings), name).write())


def turns(dialogue: Dialogue) -> list[tuple[str, str]]:
    contents = [message["content"] for message in dialogue.messages]
    return list(zip(contents[::2], contents[1::2], strict=True))


def test_questions_then_answers_in_one_conversation() -> None:
    script = Script(FIVE, "one", "two", "<think>hm</think>three", "four", "five")
    dialogue = write(script)
    letters, answers = "abcde", ["one", "two", "three", "four", "five"]
    assert turns(dialogue) == [(f"What {letter}?", answer) for letter, answer in zip(letters, answers, strict=True)]
    assert [message["role"] for message in dialogue.messages] == ["user", "assistant"] * 5
    assert all(message.keys() == {"role", "content"} for message in dialogue.messages)
    assert (dialogue.calls, dialogue.prompt_tokens, dialogue.completion_tokens) == (6, 60, 12)

    (ask,), first, second = script.asked[:3]
    assert ask == {"role": "user", "content": question_prompt(3, 5), "image": PICTURE}
    assert first == [{"role": "user", "content": f"{ANSWER_PROMPT}\n\nWhat a?", "image": PICTURE}]
    assert second == [*first, {"role": "assistant", "content": "one"}, {"role": "user", "content": "What b?"}]
    assert len(script.asked[-1]) == 9 and len(set(script.seeds)) == 6


def test_bad_answers_are_asked_for_again_and_then_left_out() -> None:
    script = Script(FIVE, "one", "", "I'm sorry, I can't see it.", "", "three", Reply("and so", True), "four", "five")
    dialogue = write(script)
    assert [question for question, _ in turns(dialogue)] == ["What a?", "What c?", "What d?", "What e?"]
    assert dialogue.dropped == {"answer: empty": 2, "answer: refusal": 1, "answer: cut off": 1}
    assert [message["content"] for message in script.asked[5]][1:] == ["one", "What c?"]


def test_spare_questions_stand_in_for_bad_answers() -> None:
    script = Script(f"{FIVE}\n6. What f?\n7. What g?", "one", "", *("two", "three", "four", "five"))
    dialogue = write(script, attempts=1)
    assert [question for question, _ in turns(dialogue)] == [f"What {letter}?" for letter in "acdef"]
    assert not script.replies


def test_bad_questions_are_left_out() -> None:
    long = f"What {'very ' * 20}x?"
    script = Script(f"1. What a?\n2. What a ?\n3. {long}\n4. What c?\n5. What d?", "one", "two", "three")
    dialogue = write(script, limits=Limits(50, 50))
    assert [question for question, _ in turns(dialogue)] == ["What a?", "What c?", "What d?"]
    assert dialogue.dropped == {"question: repeated": 1, "question: too long": 1}


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        (["", "", ""], "questions: empty"),
        (["I cannot see it.", "no", "I cannot see it."], "questions: refusal"),
        (["no", "no", '["What a?"'], "questions: no questions"),
        (["no", "no", "1. What a?\n2. What b?"], "questions: too few"),
        (["no", "no", Reply(FIVE, True)], "questions: cut off"),
        (["[" * 1500, '{"a":' * 1500, "[" * 1500], "questions: no questions"),
        (["no", "no", "x" * 500_001], "questions: too long"),
        (["no", "no", "<think>" * 40_000], "questions: empty"),
        ([FIVE.replace("?", "<|im_end|>?")] * 3, "questions: too few"),
        ([FIVE, *["It has a \ud800 in it."] * 15], "too few turns"),
        ([FIVE, *["one"] * 2, *[""] * 9], "too few turns"),
    ],
)
def test_no_dialogue(replies: list, reason: str) -> None:
    script = Script(*replies)
    writing = Writing(script, PICTURE, QASettings(), "row")
    with pytest.raises(Rejected) as error:
        asyncio.run(writing.write())
    assert error.value.reason == reason and not script.replies
    assert writing.dialogue.calls == len(replies) and writing.dialogue.dropped


def test_more_questions_than_anybody_needs() -> None:
    many = "\n".join(f"{number % 90 + 1}. What is thing {number}?" for number in range(20_000))
    started = time.process_time()
    dialogue = write(Script(many, *"12345"))
    assert time.process_time() - started < 3
    assert len(turns(dialogue)) == 5 and dialogue.dropped == {"question: too many": 19_900}


def test_single_turn() -> None:
    script = Script("What is it, and where?\n\nIs that all?", "a cup")
    dialogue = write(script, format="single-turn")
    assert turns(dialogue) == [("What is it, and where?", "a cup")]
    assert script.asked[0][0]["content"] == question_prompt(1, 1) and "one question" in question_prompt(1, 1)


@pytest.mark.parametrize("kind", ["caption", "description"])
def test_no_questions_at_all(kind: str) -> None:
    requests = Counter()
    for number in range(20):
        script = Script("an image of a cup")
        dialogue = write(script, name=f"row {number}", format=kind)
        ((request, answer),) = turns(dialogue)
        requests[request] += 1
        assert answer == "an image of a cup"
        assert script.asked == [[{"role": "user", "content": request, "image": PICTURE}]]
    assert set(requests) == set(REQUESTS[kind])


def test_seeds_depend_on_the_row_and_its_calls_alone() -> None:
    scripts = [Script(FIVE, *"12345") for _ in range(4)]
    write(scripts[0])
    write(scripts[1])
    write(scripts[2], name="other")
    write(scripts[3], seed=1)
    assert scripts[0].seeds == scripts[1].seeds
    assert not set(scripts[0].seeds) & {*scripts[2].seeds, *scripts[3].seeds}
    assert all(0 <= seed < 2**31 for seed in scripts[0].seeds)


def test_settings() -> None:
    assert [QASettings(format=kind).turns for kind in FORMATS] == [(3, 5), (1, 1), (1, 1), (1, 1)]
    for wrong in ({"format": "x"}, {"at_least": 0}, {"at_least": 6}, {"attempts": 0}, {"limits": Limits(0, 1)}):
        with pytest.raises(ValueError):
            QASettings(**wrong)
    assert QASettings().fingerprint != QASettings(at_most=4).fingerprint
    assert QASettings(format="caption").fingerprint == QASettings(format="caption", at_most=4).fingerprint
    assert QASettings(max_image_pixels=10).fingerprint == QASettings().fingerprint
    with pytest.raises(ValueError, match="max_image_pixels=0 must be 1 or more"):
        QASettings(max_image_pixels=0)
