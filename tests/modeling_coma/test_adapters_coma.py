"""PEFT on a CoMa model: what is trained is saved, small, and gives the same embeddings reloaded and merged."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from tests.checkpointing import set_checkpointing


K = 4
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
one_backbone = pytest.mark.parametrize("model_type", ["qwen2_5_vl"])  # where another would show nothing new


@pytest.fixture
def batch(coma, mixed_inputs, mixed_dialogues, pad):
    _, processor = coma
    return {**processor.process(mixed_inputs), **pad(processor.process_dialogues(mixed_dialogues))}


def adapt(model) -> PeftModel:
    """DoRA on the language model's attention, and the rows of the compression tokens."""
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        use_dora=True,
        init_lora_weights="gaussian",
        target_modules=r".*language_model.*\.(q|k|v|o)_proj",
        trainable_token_indices={"embed_tokens": model.config.compression_token_ids},
    )
    torch.manual_seed(0)
    return get_peft_model(copy.deepcopy(model), config)


def train(model: PeftModel, batch: dict, steps: int = 3) -> list[float]:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.Adam(trainable, lr=1e-2), []
    for _ in range(steps):
        loss = model.train()(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def run(model, batch: dict):
    return model.eval()(**batch)


def test_train_save_reload_and_merge_are_one_model(coma, batch, tmp_path):
    model, _ = coma
    adapted = adapt(model)
    losses = train(adapted, batch)
    assert losses[-1] < losses[0]
    trained, before = run(adapted, batch), run(model, batch)
    assert (trained.embeddings - before.embeddings).abs().max() > 1e-2

    adapted.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    rows = [tensor for name, tensor in saved.items() if "trainable_tokens" in name]
    assert [tuple(tensor.shape) for tensor in rows] == [(K, model.config.hidden_size)]
    assert max(tensor.numel() for tensor in saved.values()) < model.get_input_embeddings().weight.numel() / 10
    reloaded = run(PeftModel.from_pretrained(copy.deepcopy(model), tmp_path), batch)
    assert torch.equal(reloaded.embeddings, trained.embeddings) and torch.equal(reloaded.loss, trained.loss)

    merged = adapted.merge_and_unload()
    after = run(merged, batch)
    torch.testing.assert_close(after.embeddings, trained.embeddings, **CLOSE)
    torch.testing.assert_close(after.answer_states, trained.answer_states, **CLOSE)
    torch.testing.assert_close(after.loss, trained.loss, **CLOSE)  # the tied head has the trained rows too
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight

    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(run(type(model).from_pretrained(tmp_path / "merged"), batch).embeddings, after.embeddings)


@one_backbone
def test_only_the_compression_rows_of_the_vocabulary_change(coma, batch):
    model, _ = coma
    adapted = adapt(model)
    train(adapted, batch)
    old, new = model.get_input_embeddings().weight, adapted.merge_and_unload().get_input_embeddings().weight
    changed = (old != new).any(dim=1).nonzero()[:, 0].tolist()
    assert changed == model.config.compression_token_ids


def test_checkpointing_gives_the_adapter_the_same_gradients(coma, batch):
    model, _ = coma
    found = []
    for checkpointing in (False, True):
        adapted = adapt(model)
        if checkpointing:
            set_checkpointing(adapted)
        adapted.train()(**batch).loss.backward()
        found.append({name: p.grad for name, p in adapted.named_parameters() if p.requires_grad})
    assert len(found[0]) > 10
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, **CLOSE)
    assert sum(gradient.abs().max() > 0 for gradient in found[0].values()) > 10


@one_backbone
def test_without_its_adapter_the_model_is_as_it_was(coma, batch):
    """Which is the teacher of stage 1, without a second copy."""
    model, _ = coma
    adapted = adapt(model)
    train(adapted, batch)
    expected = model.eval()(**batch, dialogue_view="full").loss
    with adapted.disable_adapter(), torch.no_grad():
        loss = adapted.eval()(**batch, dialogue_view="full").loss
    torch.testing.assert_close(loss, expected, **CLOSE)
    assert abs(run(adapted, {**batch, "dialogue_view": "full"}).loss - expected) > 1e-2


@one_backbone
def test_a_memory_of_an_adapted_model_is_answered_by_it(coma, batch):
    model, _ = coma
    adapted = adapt(model)
    train(adapted, batch)
    dialogues = {name: batch[name] for name in ("dialogue_input_ids", "dialogue_attention_mask", "labels")}
    encoder = {name: value for name, value in batch.items() if name not in dialogues}
    with torch.no_grad():
        base = adapted.eval().get_base_model()
        output = base.answer(base.compress(**encoder), *dialogues.values())
    assert torch.equal(output.loss, run(adapted, batch).loss)
