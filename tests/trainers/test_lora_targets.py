"""An adapter acts on what mixes positions in the language model, of any family, and its pattern says just that."""

import re

import pytest
import torch

from tests.trainers.families import FAMILIES, make_family, wrap
from trainers.lora_targets import mixer_projections, pattern_of


ATTENTION = {f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
DELTA = {f"linear_attn.{name}" for name in ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")}
LATENT = {f"self_attn.{name}" for name in ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")}
CONVOLUTION = {"conv.in_proj", "conv.out_proj"}

# Of every layer of the language model, in order.
EXPECTED = {
    "llava": [ATTENTION] * 4,
    "llava_next": [{"self_attn.qkv_proj", "self_attn.o_proj"}] * 4,
    "llava_onevision": [LATENT] * 4,  # its indexer picks positions, and no gradient reaches it
    "gemma3": [ATTENTION] * 4,
    "gemma4": [ATTENTION] * 2 + [{"self_attn.q_proj", "self_attn.o_proj"}] * 2,  # keys and values are shared
    "qwen3_vl_moe": [ATTENTION] * 4,
    "qwen3_5": [DELTA] * 3 + [ATTENTION],
    "lfm2_vl": [CONVOLUTION] * 2 + [ATTENTION - {"self_attn.o_proj"} | {"self_attn.out_proj"}] + [CONVOLUTION],
    "ovis2": [ATTENTION] * 4,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_projections_of_every_mixer_are_found_and_the_pattern_is_exact(name):
    model = wrap(make_family(name), [5])
    layers = "backbone.model.language_model.layers"
    expected = {f"{layers}.{n}.{leaf}" for n, leaves in enumerate(EXPECTED[name]) for leaf in leaves}
    found = mixer_projections(model)
    assert set(found) == expected and len(found) == len(expected)
    assert {key for key, _ in model.named_modules() if re.fullmatch(pattern_of(found), key)} == expected
    assert len(pattern_of(found)) < 250  # it is read by people


def test_the_pattern_of_qwen(coma):
    """The set is that of every version before: q, k, v, o of the language model, and nothing of the tower."""
    model, _ = coma
    pattern = pattern_of(mixer_projections(model))
    assert pattern == r"backbone\.model\.language_model\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
    before = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)"
    matches = [{key for key, _ in model.named_modules() if re.fullmatch(p, key)} for p in (pattern, before)]
    assert matches[0] == matches[1] and len(matches[0]) == 4 * model.config.get_text_config().num_hidden_layers


def test_a_language_model_without_linear_mixers_is_named():
    model = wrap(make_family("llava"), [5])
    for layer in model.backbone.get_decoder().layers:
        layer.self_attn = torch.nn.Identity()
    with pytest.raises(ValueError, match="language_model, a LlamaModel, has no linear layers to adapt: pass target"):
        mixer_projections(model)
