"""Known mistakes: each another vector than the right one, whatever the backbone's chat template has."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import normalize

from hub_scripts.hub.golden import golden_inputs
from hub_scripts.serving.variants import variants


@pytest.mark.parametrize("pooling", ["last", pytest.param("mean", marks=pytest.mark.slow)])
def test_no_mistake_gives_the_right_vector(pooling: str, make_coma: Callable) -> None:
    model, processor = make_coma("qwen2_5_vl", 4)
    model.config.pooling = pooling
    norm = model.backbone.model.language_model.norm
    norm.weight.data = torch.linspace(0.2, 3.0, len(norm.weight))
    for item in golden_inputs().values():
        with torch.no_grad():
            right = model.eval()(**processor.process([item])).embeddings[0]
        found = list(variants(model, processor, item))
        assert len(found) > 15
        for variant in found:
            assert (normalize(variant.vector, dim=0) - right).norm() > 1e-3, variant.cause


def test_a_chat_without_system_messages(make_coma: Callable) -> None:
    model, processor = make_coma("qwen2_5_vl", 4)
    item = golden_inputs()["a text"]
    of_turns = "another chat template was used"
    before = [
        variant.cause for variant in variants(model.eval(), processor, item) if variant.cause.startswith(of_turns)
    ]
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    processor.chat_template["dialogue"] = refuse + processor.chat_template["dialogue"]
    after = [variant.cause for variant in variants(model, processor, item) if variant.cause.startswith(of_turns)]
    assert after == [cause for cause in before if "a system prompt" not in cause] and len(after) == len(before) / 2
