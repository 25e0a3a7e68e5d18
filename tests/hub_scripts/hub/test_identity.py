"""A model is known again, and another one is not taken for it, whichever part of it is other."""

from collections.abc import Callable

import pytest
import torch

from hub_scripts.hub.identity import identity, probe, rounded


def test_the_same_model_is_known_again(make_coma: Callable) -> None:
    model, processor = make_coma("qwen2_5_vl", 4)
    known = identity("a", model, processor)
    assert known == identity("a", model, processor)
    assert len(known["probe"]) == min(64, model.config.hidden_size)


@pytest.mark.parametrize("part", ["visual.blocks.0.attn.qkv", "visual.merger", "language_model.layers.0.mlp"])
def test_a_change_of_any_part_is_seen(make_coma: Callable, part: str) -> None:
    model, processor = make_coma("qwen2_5_vl", 4)
    before = rounded(probe(model, processor))
    changed = [parameter for name, parameter in model.named_parameters() if part in name]
    assert changed
    kept = [parameter.detach().clone() for parameter in changed]
    with torch.no_grad():
        for parameter in changed:
            parameter.mul_(1.5)
        after = rounded(probe(model, processor))
        for parameter, value in zip(changed, kept, strict=True):
            parameter.copy_(value)
    assert after != before
    assert rounded(probe(model, processor)) == before


def test_zero_has_one_sign() -> None:
    assert str(rounded([-0.0001, 0.12345])) == "[0.0, 0.123]"
