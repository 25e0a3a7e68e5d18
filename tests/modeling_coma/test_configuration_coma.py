"""A configuration composes the backbone's, refuses what cannot be, and survives its JSON."""

import pytest
from transformers import AutoConfig

from modeling_coma import ComaConfig


@pytest.fixture
def backbone_config(make_backbone, model_type):
    return AutoConfig.from_pretrained(make_backbone(model_type))


def test_round_trip_keeps_every_field(backbone_config, tmp_path):
    config = ComaConfig(backbone_config, [7, 3, 5], pooling="last", normalize=False, eos_token_id=2, pad_token_id=1)
    config.save_pretrained(tmp_path)
    for loaded in (ComaConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is ComaConfig
        assert (loaded.compression_token_ids, loaded.num_compression_tokens) == ([7, 3, 5], 3)
        assert (loaded.pooling, loaded.normalize, loaded.eos_token_id, loaded.pad_token_id) == ("last", False, 2, 1)
        assert type(loaded.backbone_config) is type(backbone_config)
        assert loaded.backbone_config.to_dict() == backbone_config.to_dict()


def test_what_others_look_for_is_at_the_top(backbone_config):
    config = ComaConfig(backbone_config.to_dict(), [3])
    text_config = backbone_config.get_text_config()
    assert config.hidden_size == text_config.hidden_size
    assert config.get_text_config() is config.backbone_config.get_text_config()
    assert config.tie_word_embeddings == backbone_config.tie_word_embeddings
    assert config.to_dict()["model_type"] == "coma"


@pytest.mark.parametrize("tied", [True, False])
def test_tying_is_the_backbones(make_backbone, tied):
    backbone_config = AutoConfig.from_pretrained(make_backbone())
    backbone_config.tie_word_embeddings = tied
    assert ComaConfig(backbone_config, [3], tie_word_embeddings=not tied).tie_word_embeddings is tied


def test_an_empty_configuration_can_be_made():
    """transformers makes one to compare with when it saves."""
    assert ComaConfig().num_compression_tokens == 0
    assert ComaConfig().backbone_config is None


@pytest.mark.parametrize("ids", [[], None, [3, 3], list(range(257)), [3, 10**6], [-1, 3]])
def test_impossible_ids_are_named(make_backbone, ids):
    with pytest.raises(ValueError, match="compression_token_ids must be 1 to 256 distinct ids below"):
        ComaConfig(AutoConfig.from_pretrained(make_backbone()), ids)


def test_impossible_pooling_is_named(make_backbone):
    with pytest.raises(ValueError, match="pooling='max' does not exist; choose 'mean' or 'last'"):
        ComaConfig(AutoConfig.from_pretrained(make_backbone()), [3], pooling="max")


def test_256_tokens_are_allowed(make_backbone):
    assert ComaConfig(AutoConfig.from_pretrained(make_backbone()), list(range(256))).num_compression_tokens == 256
