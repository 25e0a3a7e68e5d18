"""A model is saved, loaded and resized as any other of transformers, its backbone with it."""

import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_coma import ComaConfig, ComaForEmbedding


CLOSE = {"atol": 1e-5, "rtol": 0.0}


@torch.no_grad()
def embed(model, processor, inputs) -> torch.Tensor:
    return model(**processor.process(inputs)).embeddings


def test_frameworks_find_the_embeddings_and_can_resize_them(coma, mixed_inputs, tmp_path):
    model, processor = coma
    expected, rows = embed(model, processor, mixed_inputs), model.get_input_embeddings().num_embeddings
    assert model.get_input_embeddings() is model.backbone.get_input_embeddings()
    assert model.get_output_embeddings() is model.backbone.get_output_embeddings()
    model.resize_token_embeddings(rows + 8)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert len(model.get_input_embeddings().weight) == model.config.get_text_config().vocab_size == rows + 8
    torch.testing.assert_close(embed(model, processor, mixed_inputs), expected, **CLOSE)
    model.save_pretrained(tmp_path)
    loaded = ComaForEmbedding.from_pretrained(tmp_path)
    assert torch.equal(embed(loaded, processor, mixed_inputs), embed(model, processor, mixed_inputs))


def test_an_untied_head_is_resized_too(make_coma):
    model, _ = make_coma(tie_word_embeddings=False)
    head = model.get_output_embeddings().weight
    model.resize_token_embeddings(len(head) + 8)
    assert len(model.get_output_embeddings().weight) == len(model.get_input_embeddings().weight) == len(head) + 8
    assert torch.equal(model.get_output_embeddings().weight[: len(head)], head)
    assert model.backbone.get_output_embeddings() is model.get_output_embeddings()


def test_the_models_config_is_the_backbones_config(coma):
    model, _ = coma
    assert model.config.backbone_config is model.backbone.config
    assert model.config.get_text_config() is model.backbone.model.language_model.config


def implementations(model) -> set[str]:
    parts = (model, model.backbone, model.backbone.model.visual, model.backbone.model.language_model)
    layers = (model.backbone.model.visual.blocks[0].attn, model.backbone.model.language_model.layers[0].self_attn)
    return {part.config._attn_implementation for part in (*parts, *layers)}


def test_the_layers_that_a_device_map_must_not_split_are_known(coma):
    model, _ = coma
    names = {type(module).__name__ for module in model.modules()}
    assert {name for name in names if name.endswith(("DecoderLayer", "VisionBlock"))} <= set(model._no_split_modules)


def test_installed_classes_load_without_trust_and_miss_nothing(coma, mixed_inputs, tmp_path):
    model, processor = coma
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert type(loaded) is ComaForEmbedding and type(AutoConfig.from_pretrained(tmp_path)) is ComaConfig
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(processor)
    assert not loaded.training
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    expected = embed(model, processor, mixed_inputs)
    assert torch.equal(embed(loaded, AutoProcessor.from_pretrained(tmp_path), mixed_inputs), expected)
    for name in ("sdpa", "eager"):
        again = AutoModel.from_pretrained(tmp_path, attn_implementation=name, dtype=torch.bfloat16, device_map="cpu")
        assert implementations(again) == {name}
        assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}
