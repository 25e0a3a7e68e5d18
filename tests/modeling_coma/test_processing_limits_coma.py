"""Text gives way to a limit, with a warning; images and compression tokens never do."""

import logging

import pytest
import torch

from modeling_coma import ComaProcessor
from modeling_coma.processing_coma import compression_tokens


K = 4
LONG = "what is this? it is an apple. " * 4


@pytest.fixture
def inputs(picture):
    image = picture(56, 56)
    return [LONG, {"text": LONG, "image": image}, {"image": [image, image], "text": LONG}]


def test_the_end_of_the_text_is_cut_and_nothing_else(qwen, inputs, caplog, unpadded):
    whole = unpadded(qwen.process(inputs))
    with caplog.at_level(logging.WARNING):
        cut = unpadded(qwen.process(inputs, max_length=20))
    assert [len(ids) for ids in cut] == [20, 20, 20]
    protected = {*qwen.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"])}
    for row, (ids, before) in enumerate(zip(cut, whole, strict=True)):
        assert ids[-K:] == qwen.compression_token_ids
        assert [i for i in ids if i in protected] == [i for i in before if i in protected]
        text, text_before = ([i for i in part[:-K] if i not in protected] for part in (ids, before))
        assert text and text == text_before[: len(text)]
        gone = len(before) - 20
        numbers = f"{len(before) - K - len(text_before)} tokens of images, {len(text_before)} of text"
        assert f"Row {row} is {numbers} and 4 of compression, max_length is 20" in caplog.text
        assert f"the last {gone} tokens of its text are cut" in caplog.text
    assert len(caplog.records) == 3


def test_cut_rows_are_embedded_like_the_shorter_text(make_coma, picture, unpadded):
    model, processor = make_coma("qwen2_5_vl")
    ids = unpadded(processor.process([LONG], max_length=20))[0]
    short = processor.tokenizer.decode(ids[:-K])
    assert LONG.startswith(short)
    expected = model(**processor.process([short])).embeddings
    torch.testing.assert_close(model(**processor.process([LONG], max_length=20)).embeddings, expected)


def test_a_limit_that_fits_says_nothing(qwen, inputs, caplog, unpadded):
    whole = unpadded(qwen.process(inputs))
    with caplog.at_level(logging.WARNING):
        assert unpadded(qwen.process(inputs, max_length=max(map(len, whole)))) == whole
    assert not caplog.records


def test_the_instruction_is_not_text(qwen, inputs, unpadded, read):
    for ids in unpadded(qwen.process(inputs, max_length=45, compression_instruction=True)):
        assert len(ids) == 45
        assert " in a few words." + "".join(compression_tokens(K)) in read(qwen, ids)


@pytest.mark.parametrize("truncation", [False, "do_not_truncate"])
def test_without_truncation_it_raises_with_the_numbers(qwen, inputs, truncation, unpadded):
    count = len(unpadded(qwen.process(inputs[:1]))[0]) - K
    with pytest.raises(ValueError, match=f"Row 0 is 0 tokens of images, {count} of text and 4 of comp.*, max_"):
        qwen.process(inputs, max_length=20, truncation=truncation)


@pytest.mark.parametrize("truncation", [True, "longest_first", None])
def test_pictures_that_do_not_fit_raise_with_the_numbers(qwen, picture, truncation, unpadded):
    numbers = "Row 1 is 12 tokens of images, 0 of text and 4 of compression, max_length is 15: raise it, allow"
    with pytest.raises(ValueError, match=numbers):
        qwen.process(["it", {"image": [picture(56, 56), picture(56, 56)]}], max_length=15, truncation=truncation)
    assert len(unpadded(qwen.process([{"image": [picture(56, 56)] * 2}], max_length=16))[0]) == 16


def test_a_text_is_not_cut_to_nothing(qwen, unpadded):
    assert len(unpadded(qwen.process([LONG], max_length=K + 1))[0]) == K + 1
    for limit in (0, 1, K):
        with pytest.raises(ValueError, match=f"of text and 4 of compression, max_length is {limit}"):
            qwen.process([LONG], max_length=limit)


def test_the_limit_of_the_processor_is_the_default(qwen, inputs, tmp_path, unpadded):
    qwen.max_length = 20
    qwen.save_pretrained(tmp_path)
    loaded = ComaProcessor.from_pretrained(tmp_path)
    assert [len(ids) for ids in unpadded(loaded.process(inputs))] == [20, 20, 20]
    assert max(len(ids) for ids in unpadded(loaded.process(inputs, max_length=None))) > 20


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_an_empty_text_is_refused_on_the_way_of_sentence_transformers_too(make_coma, empty):
    _, processor = make_coma("qwen2_vl", 4)
    with pytest.raises(ValueError, match=r"Rows \[1\] are empty"):
        processor(text=["a text", empty])
