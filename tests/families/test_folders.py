"""The folders of the tiny families are what the tests upon them take them for, by transformers alone."""

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.families import tiles
from tests.families.folders import FAMILIES, REFUSED, STRANGERS
from tests.families.tokenizer import TEXTS


USABLE = [*FAMILIES, *STRANGERS]
TILED = [*tiles.__all__, "aya_vision", "cohere2_vision", "lfm2_vl", "minicpmv4_6"]
QUESTION = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this?"}]}
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "an apple"}]}


def row_of(processor, *images, text="", **options):
    """One row: a placeholder for each image, a word in between (neighbours are one image to Qwen), then the text."""
    text = " it ".join([processor.image_token] * len(images)) + text
    return processor(images=[list(images)], text=[text], return_tensors="pt", **options)


def states(model, row):
    with torch.no_grad():
        return model.model(**row).last_hidden_state[0]


def num_image_tokens(model, row):
    return (row["input_ids"] == model.config.image_token_id).sum().item()


@pytest.mark.parametrize("family", [*USABLE, *REFUSED])
def test_the_auto_classes_load_what_was_made(family, load_family, family_folder):
    folder, (model, processor) = family_folder(family), load_family(family)
    assert model.config.model_type == family
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in [*TEXTS, "Ü\n  <|im_start|>", processor.image_token]:
        assert tokenizer(text).input_ids == processor.tokenizer(text).input_ids == raw.encode(text).ids
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=text in TEXTS).strip().endswith(text)


@pytest.mark.parametrize("family", USABLE)
def test_the_vocabulary_is_small_and_every_token_has_a_row(family, load_family):
    model, processor = load_family(family)
    assert len(processor.tokenizer) <= model.get_input_embeddings().num_embeddings <= 700


def test_there_are_tables_of_every_kind(load_family):
    """Tied and not, with rows to spare and none, and with tokens that nobody uses."""
    tied, spare, unused = set(), set(), set()
    for family in FAMILIES:
        model, processor = load_family(family)
        table = model.get_input_embeddings().weight
        tied.add(table is model.get_output_embeddings().weight)
        spare.add(len(table) > len(processor.tokenizer))
        unused.add("<unused0>" in processor.tokenizer.get_vocab())
    assert tied == spare == unused == {False, True}


@pytest.mark.parametrize("family", USABLE)
def test_each_of_two_images_moves_the_last_state(family, load_family, picture):
    model, processor = load_family(family)
    rows = [row_of(processor, picture(seed=first), picture(seed=last)) for first, last in ((0, 1), (2, 1), (0, 3))]
    before, other_first, other_last = (states(model, row)[-1] for row in rows)
    assert before.isfinite().all()
    assert (before - other_first).abs().max() > 0.1
    assert (before - other_last).abs().max() > 0.1


@pytest.mark.parametrize("family", USABLE)
def test_a_word_moves_the_last_state(family, load_family, picture):
    model, processor = load_family(family)
    rows = [row_of(processor, picture(), text=text) for text in (" what is the red apple", " what is the blue apple")]
    red, blue = (states(model, row)[-1] for row in rows)
    assert (red - blue).abs().max() > 0.1


@pytest.mark.parametrize("family", USABLE)
def test_the_template_renders_what_the_processor_takes(family, load_family, picture):
    model, processor = load_family(family)
    dialogue = processor.apply_chat_template([QUESTION, ANSWER])
    assert dialogue.count(processor.image_token) == dialogue.count("what is this?") == dialogue.count("an apple") == 1
    assert dialogue.startswith(processor.apply_chat_template([QUESTION], add_generation_prompt=True))
    row = processor(images=[[picture()]], text=[dialogue], return_tensors="pt", add_special_tokens=False)
    assert states(model, row).isfinite().all()


@pytest.mark.parametrize("family", TILED)
def test_a_wide_image_is_split_into_tiles(family, load_family, picture):
    """A tile has four tokens; the image as a whole has some of its own."""
    model, processor = load_family(family)
    row = row_of(processor, picture(width=64, height=32))
    assert num_image_tokens(model, row) > 2 * 4
    assert states(model, row).isfinite().all()


def test_gemma3_splits_an_image_where_the_call_asks_for_it(load_family, picture):
    model, processor = load_family("gemma3")
    options = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 14, "pan_and_scan_min_ratio_to_activate": 1.2}
    row = row_of(processor, picture(width=64, height=32), images_kwargs=options)
    assert num_image_tokens(model, row) == 3 * 4
    assert states(model, row).isfinite().all()
