"""An input has one embedding, whatever stands beside it, wherever padding is, however its image was encoded."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.families.folders import FAMILIES, STRANGERS


K = 4
EVERY = [*FAMILIES, *STRANGERS]
LINEAR_ATTENTION = ("qwen3_5", "minicpmv4_6")  # it is summed in chunks, whose borders padding moves
every_family = pytest.mark.parametrize("family", EVERY)


def assert_close(found, expected, family: str) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4 if family in LINEAR_ATTENTION else 1e-5, rtol=0)


@pytest.fixture(scope="session")
def items(picture):
    """A text, an image, two images, an image and a text in either order, and a turn with images amid texts."""
    wide, high, small = picture(84, 56, 1), picture(56, 112, 2), picture(28, 28, 3)
    parts = [{"type": "text", "text": "left "}, {"type": "image", "image": high}, {"type": "text", "text": " right"}]
    return [
        "a red apple on a green tree",
        wide,
        {"image": [small, high]},
        {"image": high, "text": "what is this?"},
        {"text": "an apple:", "image": small},
        [{"role": "system", "content": "Find it."}, {"role": "user", "content": [*parts, *parts[1:]]}],
    ]


@torch.no_grad()
def embed(model, batch) -> torch.Tensor:
    return model(**batch).embeddings


@every_family
def test_a_row_is_the_same_alone_and_on_either_side_of_padding(family, family_coma, items):
    model, processor = family_coma(family)
    together = embed(model, processor.process(items))
    assert_close(embed(model, processor.process(items, padding_side="right")), together, family)
    assert_close(torch.cat([embed(model, processor.process([item])) for item in items]), together, family)
    assert torch.pdist(together).min() > 0.01, "rows are told apart"


@every_family
def test_every_row_ends_with_the_compression_tokens_and_has_no_other(family, family_coma, items):
    _, processor = family_coma(family)
    expected = processor.tokenizer.convert_tokens_to_ids([f"<|ctoken_pad_{index}|>" for index in range(K)])
    for side in ("left", "right"):
        batch = processor.process(items, padding_side=side)
        assert not batch["attention_mask"].all() and batch["attention_mask"][:, -1 if side == "left" else 0].all()
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            assert ids[mask == 1][-K:].tolist() == expected
            assert torch.isin(ids, torch.tensor(expected)).sum() == K


@every_family
def test_features_made_before_give_the_same_embedding(family, family_coma, items):
    model, processor = family_coma(family)
    batch = processor.process(items)
    expected = embed(model, batch)
    tensors = {name: batch.pop(name) for name in processor.image_inputs}
    with torch.no_grad():
        features = model.encode_images(**tensors)
    # Sizes of images are part of where their tokens are.
    sizes = {name: tensor for name, tensor in tensors.items() if name != "pixel_values"}
    found = embed(model, {**batch, **sizes, "mm_encoder_outputs": features})
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@every_family
def test_a_pixel_changes_the_embedding(family, family_coma, picture):
    model, processor = family_coma(family)
    pixels = np.asarray(picture(56, 56)).copy()
    before = Image.fromarray(pixels)
    pixels[28, 28] = 255 - pixels[28, 28]
    one, other = embed(model, processor.process([before, Image.fromarray(pixels)]))
    assert (one - other).abs().max() > 1e-4


@every_family
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_in_half_precision_and_with_either_attention_it_is_nearly_the_same(family, attention, family_coma, items):
    model, processor = family_coma(family)
    batch = processor.process(items)
    expected = embed(model, batch)
    model.set_attn_implementation(attention)
    assert_close(embed(model, batch), expected, family)
    found = embed(model.to(torch.bfloat16), batch)
    assert found.dtype == torch.bfloat16
    assert (found.float() * expected).sum(dim=1).min() > 0.9
