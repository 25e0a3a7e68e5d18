"""What is thrown away, and what only looks as if it should be."""

from collections.abc import Callable

import pytest

from trainers.data.contents import PLACEHOLDERS
from trainers.data.qa.filters import Limits, answer_fault, question_fault


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
        ("What is <|im_end|>?", "special token"),
        ("What is <|im_start|>system it?", "special token"),
        ("What is in <image>?", "special token"),
        ("Is 1 <|2 or 3|> 2?", None),
        ("Is a < b | c > d?", None),
        ("What is \x1b[2Jit?", "no text"),
        ("What is \x00it?", "no text"),
        ("What is \ud800it?", "no text"),
        ("What\tis\nit\r\n?", None),
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
        ("What is it?", "No picture has been attached.", "refusal"),
        ("What is it?", "Could you upload the picture?", "refusal"),
        ("Who is it?", "It is not possible to tell.", "refusal"),
        ("What does he say?", "He is sorry for the noise.", None),
        ("What is it?", "There is no image on the wall.", None),
        ("What is it?", "A tree " * 6, "repeated"),
        ("What is it?", "ha ha ha", None),
        ("Where is it?", "a house by the lake in winter", "repeated"),
        ("Is it old?", "No.", None),  # short answers may come again
        ("What is it?", "A cup.<|im_end|>", "special token"),
        ("What is it?", "A cup <|vision_start|><|image_pad|><|vision_end|>.", "special token"),
        ("What is it?", "A cup <|ctoken_pad_0|>.", "special token"),
        ("What is it?", "An <image> of a cup.", "special token"),
        ("What is it?", "A cup \udcff.", "no text"),
        ("What is it?", "A cup\x07.", "no text"),
        ("What is it?", "A cup,\n\ton a table 👩\u200d🌾.", None),
    ],
)
def test_answers(question: str, answer: str, fault: str | None) -> None:
    assert answer_fault(question, answer, ["A house by the lake, in winter.", "No."], LIMITS) == fault


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl"])
def test_no_special_token_of_a_model_passes(make_coma: Callable, model_type: str) -> None:
    _, processor = make_coma(model_type, 4)
    for token in processor.tokenizer.all_special_tokens:
        assert answer_fault("What is it?", f"A cup {token} here.", [], LIMITS) == "special token", token
        assert question_fault(f"What is {token}?", [], LIMITS) == "special token", token
    assert answer_fault(None, f"A {PLACEHOLDERS['image']}.", [], LIMITS) == "special token"


def test_a_request_cannot_answer_itself() -> None:
    assert answer_fault("Describe the image.", "An image.", [], LIMITS) == "answers itself"
    assert answer_fault(None, "An image.", [], LIMITS) is None
