"""Packed inputs give the batches that the processor would have made."""

from collections.abc import Callable
from typing import Any

import torch

from modeling_coma.backbone_coma import position_inputs
from trainers.contrastive.image_features import encode_visuals, select_visuals
from trainers.contrastive.packing import PackedInputs


def pack(processor: Any, inputs: list[Any]) -> PackedInputs:
    return PackedInputs.from_batch(processor.process(inputs, return_images=True), processor)


def test_any_rows_are_as_the_processor_pads_them(coma: tuple, mixed_inputs: list[Any]) -> None:
    model, processor = coma
    packed, pad = pack(processor, mixed_inputs), processor.tokenizer.pad_token_id
    with torch.no_grad():
        features = encode_visuals(model, packed, max_tokens=10)  # two or three images at a time
    for rows in ([0], [6, 0], [1], [4, 2, 5], [3, 0, 1], list(range(7))):
        expected, numbers = processor.process([mixed_inputs[row] for row in rows]), torch.tensor(rows)
        found = packed.batch(numbers, pad)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        without = packed.batch(numbers, pad, position_inputs(model.backbone))
        assert without.keys() == expected.keys() - {"pixel_values"}
        with torch.no_grad():
            embeddings = model(**expected).embeddings
            images = select_visuals(features, packed, numbers)
            shared = model(**without, mm_encoder_outputs=images or None).embeddings
        torch.testing.assert_close(shared, embeddings, rtol=1e-5, atol=1e-6)


def test_padding_on_the_right_packs_to_the_same(make_coma: Callable, mixed_inputs: list[Any]) -> None:
    _, processor = make_coma()
    left, right = (
        PackedInputs.from_batch(processor.process(mixed_inputs, padding_side=side, return_images=True), processor)
        for side in ("left", "right")
    )
    assert left.images_per_row.tolist() == right.images_per_row.tolist() == [0, 1, 1, 1, 3, 2, 0]
    assert torch.equal(left.input_ids, right.input_ids) and torch.equal(left.lengths, right.lengths)
    assert len(left.lengths) == 7


def test_texts_have_no_images(make_coma: Callable) -> None:
    _, processor = make_coma()
    packed = pack(processor, ["a", "an apple"]).to("cpu")
    assert packed.batch(torch.tensor([1]), 0).keys() == {"input_ids", "attention_mask"}
    assert packed.images is None and packed.places_of("image", torch.tensor([0, 1])).tolist() == []
