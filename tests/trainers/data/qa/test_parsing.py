"""Questions are found in whatever form a model wrote them, and nothing else is taken for one."""

import random
import time

import pytest

from trainers.data.qa.chat import Fault
from trainers.data.qa.filters import Limits, answer_fault, is_refusal, question_fault
from trainers.data.qa.parsing import find_questions, without_thoughts


QUESTIONS = ["What is on the table?", "Which colour is the cup?", 'What does the sign "No. 5" say?']


@pytest.mark.parametrize(
    "text",
    [
        "1. {}\n2. {}\n3. {}",
        "1) {}\n\n2) {}\n\n3) {}\n",
        "(1) {}\n(2) {}\n(3) {}",
        "Sure! Here are three questions about the image:\n\n1. {}\n2. {}\n3. {}\n\nDo they help you?",
        "**1.** {}\n**2.** {}\n**3.** {}",
        "1. **{}**\n2. **{}**\n3. *{}*",
        "Q1: {}\nQ2: {}\nQ3: {}",
        "Question 1: {}\nQuestion 2: {}\nQuestion 3: {}",
        "- {}\n- {}\n- {}",
        "* {}\n• {}\n– {}",
        "   1. {}\r\n   2. {}\r\n  10. {}",
        "{}\n{}\n{}",
        "Questions:\n{}\n{}\n{}",
        "<think>1. Is this one? I think so.\n2. Another?</think>\n1. {}\n2. {}\n3. {}",
        "1. Objects and attributes:\n2. {}\n3. {}\n4. Look at the sign.\n5. {}",
    ],
)
def test_lists(text: str) -> None:
    assert find_questions(text.format(*QUESTIONS)) == QUESTIONS


@pytest.mark.parametrize(
    "text",
    [
        '["{}", "{}", "{}"]',
        '```json\n["{}", "{}", "{}"]\n```',
        '{{"questions": ["{}", "{}", "{}"]}}',
        '{{"topic": "a table", "questions": ["{}", "{}", "{}"]}}',
        '[{{"question": "{}"}}, {{"question": "{}", "type": "colour"}}, {{"question": "{}"}}]',
        '{{"1": "{}", "2": "{}", "3": "{}"}}',
    ],
)
def test_json(text: str) -> None:
    escaped = [question.replace('"', '\\"') for question in QUESTIONS]
    assert find_questions(text.format(*escaped)) == QUESTIONS


def test_other_scripts() -> None:
    text = "1. 桌子上有什么？\n2、杯子是什么颜色的？\n3．ما لون الكأس؟"
    assert find_questions(text) == ["桌子上有什么？", "杯子是什么颜色的？", "ما لون الكأس؟"]


def test_numbers_that_belong_to_a_question_stay() -> None:
    assert find_questions("1. 3 dogs or 4 dogs?\n2. Is 12:30 on the clock?") == [
        "3 dogs or 4 dogs?",
        "Is 12:30 on the clock?",
    ]
    assert find_questions("2 dogs are there, or 3?\n1980s or 1990s?") == ["2 dogs are there, or 3?", "1980s or 1990s?"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "There is a table.",
        "1. A table.\n2. A cup.",
        '["What is it?", "What col',
        '{"questions": [1, 2]}',
        '[["What is it?"]]',
        "[]",
        '{"a": 1}',
        "1. What is it? A table.",  # it answers itself
        "[" * 1500,
        '{"questions": ' + "[" * 50_000,
        '{"a":' * 50_000,
        "[" + "9" * 5000 + "]",  # more digits than Python turns to a number
        '["What is it?", \x00"What?"]',
    ],
)
def test_no_questions(text: str) -> None:
    with pytest.raises(Fault) as error:
        find_questions(text)
    assert error.value.reason == "no questions"


def test_thoughts_are_left_out() -> None:
    assert without_thoughts("<think>\nhm\n</think>\n\nA cup. ") == "A cup."
    assert without_thoughts("A cup.") == "A cup."
    assert without_thoughts("Well. <think>hm</think> A cup. <think>Or not?</think>") == "Well.  A cup."
    # where the prompt has the mark at their beginning
    assert without_thoughts("hm, what is it?\n</think>\n\nA cup.") == "A cup."
    assert find_questions("1. Is it a cup?\n</think>\n1. What is it?") == ["What is it?"]
    # one that does not end is no answer
    assert without_thoughts("<think>hm") == "" and without_thoughts("A cup. <think>hm") == "A cup."
    assert without_thoughts("<THINKING>a<think>b</Think>c</think>d") == "c</think>d"


PIECES = [
    "<think>",
    "</think>",
    "<",
    "<think",
    "\n",
    " ",
    "\t",
    "\r\n",
    "*",
    "**",
    "_",
    "1",
    "12.",
    "(",
    "[",
    "q",
    "Q ",
]
PIECES += ["question ", "```", "`", "-", "- ", "a", "ab", "no ", "i am ", "i'm very ", "so ", "it's ", "as an ", '"']
PIECES += ["{", "[[", '{"a":', "\\", "<|", "|>", "<|a", "aaab", "ab" * 39 + "c", "x " * 40 + "y ", "?", "İ", "\u3000"]


@pytest.mark.slow
def test_no_text_takes_long() -> None:
    """120,000 characters of anything, and of any two or three things in turn, are a matter of a moment."""
    draw = random.Random(0)
    alone = [piece * (120_000 // len(piece)) for piece in PIECES]
    mixed = ["".join(draw.sample(PIECES, number)) for number in (2, 3) for _ in range(8)]
    texts = alone + [piece * (120_000 // len(piece)) for piece in mixed]
    texts += [draw.choice(alone)[:60_000] + draw.choice(alone)[:60_000] for _ in range(16)]
    for text in texts:
        started = time.process_time()
        try:
            find_questions(text)
        except Fault:
            pass
        without_thoughts(text)
        is_refusal(text)
        question_fault(text, [text[:-1]], Limits())
        answer_fault("What is it?", text, [text[:-1]], Limits())
        assert time.process_time() - started < 2, text[:100]
