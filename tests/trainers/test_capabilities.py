"""What a backbone can do is found in what it has, and a model is made accordingly or refused in a sentence."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from trainers import backbone as backbone_module
from trainers.backbone import model_from_backbone
from trainers.capabilities import Capabilities, capabilities


@pytest.fixture
def stock(make_backbone):
    return AutoModelForImageTextToText.from_pretrained(make_backbone())


def test_attention_alone_can_do_everything(make_backbone, model_type):
    found = capabilities(AutoModelForImageTextToText.from_pretrained(make_backbone(model_type)))
    assert found == Capabilities() and found.memory == "cache"
    assert str(found) == (
        'embeddings and stage 2: yes; stage 1 with memory="cache": yes; stage 1 with memory="states": yes'
    )


def test_what_cannot_embed_can_do_nothing(stock, monkeypatch):
    def found() -> str:
        why = capabilities(stock)
        assert why.embedding == why.cache == why.states
        return why.embedding

    with monkeypatch.context() as patch:
        patch.setattr(stock.config, "is_encoder_decoder", True)
        assert "encoder-decoder" in found()
    with monkeypatch.context() as patch:
        patch.setattr(stock.config.get_text_config(), "attention_chunk_size", 16, raising=False)
        assert "chunks" in found()
    with monkeypatch.context() as patch:
        patch.delattr(type(stock.model), "get_image_features")
        assert "no `get_image_features`" in found()
    with monkeypatch.context() as patch:
        patch.setattr(type(stock.model), "forward", lambda self, input_ids: None)
        assert "takes no image features (`mm_encoder_outputs`)" in found()
    with monkeypatch.context() as patch:
        patch.setattr(type(stock), "can_generate", lambda self: False)
        assert found() == "it generates no text"
    with monkeypatch.context() as patch:
        make = staticmethod(lambda **kwargs: torch.zeros(1, 1, 4, 4))  # all are seen
        patch.setattr(type(stock), "create_masks_for_generate", make, raising=False)
        assert "attends both ways (prefix-LM)" in found()
    assert capabilities(stock) == Capabilities()


def test_soft_tokens_need_a_generate_that_takes_them(stock, monkeypatch):
    monkeypatch.setattr(type(stock), "prepare_inputs_for_generation", lambda self, input_ids, **kwargs: None)
    found = capabilities(stock)
    assert found.embedding is None and found.cache is None and "`inputs_embeds`" in found.states


@pytest.mark.parametrize(
    ("found", "memory"),
    [
        (Capabilities(), "cache"),
        (Capabilities(states="no"), "cache"),
        (Capabilities(cache="no"), "states"),
        (Capabilities(cache="no", states="no"), "cache"),
    ],
)
def test_the_cache_is_taken_where_it_works(make_backbone, monkeypatch, found, memory):
    monkeypatch.setattr(backbone_module, "capabilities", lambda backbone: found)
    model, _ = model_from_backbone(make_backbone(), 4)
    assert model.config.memory == memory and hasattr(model, "memory_projection") is (memory == "states")


def test_what_does_not_work_is_refused_with_what_does(make_backbone, monkeypatch):
    monkeypatch.setattr(backbone_module, "capabilities", lambda backbone: Capabilities(cache="it has none"))
    message = "cannot have memory='cache': it has none. What works: .*memory=\"states\": yes"
    with pytest.raises(ValueError, match=message):
        model_from_backbone(make_backbone(), 4, memory="cache")
    with pytest.raises(ValueError, match="memory='rows' does not exist"):
        model_from_backbone(make_backbone(), 4, memory="rows")
    monkeypatch.setattr(backbone_module, "capabilities", lambda backbone: Capabilities("it is too small"))
    with pytest.raises(ValueError, match="cannot be a backbone: it is too small. It takes a causal language model"):
        model_from_backbone(make_backbone(), 4)
