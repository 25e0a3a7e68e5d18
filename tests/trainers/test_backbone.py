"""A model is made from any backbone, with its tokens, and what transformers is told about it reaches every part."""

import shutil

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import is_flash_attn_2_available

from trainers.backbone import model_from_backbone


CLOSE = {"atol": 1e-5, "rtol": 0.0}


@torch.no_grad()
def embed(model, processor, inputs) -> torch.Tensor:
    return model(**processor.process(inputs)).embeddings


@pytest.mark.parametrize("count", [0, -1, 257])
def test_other_numbers_of_tokens_are_refused(make_backbone, count):
    with pytest.raises(ValueError, match=f"1 to 256, got {count}"):
        model_from_backbone(make_backbone(), num_compression_tokens=count)


@pytest.mark.parametrize("spare_rows", [0, 2, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_tokens_take_spare_rows_and_the_vocabulary_grows_only_where_there_are_none(make_backbone, spare_rows, tied):
    folder = make_backbone(spare_rows=spare_rows, tie_word_embeddings=tied)
    stock = AutoModelForImageTextToText.from_pretrained(folder).get_input_embeddings().weight
    used = len(AutoTokenizer.from_pretrained(folder))
    model, processor = model_from_backbone(folder, num_compression_tokens=4)
    weight, ids = model.get_input_embeddings().weight, model.config.compression_token_ids
    assert ids == processor.compression_token_ids == list(range(used, used + 4))
    assert len(weight) == len(model.get_output_embeddings().weight) == model.config.get_text_config().vocab_size
    assert len(weight) == used + 4
    assert torch.equal(weight[:used], stock[:used])
    assert (model.get_output_embeddings().weight is weight) is tied
    assert torch.allclose(weight[ids].mean(), stock.mean(), atol=0.05)
    assert torch.allclose(weight[ids].std(), stock[:used].std(), rtol=0.2)
    assert embed(model, processor, ["a red apple"]).isfinite().all()


def copy_of(folder, target):
    """A backbone to be changed and saved again: its files, and its model."""
    for path in folder.iterdir():
        shutil.copy(path, target)
    return AutoModelForImageTextToText.from_pretrained(folder)


@torch.no_grad()
def test_rows_are_drawn_from_the_statistics_of_each_dimension(make_backbone, tmp_path):
    stock = copy_of(make_backbone(), tmp_path)
    weight, used = stock.get_input_embeddings().weight, len(AutoTokenizer.from_pretrained(tmp_path))
    weight[used:] = 1000.0  # whatever is in the spare rows does not matter
    weight[:, 0] += 5.0
    weight[:, 1] *= 10.0
    stock.save_pretrained(tmp_path)
    model, _ = model_from_backbone(tmp_path, num_compression_tokens=256)
    drawn = model.get_input_embeddings().weight[model.config.compression_token_ids]
    torch.testing.assert_close(drawn.std(dim=0), weight[:used].std(dim=0), rtol=0.25, atol=0.0)
    errors = (drawn.mean(dim=0) - weight[:used].mean(dim=0)).abs() / weight[:used].std(dim=0)
    assert errors.max() < 0.3
    assert torch.equal(model.get_input_embeddings().weight[:used], weight[:used])


def test_tokens_that_a_checkpoint_already_has_keep_their_rows(make_coma, mixed_inputs, tmp_path):
    """A published CoMa checkpoint is a backbone whose tokenizer has them, trained."""
    trained, processor = make_coma()
    with torch.no_grad():
        trained.get_input_embeddings().weight[trained.config.compression_token_ids] *= 1.5
    for part in (trained.backbone, processor.tokenizer, processor.image_processor):
        part.save_pretrained(tmp_path)
    expected, rows = embed(trained, processor, mixed_inputs), trained.config.compression_token_ids
    assert torch.equal(embed(*model_from_backbone(tmp_path, 4), mixed_inputs), expected)
    more, _ = model_from_backbone(tmp_path, 6)
    assert more.config.compression_token_ids[:4] == rows
    weight = more.get_input_embeddings().weight[more.config.compression_token_ids]
    assert torch.equal(weight[:4], trained.get_input_embeddings().weight[rows])
    assert torch.pdist(weight).min() > 0.1


def test_rows_are_drawn_the_same_each_time_and_leave_the_random_state_alone(make_backbone):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    models = [model_from_backbone(make_backbone(), 4)[0] for _ in range(2)]
    assert torch.equal(torch.rand(2), expected)
    a, b = (model.get_input_embeddings().weight[model.config.compression_token_ids] for model in models)
    assert torch.equal(a, b)
    assert torch.pdist(a).min() > 0.1


def implementations(model) -> set[str]:
    parts = (model, model.backbone, model.backbone.model.visual, model.backbone.model.language_model)
    layers = (model.backbone.model.visual.blocks[0].attn, model.backbone.model.language_model.layers[0].self_attn)
    return {part.config._attn_implementation for part in (*parts, *layers)}


def test_attention_implementations_agree(make_backbone, model_type, mixed_inputs):
    results = []
    for name in ("sdpa", "eager"):
        model, processor = model_from_backbone(make_backbone(model_type), 4, attn_implementation=name)
        assert implementations(model) == {name}
        results.append(embed(model, processor, mixed_inputs))
    torch.testing.assert_close(*results, **CLOSE)
    model.set_attn_implementation("sdpa")
    assert implementations(model) == {"sdpa"}
    torch.testing.assert_close(embed(model, processor, mixed_inputs), results[0], **CLOSE)


def test_attention_can_differ_between_towers(make_backbone):
    by_tower = {"text_config": "eager", "vision_config": "sdpa"}
    model, _ = model_from_backbone(make_backbone(), 4, attn_implementation=by_tower)
    assert model.backbone.model.language_model.config._attn_implementation == "eager"
    assert model.backbone.model.visual.config._attn_implementation == "sdpa"


def test_flex_attention_agrees_or_is_refused(make_backbone, model_type, mixed_inputs):
    """Its masks are made here, but a backbone of transformers has to allow it first."""
    try:
        model, processor = model_from_backbone(make_backbone(model_type), 4, attn_implementation="flex_attention")
    except ValueError as error:
        assert "flex_attention" in str(error)
    else:
        expected = embed(*model_from_backbone(make_backbone(model_type), 4), mixed_inputs)
        torch.testing.assert_close(embed(model, processor, mixed_inputs), expected, **CLOSE)


def test_flash_attention_that_is_not_installed_is_refused(make_backbone):
    if is_flash_attn_2_available():
        pytest.skip("it is installed")
    with pytest.raises(ImportError, match="FlashAttention2"):
        model_from_backbone(make_backbone(), 4, attn_implementation="flash_attention_2")


def test_dtype_and_device_map_pass_through(make_backbone, mixed_inputs, model_type):
    reference, processor = model_from_backbone(make_backbone(model_type), 4)
    kwargs = {"dtype": torch.bfloat16, "device_map": "cpu"}
    model, _ = model_from_backbone(make_backbone(model_type), 4, **kwargs)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16} == {model.dtype}
    half, full = embed(model, processor, mixed_inputs), embed(reference, processor, mixed_inputs)
    assert half.dtype == torch.bfloat16
    assert (half.float() * full).sum(dim=1).min() > 0.99


def test_nan_weights_are_found_when_made_and_when_used(make_backbone, make_coma, tmp_path):
    stock = copy_of(make_backbone(), tmp_path)
    with torch.no_grad():
        stock.model.language_model.layers[1].mlp.up_proj.weight[3, 5] = float("inf")
    stock.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"1 weights are not finite, first .*layers\.1\.mlp\.up_proj"):
        model_from_backbone(tmp_path, 4)

    model, processor = make_coma()
    with torch.no_grad():
        model.get_input_embeddings().weight[processor.tokenizer("z")["input_ids"][-1]] = float("nan")
    assert embed(model, processor, ["apple"]).isfinite().all()
    with pytest.raises(ValueError, match="The embedding of row 1 is not finite"):
        embed(model, processor, ["apple", "fizz z"])


def test_a_model_is_not_made_of_weights_that_are_elsewhere(make_backbone, tmp_path):
    """Rows for the compression tokens would be drawn into nothing."""
    folder = make_backbone("qwen2_5_vl")
    places = {"model.visual": "cpu", "model.language_model": "disk", "lm_head": "disk"}
    with pytest.raises(ValueError, match=r"\d+ weights are offloaded, first .*\. Make the model without `device_map`"):
        model_from_backbone(str(folder), 4, device_map=places, offload_folder=str(tmp_path))
