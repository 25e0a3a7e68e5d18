"""A model is known again, and another one is not taken for it, whichever part of it is other."""

import json
import math
from collections.abc import Callable

import pytest
import torch

from hub_scripts.embedding.model_record import model_differences
from hub_scripts.hub.golden import (
    ANY_PRECISION,
    TOLERANCES,
    distances,
    golden_inputs,
    identity,
    probe,
    same_embeddings,
)
from modeling_coma.rows_coma import compression_tokens


def test_the_same_model_is_known_again(make_coma: Callable) -> None:
    model, processor = make_coma("qwen2_5_vl", 4)
    known = identity("a", model, processor)
    assert known == identity("a", model, processor)
    assert len(known["probe"]) == min(64, model.config.hidden_size)
    assert all(number == round(number, 3) for number in known["probe"]) and "-0.0," not in json.dumps(known["probe"])


@pytest.mark.parametrize("part", ["visual.blocks.0.attn.qkv", "visual.merger", "language_model.layers.0.mlp"])
def test_a_change_of_any_part_is_seen(make_coma: Callable, part: str) -> None:
    model, processor = make_coma("qwen2_5_vl", 4)
    before = probe(model, processor)
    changed = [parameter for name, parameter in model.named_parameters() if part in name]
    assert changed
    kept = [parameter.detach().clone() for parameter in changed]
    with torch.no_grad():
        for parameter in changed:
            parameter.mul_(1.5)
        after = probe(model, processor)
        for parameter, value in zip(changed, kept, strict=True):
            parameter.copy_(value)
    assert after != before
    assert probe(model, processor) == before


@torch.no_grad()
def test_which_frames_of_a_video_are_seen_is_part_of_a_model_that_takes_them(make_coma: Callable) -> None:
    model, processor = make_coma()
    assert "video_fps" not in identity("a", model, processor)
    token = compression_tokens(1)[0]
    processor.video_format = {"token": token, "placeholder": f"<|vision_start|>{token}<|vision_end|>"}
    before = identity("a", model, processor)
    processor.max_video_frames = 8
    now = identity("a", model, processor)
    assert model_differences(before, now) == ["max_video_frames (64, now 8)"]


def test_precisions_of_a_model_are_one_model_and_another_is_not(make_coma: Callable) -> None:
    """With room to spare on both sides of the limit; of one precision, the limits follow what it rounds."""

    def embed(model, processor) -> torch.Tensor:
        return torch.stack([model(**processor.process([item])).embeddings[0] for item in golden_inputs().values()])

    model, processor = make_coma("qwen2_5_vl", 4)
    model.eval()
    expected = embed(model, processor)
    assert same_embeddings(embed(model, processor), expected, 0)
    for dtype in (torch.float16, torch.bfloat16):
        found = embed(model.to(dtype), processor)
        assert same_embeddings(found, expected, ANY_PRECISION / 2)
        assert not same_embeddings(found, expected, TOLERANCES["float32"] / 2)
    other, processor = make_coma("qwen3_vl", 4)
    assert min(distances(embed(other.eval(), processor), expected)) > 2 * ANY_PRECISION


def test_a_distance_is_a_share_of_the_length_that_is_expected() -> None:
    angle = torch.tensor(0.1)
    turned = torch.stack([angle.cos(), angle.sin()])
    cosine = turned[0].item()
    assert distances(turned, [1.0, 0.0]) == pytest.approx([math.sqrt(2 - 2 * cosine)], rel=1e-5)
    assert distances(3 * turned, [3.0, 0.0]) == pytest.approx(distances(turned, [1.0, 0.0]), rel=1e-5)
    assert distances([[3.0, 3.0], [1.0, 0.0]], torch.tensor([[3.0, 4.0], [1.0, 0.0]])) == pytest.approx([0.2, 0.0])


@pytest.mark.parametrize(
    "found", [[math.nan, 0.0], [math.inf, 0.0], [1.0], [[1.0, 0.0]], ["a", "b"], 0.5, None, {}, []]
)
def test_what_is_no_embedding_is_far_from_any(found: object) -> None:
    assert distances(found, [1.0, 0.0]) == [math.inf]
    assert not same_embeddings(found, [1.0, 0.0], ANY_PRECISION)
