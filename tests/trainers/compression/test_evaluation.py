"""What evaluation says the tokens carry, against a slow oracle that answers row by row, alone."""

import pytest
import torch
import torch.nn.functional as F

from modeling_coma import CompressionMemory
from trainers.adapters import lora_config
from trainers.compression.collator import ComaCompressionCollator


@pytest.fixture
def trained(make_coma, compression_trainer, compression_rows):
    """A trainer whose model has learnt a little, so that its tokens say something."""

    def make(**settings):
        model, processor = make_coma()
        settings = {"learning_rate": 3e-3, "max_steps": 8, "eval_dataset": compression_rows(7), **settings}
        trainer = compression_trainer((model, processor), compression_rows(7), **settings)
        trainer.train()
        return trainer

    return make


@torch.no_grad()
def oracle(trainer, rows):
    """Each row alone, without padding; full logits."""
    model = trainer.coma.eval()
    collator = ComaCompressionCollator(trainer.processing_class)
    batches = [collator([row]) for row in rows]
    names = ("dialogue_input_ids", "dialogue_attention_mask", "labels")
    memories = [model.compress(**{k: v for k, v in batch.items() if k not in names}) for batch in batches]
    empty = [
        CompressionMemory([(k[:, :, :0], v[:, :, :0]) for k, v in m.layers], m.next_position, m.compression_states)
        for m in memories
    ]
    losses, hits, count = [], 0, 0
    for others in (memories, memories[-1:] + memories[:-1], empty):
        total = 0.0
        for memory, batch in zip(others, batches, strict=True):
            output = model.answer(memory, *(batch[name] for name in names))
            logits, labels = (
                model.get_output_embeddings()(output.answer_states),
                batch["labels"][batch["labels"] != -100],
            )
            total += F.cross_entropy(logits, labels, reduction="sum").item()
            if others is memories:
                hits, count = hits + (logits.argmax(-1) == labels).sum().item(), count + len(labels)
        losses.append(total / count)
    states = F.normalize(torch.cat([memory.compression_states for memory in memories]), dim=-1)
    return [*losses, hits / count], (states @ states.mT).mean(dim=0)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [False, True])
def test_losses_with_other_tokens_and_without_any(trained, compression_rows, adapter, make_coma):
    rows = compression_rows(7)
    trainer = trained(peft_config=lora_config(make_coma()[0])) if adapter else trained()
    expected, similarity = oracle(trainer, rows)
    names = ("loss", "loss_shuffled_tokens", "loss_without_tokens", "answer_accuracy")
    for batch_size in (1, 3, 7):
        trainer.args.per_device_eval_batch_size = batch_size
        metrics = trainer.evaluate()
        found = [metrics[f"eval_{name}"] for name in names]
        if batch_size == 7:  # the one batch that has the last row before the first
            assert found == pytest.approx(expected, abs=2e-5)
        assert [found[0], *found[2:]] == pytest.approx([expected[0], *expected[2:]], abs=2e-5)
        assert abs(found[1] - found[0]) > 1e-4  # other tokens, even in batches of one row
        torch.testing.assert_close(trainer.token_similarity.similarity, similarity, atol=1e-5, rtol=1e-5)
        assert metrics["eval_samples_per_second"] > 0
    assert not adapter or expected[0] < expected[2]


def test_evaluation_leaves_training_as_it_was(trained):
    """It neither draws random numbers nor leaves gradients."""
    states = []
    for settings in ({}, {"eval_strategy": "steps", "eval_steps": 2}):
        trainer = trained(**settings)
        states.append(trainer.model.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_the_similarity_is_drawn_beside_evaluated_checkpoints(trained):
    from pathlib import Path

    from PIL import Image

    settings = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trainer = trained(**settings)
    folder = Path(trainer.args.output_dir)
    assert not (folder / "checkpoint-2" / "token_similarity.png").exists()
    with Image.open(folder / "checkpoint-4" / "token_similarity.png") as picture:
        assert min(picture.size) > 300
    similarity = trainer.token_similarity.similarity
    assert similarity.shape == (4, 4) and torch.allclose(similarity.diagonal(), torch.ones(4), atol=1e-5)
