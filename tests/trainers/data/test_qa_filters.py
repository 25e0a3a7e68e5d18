"""What is thrown away, and what only looks as if it should be."""

import pytest

from trainers.data.qa_filters import Limits, answer_fault, question_fault


LIMITS = Limits(100, 200)


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        ("What is it?", None),
        ("What colour is the car?", "repeated"),
        ("what COLOUR is – the car ?", "repeated"),
        ("What colour is the other car?", None),
        ("?!", "empty"),
        ("", "empty"),
        (f"What is {'very ' * 20}old?", "too long"),
        ("Is it a red a red a red a red a red a red car?", "repeated"),
    ],
)
def test_questions(question: str, fault: str | None) -> None:
    assert question_fault(question, ["What colour is the car?"], LIMITS) == fault


@pytest.mark.parametrize(
    ("question", "answer", "fault"),
    [
        ("What colour is the car?", "It is red.", None),
        ("What colour is the car?", "", "empty"),
        ("What colour is the car?", " … ", "empty"),
        ("What colour is the car?", "word " * 50, "too long"),
        ("What colour is the car?", "The car has a colour.", "answers itself"),
        ("What colour is the red car?", "Red.", "answers itself"),
        ("What colour is the red car?", "The car is a dark red.", None),
        ("Is the car red or blue?", "Blue.", None),
        ("Ist das Auto rot oder blau?", "Blau", None),
        ("Is there a car?", "Yes.", None),
        ("Is there a car?", "It is.", "answers itself"),
        ("红色的汽车是什么颜色？", "红色的汽车", "answers itself"),
        ("汽车是什么颜色？", "红色", None),
        ("是红色还是蓝色？", "红色", None),
        ("How many dogs are there?", "3", None),
        ("What is it?", "I'm sorry, but I can't help with that.", "refusal"),
        ("What is it?", "I’m unable to see it.", "refusal"),
        ("What is it?", "As an AI language model, I have no eyes.", "refusal"),
        ("What is it?", "No image was provided.", "refusal"),
        ("Who is it?", "It is not possible to tell.", "refusal"),
        ("What does he say?", "He is sorry for the noise.", None),
        ("What is it?", "There is no picture on the wall.", None),
        ("What is it?", "A tree " * 6, "repeated"),
        ("What is it?", "ha ha ha", None),
        ("Where is it?", "a house by the lake in winter", "repeated"),
        ("Is it old?", "No.", None),  # short answers may come again
    ],
)
def test_answers(question: str, answer: str, fault: str | None) -> None:
    assert answer_fault(question, answer, ["A house by the lake, in winter.", "No."], LIMITS) == fault


def test_a_request_cannot_answer_itself() -> None:
    assert answer_fault("Describe the picture.", "A picture.", [], LIMITS) == "answers itself"
    assert answer_fault(None, "A picture.", [], LIMITS) is None
