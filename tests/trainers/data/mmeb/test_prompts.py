"""Prompts of MMEB-V2 are those of the benchmark, to the blank."""

import pytest

from trainers.data.mmeb.prompts import candidate_prompts, query_prompt, to_content


IMG = "<|image_1|>"
FIND, TELL = f"{IMG}\nFind it.", f"{IMG} Tell of it:"


@pytest.mark.parametrize(
    ("assembly", "instruction", "text", "expected"),
    [
        ("to_text", FIND, "cat", f"{IMG}\nFind it. cat\n"),
        ("to_text", FIND, "", f"{IMG}\nFind it.\n"),
        ("to_text", TELL, "cat", f"{IMG}  Tell of it: cat\n"),
        ("to_text", f"{IMG}\nFind it. \nNow:", "cat", f"{IMG}\nFind it.\nNow: cat\n"),
        ("question", TELL, "what?", f"{IMG}\nTell of it: what?\n"),
        ("question", f"{FIND}\n", "what?", f"{IMG}\nFind it. what?\n"),
        ("to_image", f" {TELL} ", "in red", f"{IMG}\nTell of it: in red\n"),
        ("from_text", "Find an image:", "a cat", "Find an image: a cat\n"),
        ("from_text", "Find an image:", "", "Find an image: \n"),
    ],
)
def test_queries(assembly, instruction, text, expected):
    assert query_prompt(assembly, "a set", instruction, text) == expected


def test_visdial_has_a_line_break_more():
    assert query_prompt("from_text", "VisDial", "Find it:", "a talk") == "Find it: a talk\n\n"


@pytest.mark.parametrize(
    ("assembly", "instruction", "texts", "expected"),
    [
        ("to_text", FIND, ["cat ", "dog"], ["cat ", "dog"]),
        ("question", "", ["cat", "dog"], ["cat", "dog"]),
        ("from_text", FIND, ["", ""], [f"{IMG}\nFind it.\n"] * 2),
        ("from_text", FIND, ["cat", " dog"], [f"{IMG}\nFind it. cat\n", f"{IMG}\nFind it.  dog\n"]),
        ("to_image", FIND, [" ", ""], [f"{IMG}\nFind it."] * 2),
        ("to_image", TELL, ["cat", "dog"], [f"{IMG}  Tell of it: cat\n", f"{IMG}  Tell of it: dog\n"]),
    ],
)
def test_candidates(assembly, instruction, texts, expected):
    assert candidate_prompts(assembly, instruction, texts) == expected


def test_the_picture_is_where_its_mark_is():
    picture = {"type": "image", "image": "a.png"}

    def text(words):
        return {"type": "text", "text": words}

    assert to_content(f"{IMG}\nFind it.\n", "a.png") == [picture, text("\nFind it.\n")]
    assert to_content(f"See {IMG} here", "a.png") == [text("See "), picture, text(" here")]
    assert to_content("no mark", "a.png") == [picture, text("no mark")]
    assert to_content("", "a.png") == [picture]
    assert to_content("a text", None) == [text("a text")]


@pytest.mark.parametrize(
    ("prompt", "image", "message"),
    [(IMG, None, "1 marks"), (IMG * 2, "a.png", "2 marks"), ("", None, "neither"), (" \n", None, "neither")],
)
def test_contents_that_make_no_sense(prompt, image, message):
    with pytest.raises(ValueError, match=message):
        to_content(prompt, image)
