"""The projection of a memory of states: trained in stage 1, alone or beside an adapter, left alone in stage 2."""

import dataclasses

import pytest
import torch
from peft import LoraConfig, PeftModel

from modeling_coma import ComaForEmbedding
from tests.checkpointing import CHECKPOINTING
from trainers.adapters import lora_config, merge_adapter
from trainers.backbone import model_from_backbone
from trainers.compression.collator import ComaCompressionCollator


NAME = "memory_projection"


@pytest.fixture
def coma(make_backbone):
    return model_from_backbone(make_backbone(), 4, memory="states")


@torch.no_grad()
def test_a_new_projection_makes_states_as_long_as_embedding_rows(coma):
    model, processor = coma
    weight = model.memory_projection.weight
    assert torch.equal(weight, weight[0, 0] * torch.eye(len(weight)))
    states = model.compress(**processor.process(["a red apple", "what is this?"])).compression_states
    rows = model.get_input_embeddings().weight[model.config.compression_token_ids]
    lengths = model.memory_projection(states).norm(dim=-1) / rows.norm(dim=-1).mean()
    assert ((lengths > 0.5) & (lengths < 2)).all()
    assert weight[0, 0] < 0.9  # they were longer


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {CHECKPOINTING: True}], ids=str)
def test_ten_steps_of_stage_1_lower_the_loss_and_move_it(coma, compression_rows, compression_trainer, settings):
    model, _ = coma
    before = model.memory_projection.weight.clone()
    trainer = compression_trainer(coma, compression_rows(4), max_steps=10, **settings)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]
    assert (model.memory_projection.weight - before).abs().max() > 1e-3


RECIPES = {
    "ours": lambda model: lora_config(model, r=2),
    "another": lambda model: LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj"),
    "on it": lambda model: LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj|memory_projection"),
}


@pytest.mark.parametrize(
    "recipe", ["ours", *(pytest.param(name, marks=pytest.mark.slow) for name in ("another", "on it"))]
)
def test_an_adapter_brings_it_along(coma, compression_rows, compression_trainer, tmp_path, recipe):
    """Trained, saved, loaded again and merged."""
    model, processor = coma
    model.save_pretrained(tmp_path / "base")
    settings = {"peft_config": RECIPES[recipe](model), "learning_rate": 0.01, "kl_weight": 0.5}
    trainer = compression_trainer(coma, compression_rows(4), **settings)
    trainer.train()
    trainer.save_model(tmp_path / "adapter")
    batch = ComaCompressionCollator(processor)(compression_rows(4))
    base = ComaForEmbedding.from_pretrained(tmp_path / "base")
    untrained = base(**batch).loss
    expected = trainer.coma.eval()(**batch).loss
    assert abs(expected - untrained) > 1e-3
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(adapted(**batch).loss, expected, atol=1e-5, rtol=1e-5)
    merged = merge_adapter(adapted)
    torch.testing.assert_close(merged(**batch).loss, expected, atol=1e-5, rtol=1e-5)
    weight = ComaForEmbedding.from_pretrained(tmp_path / "base").memory_projection.weight
    assert (merged.memory_projection.weight - weight).abs().max() > 1e-3


@pytest.mark.parametrize("adapter", [False, True])
def test_stage_2_leaves_it_alone(coma, contrastive_rows, contrastive_trainer, adapter):
    """A gradient that never comes is one that DDP would wait for."""
    settings = {"peft_config": lora_config(coma[0], r=2)} if adapter else {}
    trainer = contrastive_trainer(coma, contrastive_rows("text", 4), **settings)
    weights = {name: weight for name, weight in trainer.model.named_parameters() if NAME in name}
    assert weights and not any(weight.requires_grad for weight in weights.values())
    before = {name: weight.clone() for name, weight in weights.items()}
    trainer.train()
    assert all(torch.equal(weight, before[name]) for name, weight in weights.items())


@pytest.mark.parametrize("joint_weight", [0.0, 0.5])
def test_the_joint_objective_trains_it(coma, contrastive_rows, experimental_trainer, joint_weight):
    trainer = experimental_trainer(coma, contrastive_rows(number=4), joint_weight=joint_weight)
    assert coma[0].memory_projection.weight.requires_grad is (joint_weight > 0)
    assert trainer.answers_dialogues is (joint_weight > 0)


def test_an_evaluation_answers_from_other_states_and_from_none(coma, compression_rows, compression_trainer):
    rows = compression_rows(3)
    trainer = compression_trainer(coma, rows, eval_dataset=rows, max_steps=8, per_device_eval_batch_size=3)
    trainer.train()
    metrics = trainer.evaluate()
    model, batch = coma[0].eval(), dict(ComaCompressionCollator(coma[1])(rows))
    dialogue = {name: batch.pop(name) for name in ("dialogue_input_ids", "dialogue_attention_mask", "labels")}
    memory = model.compress(**batch)
    nothing = dataclasses.replace(memory, compression_states=memory.compression_states[:, :0])
    memories = {"loss": memory, "loss_shuffled_tokens": memory.select(torch.tensor([2, 0, 1]))}
    for name, one in {**memories, "loss_without_tokens": nothing}.items():
        assert metrics[f"eval_{name}"] == pytest.approx(model.answer(one, **dialogue).loss.item(), abs=1e-5)
    assert abs(metrics["eval_loss"] - metrics["eval_loss_without_tokens"]) > 1e-3
