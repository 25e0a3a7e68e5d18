"""The folders of the tiny families are what the tests upon them take them for, by transformers alone."""

import pytest
import torch
from transformers import AutoTokenizer

from tests.families import tiles
from tests.families.folders import FAMILIES
from tests.families.tokenizer import TEXTS


QUESTION = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this?"}]}
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "an apple"}]}


def row_of(processor, image, text=""):
    return processor(images=[[image]], text=[processor.image_token + text], return_tensors="pt")


def states(model, row):
    with torch.no_grad():
        return model.model(**row).last_hidden_state[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_auto_classes_load_what_was_made(family, load_family, family_folder):
    model, processor = load_family(family)
    made = FAMILIES[family]()[1]
    assert (model.config.model_type, type(processor)) == (family, type(made))
    tokenizer = AutoTokenizer.from_pretrained(family_folder(family))
    for text in [*TEXTS, "Ü\n  <|im_start|>", processor.image_token]:
        assert tokenizer(text).input_ids == processor.tokenizer(text).input_ids == made.tokenizer(text).input_ids
    assert len(tokenizer) <= model.get_input_embeddings().num_embeddings <= 700


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_moves_the_last_state(family, load_family, picture):
    model, processor = load_family(family)
    here, there = (states(model, row_of(processor, picture(seed=seed)))[-1] for seed in (0, 1))
    assert here.isfinite().all()
    assert (here - there).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_moves_the_last_state(family, load_family, picture):
    model, processor = load_family(family)
    texts = (" what is the red apple", " what is the blue apple")
    here, there = (states(model, row_of(processor, picture(), text))[-1] for text in texts)
    assert (here - there).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_template_renders_what_the_processor_takes(family, load_family, picture):
    model, processor = load_family(family)
    dialogue = processor.apply_chat_template([QUESTION, ANSWER])
    assert dialogue.count(processor.image_token) == dialogue.count("what is this?") == dialogue.count("an apple") == 1
    assert dialogue.startswith(processor.apply_chat_template([QUESTION], add_generation_prompt=True))
    row = processor(images=[[picture()]], text=[dialogue], return_tensors="pt", add_special_tokens=False)
    assert states(model, row).isfinite().all()


@pytest.mark.parametrize("family", tiles.__all__)
def test_a_wide_image_becomes_two_tiles_and_the_whole(family, load_family, picture):
    model, processor = load_family(family)
    row = row_of(processor, picture(width=56, height=28))
    assert row["pixel_values"].numel() == 3 * (3 * 28 * 28)
    assert (row["input_ids"] == model.config.image_token_id).sum() >= 3 * 4
