"""What the helpers train and freeze."""

import pytest
from peft import get_peft_model

from trainers.lora import freeze_vision, lora_config


def test_the_recipe_adapts_the_attention_of_the_language_model_and_the_compression_tokens(coma):
    model, _ = coma
    adapted = get_peft_model(model, lora_config(model))
    trainable = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    layers = model.config.get_text_config().num_hidden_layers
    assert len(trainable) == layers * 4 * 3 + 1  # A, B and magnitude of q, k, v, o; tokens
    assert all("language_model" in name for name in trainable)
    tokens = next(p for name, p in trainable.items() if "trainable_tokens" in name)
    assert tokens.shape == (4, model.config.hidden_size)
    config = adapted.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_dora) == (16, 64, 0.1, True)


def test_fields_of_the_recipe_can_be_replaced(make_coma):
    model, _ = make_coma()
    config = lora_config(model, r=2, use_dora=False, target_modules=["q_proj"], lora_dropout=0.0)
    assert (config.r, config.use_dora, config.target_modules, config.lora_dropout) == (2, False, {"q_proj"}, 0.0)


@pytest.mark.parametrize("train_merger", [False, True])
def test_the_vision_tower_is_frozen_and_its_merger_if_wanted(coma, train_merger):
    model, _ = coma
    freeze_vision(model, train_merger)
    for name, parameter in model.named_parameters():
        in_tower = ".visual." in name
        assert parameter.requires_grad is (not in_tower or (train_merger and ".merger." in name)), name
