"""An embedding depends on its row alone; every backbone, every kind of input, any number of tokens."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model


CLOSE = {"atol": 1e-5, "rtol": 0.0}
one_backbone = pytest.mark.parametrize("model_type", ["qwen2_5_vl"])  # where another would show nothing new


@torch.no_grad()
def embed(model, processor, inputs, **options) -> torch.Tensor:
    return model(**processor.process(inputs, **options)).embeddings


def assert_distinct(embeddings: torch.Tensor) -> None:
    """Rows that are all alike would pass every comparison here."""
    assert torch.pdist(embeddings).min() > 1e-2


def test_neither_batch_nor_padding_nor_order_changes_an_embedding(coma, mixed_inputs):
    model, processor = coma
    batch = embed(model, processor, mixed_inputs)
    assert batch.shape == (len(mixed_inputs), model.config.hidden_size)
    assert batch.dtype == torch.float32
    assert_distinct(batch)
    torch.testing.assert_close(batch.norm(dim=1), torch.ones(len(batch)))
    single = torch.cat([embed(model, processor, [item]) for item in mixed_inputs])
    torch.testing.assert_close(batch, single, **CLOSE)
    torch.testing.assert_close(batch, embed(model, processor, mixed_inputs, padding_side="right"), **CLOSE)
    order = [3, 6, 0, 5, 1, 4, 2]
    torch.testing.assert_close(batch[order], embed(model, processor, [mixed_inputs[i] for i in order]), **CLOSE)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_what_stands_at_padding_is_never_seen(coma, mixed_inputs, padding_side):
    model, processor = coma
    batch = processor.process(mixed_inputs, padding_side=padding_side)
    expected = model(**batch).embeddings
    batch["input_ids"] = torch.where(batch["attention_mask"] == 0, 11, batch["input_ids"])
    torch.testing.assert_close(model(**batch).embeddings, expected, **CLOSE)


@one_backbone
def test_a_mask_may_be_left_out_where_nothing_is_padded(coma, mixed_inputs):
    model, processor = coma
    batch = processor.process(mixed_inputs[5:6])
    expected = model(**batch).embeddings
    assert torch.equal(model(**{**batch, "attention_mask": None}).embeddings, expected)


def test_the_oracle_is_the_stock_backbone(coma, mixed_inputs):
    """The backbone, which counts its own positions, and a mean over the last columns of each row."""
    model, processor = coma
    backbone, ids = model.backbone, torch.tensor(model.config.compression_token_ids)
    for item in mixed_inputs:
        batch = processor.process([item])
        assert torch.equal(batch["input_ids"][0, -4:], ids)
        is_image = (batch["input_ids"] == model.config.backbone_config.image_token_id).int()
        with torch.no_grad():
            states = backbone(**batch, mm_token_type_ids=is_image, output_hidden_states=True).hidden_states[-1]
        expected = torch.nn.functional.normalize(states[:, -4:].mean(dim=1), dim=-1)
        torch.testing.assert_close(embed(model, processor, [item]), expected, **CLOSE)


def test_every_part_of_an_input_counts(coma, picture):
    model, processor = coma
    a, b = picture(84, 56, 1), picture(84, 56, 2)
    variants = [{"image": [a, b], "text": "red"}, {"image": [b, a], "text": "red"}, {"image": [a, a], "text": "red"}]
    variants += [{"text": "red", "image": [a, b]}, {"image": [a, b], "text": "blue"}, {"image": a, "text": "red"}]
    assert_distinct(embed(model, processor, variants))


@pytest.mark.parametrize("count", [1, 32, 256])
def test_any_number_of_tokens(make_coma, mixed_inputs, count):
    model, processor = make_coma(num_compression_tokens=count)
    assert model.config.num_compression_tokens == processor.num_compression_tokens == count
    batch = processor.process(mixed_inputs)
    output = model(**batch)
    assert output.compression_states.shape == (len(mixed_inputs), count, model.config.hidden_size)
    is_compression = torch.isin(batch["input_ids"], torch.tensor(model.config.compression_token_ids))
    assert is_compression[:, -count:].all() and is_compression.sum() == count * len(mixed_inputs)
    single = torch.cat([embed(model, processor, [item]) for item in mixed_inputs])
    torch.testing.assert_close(output.embeddings, single, **CLOSE)
    assert_distinct(single)


@one_backbone
def test_pooling_and_normalisation_come_from_the_config(coma, mixed_inputs):
    model, processor = coma
    states = model(**processor.process(mixed_inputs)).compression_states
    for pooling, pooled in (("mean", states.mean(dim=1)), ("last", states[:, -1])):
        model.config.pooling, model.config.normalize = pooling, False
        torch.testing.assert_close(embed(model, processor, mixed_inputs), pooled.detach(), **CLOSE)
        model.config.normalize = True
        expected = pooled / pooled.norm(dim=1, keepdim=True)
        torch.testing.assert_close(embed(model, processor, mixed_inputs), expected.detach(), **CLOSE)


@one_backbone
def test_a_row_needs_exactly_its_tokens_at_its_end(coma, mixed_inputs):
    model, processor = coma
    batch = processor.process(mixed_inputs[:3])
    ids, mask = batch["input_ids"].clone(), batch["attention_mask"].clone()
    message = r"Row 1 must end with the 4 compression tokens of the model.* it has {}\. .* ComaProcessor"

    def refuse(count: int) -> None:
        with pytest.raises(ValueError, match=message.format(count)):
            model(**{**batch, "input_ids": ids, "attention_mask": mask})
        ids.copy_(batch["input_ids"]), mask.copy_(batch["attention_mask"])

    ids[1, -1] = 5  # one is missing
    refuse(3)
    ids[1, -5] = ids[1, -1]  # one too many
    refuse(5)
    ids[1, -4:] = ids[1, -4:].flip(0)  # the order is another
    refuse(4)
    ids[1] = ids[1].roll(-1)  # they are not the end
    refuse(4)
    mask[1, -2] = 0  # one is hidden
    refuse(3)
    assert model(**batch).embeddings.isfinite().all()


@pytest.mark.parametrize(("of_model", "of_processor"), [(4, 2), (4, 8), (1, 2), (2, 1)])
def test_a_processor_of_another_k_is_refused(make_coma, of_model, of_processor):
    """The first four of eight tokens must not pass for the four of the model."""
    model, _ = make_coma(num_compression_tokens=of_model)
    _, processor = make_coma(num_compression_tokens=of_processor)
    with pytest.raises(ValueError, match=f"Row 0 must end with the {of_model} compression tokens"):
        embed(model, processor, ["a red apple"])


@one_backbone
def test_rows_with_other_compression_tokens_than_their_own_are_refused(coma):
    """Nobody can type them; rows that another program has made may have them."""
    model, processor = coma
    with pytest.raises(ValueError, match=r"Row 1: its text types '<\|ctoken_pad_0\|>'"):
        processor.process(["a red apple", "a <|ctoken_pad_0|> b"])
    for place in (0, -1):
        batch = processor.process(["a red apple", "a red apple"])
        batch["input_ids"][1, place] = processor.compression_token_ids[0]
        with pytest.raises(ValueError, match="Row 1 must end with the 4 compression tokens"):
            model(**batch)


def test_image_tokens_without_their_images_are_refused(coma, mixed_inputs):
    model, processor = coma
    batch = processor.process(mixed_inputs)
    features = model.encode_images(batch["pixel_values"], image_grid_thw=batch["image_grid_thw"])
    grid = {"image_grid_thw": batch.pop("image_grid_thw")}
    pixels = {"pixel_values": batch.pop("pixel_values")}
    for given in ({}, grid, {"mm_encoder_outputs": features}, {"mm_encoder_outputs": {}, **grid}):
        with pytest.raises(ValueError, match="Image tokens need what the processor"):
            model(**batch, **given)
    with pytest.raises((ValueError, TypeError)):
        model(**batch, **pixels)
    with pytest.raises(ValueError, match="[Ii]mage features and image tokens do not match"):
        of_the_last = int(grid["image_grid_thw"][-1].prod())
        few = model.encode_images(pixels["pixel_values"][:-of_the_last], image_grid_thw=grid["image_grid_thw"][:-1])
        model(**batch, **grid, mm_encoder_outputs=few)


def test_features_computed_before_are_as_good_as_pixels(coma, mixed_inputs):
    model, processor = coma
    batch = processor.process(mixed_inputs)
    expected = model(**batch).embeddings
    features = model.encode_images(batch.pop("pixel_values"), image_grid_thw=batch["image_grid_thw"])
    for _ in range(2):  # they are not used up
        assert torch.equal(model(**batch, mm_encoder_outputs=features).embeddings, expected)


def graph_nodes(value) -> list:
    """The autograd nodes of all tensors of an output, lists included."""
    if isinstance(value, torch.Tensor):
        return [value.grad_fn] if value.grad_fn is not None else []
    return [node for part in (value or ()) for node in graph_nodes(part)]


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_tower_has_no_graph_and_no_gradient(coma, mixed_inputs, frozen):
    model, processor = coma
    visual = model.backbone.model.visual
    visual.requires_grad_(not frozen)
    batch = processor.process(mixed_inputs)
    features = model.encode_images(batch["pixel_values"], image_grid_thw=batch["image_grid_thw"])
    assert bool(graph_nodes(list(features["image"].values()))) is not frozen
    model(**batch).embeddings[:, 0].sum().backward()
    assert any(parameter.grad is not None for parameter in visual.parameters()) is not frozen
    for name, parameter in model.backbone.model.language_model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        features = model.encode_images(batch["pixel_values"], image_grid_thw=batch["image_grid_thw"])
        assert not graph_nodes(list(features["image"].values()))


@one_backbone
def test_outputs_come_as_a_tuple_too(coma, mixed_inputs):
    model, processor = coma
    batch = processor.process(mixed_inputs)
    output = model(**batch)
    assert output.loss is None and output.answer_states is None
    assert torch.equal(model(**batch, return_dict=False)[0], output.embeddings)


@one_backbone
def test_a_copy_is_independent(coma, mixed_inputs):
    model, processor = coma
    expected, other = embed(model, processor, mixed_inputs), copy.deepcopy(model)
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(2)
    assert torch.equal(embed(model, processor, mixed_inputs), expected)


def layers(config) -> int:
    return config.get_text_config().num_hidden_layers


def test_states_and_attentions_of_the_layers_are_given_where_asked(coma, mixed_inputs):
    model, processor = coma
    batch = processor.process(mixed_inputs)
    plain = model(**batch)
    assert plain.hidden_states is None and plain.attentions is None
    output = model(**batch, output_hidden_states=True)
    assert torch.equal(output.embeddings, plain.embeddings) and output.attentions is None
    assert {states.shape for states in output.hidden_states} == {(*batch["input_ids"].shape, model.config.hidden_size)}
    assert len(output.hidden_states) == layers(model.config) + 1
    assert torch.equal(output.hidden_states[-1][:, -4:], output.compression_states)
    model.set_attn_implementation("eager")
    output = model(**batch, output_attentions=True)
    assert output.hidden_states is None and len(output.attentions) == layers(model.config)
    length, heads = batch["input_ids"].shape[1], model.config.get_text_config().num_attention_heads
    for weights in output.attentions:
        assert weights.shape == (len(mixed_inputs), heads, length, length)
        of_tokens = weights[:, :, -4:].sum(dim=-1)
        torch.testing.assert_close(of_tokens, torch.ones_like(of_tokens), atol=1e-5, rtol=1e-5)


@one_backbone
def test_the_states_are_those_of_the_input_whatever_is_said_about_it(coma, batch, run):
    """In two passes, in one behind a mask, and in the full view."""
    model, _ = coma
    model.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    inputs = batch()
    encoder = {name: value for name, value in inputs.items() if "dialogue" not in name and name != "labels"}
    expected = model(**encoder, **asked)
    real = inputs["attention_mask"].bool()
    for kwargs, checkpointing in (({}, False), ({}, True), ({"dialogue_view": "full"}, False)):
        output = run(model, {**inputs, **kwargs, **asked}, checkpointing)
        assert output.loss is not None
        assert len(output.hidden_states) == layers(model.config) + 1
        for found, states in zip(output.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(found[real], states[real], atol=1e-5, rtol=1e-5)
        for found, weights in zip(output.attentions, expected.attentions, strict=True):
            assert found.shape == weights.shape
            rows = real[:, None, :, None].expand_as(found)
            torch.testing.assert_close(found[rows], weights[rows], atol=1e-5, rtol=1e-5)


@one_backbone
def test_what_the_config_says_about_outputs_is_heard(coma, mixed_inputs):
    model, processor = coma
    batch = processor.process(mixed_inputs)
    expected = model(**batch)
    model.config.output_hidden_states = True
    assert model(**batch).hidden_states is not None
    assert model(**batch, output_hidden_states=False).hidden_states is None
    model.config.output_hidden_states, model.config.return_dict = False, False
    found = model(**batch)
    assert isinstance(found, tuple) and torch.equal(found[0], expected.embeddings)
    assert torch.equal(model(**batch, return_dict=True).embeddings, expected.embeddings)


@one_backbone
def test_embeddings_of_tokens_are_refused_in_a_sentence(coma, mixed_inputs):
    """And an absent one, which PEFT passes, is none."""
    model, processor = coma
    batch = processor.process(mixed_inputs)
    vectors = model.get_input_embeddings()(batch["input_ids"])
    message = "found by their ids: pass `input_ids`, and no `inputs_embeds`"
    for given in ({"inputs_embeds": vectors}, {**batch, "inputs_embeds": vectors}, {}):
        with pytest.raises(ValueError, match=message):
            model(**given)
    with pytest.raises(TypeError, match=r"forward\(\) knows no \['pixels'\]"):
        model(**batch, pixels=1)
    assert model(**batch, inputs_embeds=None, return_dict=None).embeddings.isfinite().all()


@one_backbone
def test_gradients_reach_the_states_of_the_layers(coma, mixed_inputs):
    model, processor = coma
    output = model(**processor.process(mixed_inputs), output_hidden_states=True)
    output.hidden_states[1].retain_grad()
    output.embeddings[:, 0].sum().backward()
    assert output.hidden_states[1].grad.abs().max() > 0


@one_backbone
def test_a_model_may_be_adapted_as_one_that_embeds(coma, mixed_inputs):
    """PEFT's task type for embedding models passes all of these arguments on."""
    model, processor = coma
    batch = processor.process(mixed_inputs)
    expected = model(**batch).embeddings
    config = LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=r".*language_model.*q_proj")
    assert torch.equal(get_peft_model(model, config)(**batch).embeddings, expected)
