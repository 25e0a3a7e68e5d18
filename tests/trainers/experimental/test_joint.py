"""Stage 1 beside stage 2: the gradient of the weighted sum of both losses, whatever the mini-batches."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainers.compression.collator import ComaCompressionCollator
from trainers.contrastive.collator import ComaContrastiveCollator
from trainers.experimental.joint import JointContrastiveCollator


def with_messages(rows: list[dict]) -> list[dict]:
    """Dialogues of other lengths about all queries but every third."""
    for number, row in enumerate(rows):
        if number % 3:
            answers = [{"role": "assistant", "content": "an apple " * number}]
            row["messages"] = [{"role": "user", "content": "What is it?"}, *answers]
    return rows


def stage_1(processor: Any, rows: list[dict]) -> dict[str, torch.Tensor]:
    items = []
    for row in rows:
        if "messages" in row:
            image = row["query"].get("image")
            items.append(
                {"images": [image] if image else [], "text": row["query"].get("text"), "messages": row["messages"]}
            )
    return ComaCompressionCollator(processor)(items)


@pytest.mark.parametrize("budget", [60, pytest.param(10000, marks=pytest.mark.slow)])
def test_the_step_is_that_of_the_sum(
    make_coma: Callable,
    contrastive_rows: Callable,
    contrastive_trainer: Callable,
    experimental_trainer: Callable,
    budget: int,
) -> None:
    """With SGD and rate 1 the step is the gradient; two batches are accumulated."""
    rows, settings = (
        with_messages(contrastive_rows("mixed", 8)),
        {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0},
    )
    settings |= {"lr_scheduler_type": "constant", "warmup_steps": 0, "max_grad_norm": 0.0, "mini_batch_tokens": budget}
    trainer = experimental_trainer(make_coma(), rows, joint_weight=0.5, gradient_accumulation_steps=2, **settings)
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
    trainer.train()
    other, total, answers, tokens = contrastive_trainer(make_coma(), **settings), 0.0, 0.0, 0
    for part in (rows[:4], rows[4:]):
        batch = stage_1(other.processing_class, part)
        answer_loss = other.model.train()(**batch).loss
        count = int((batch["labels"] != -100).sum())
        answers, tokens = answers + answer_loss.item() * count, tokens + count
        loss = (other.compute_loss(other.model, other.data_collator(part)) + 0.5 * answer_loss) / 2
        loss.backward()
        total += loss.item()
    logged = trainer.state.log_history[0]
    assert logged["loss"] == pytest.approx(total, rel=1e-4)
    assert logged["answer_loss"] == pytest.approx(answers / tokens, rel=1e-4)
    before = make_coma()[0]
    for name, parameter in other.model.named_parameters():
        if parameter.grad is not None:
            moved = before.get_parameter(name) - trainer.model.get_parameter(name)
            torch.testing.assert_close(moved, parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_dialogues_are_collated_only_where_they_count(make_coma: Callable, contrastive_rows: Callable) -> None:
    processor, rows = make_coma()[1], with_messages(contrastive_rows("mixed", 6))
    assert "dialogues" not in ComaContrastiveCollator(processor)(rows)
    assert "dialogues" not in JointContrastiveCollator(processor)(rows)
    collator = JointContrastiveCollator(processor, dialogues=ComaCompressionCollator(processor))
    assert collator(rows[:1])["dialogues"] is None
    packed, expected = collator(rows)["dialogues"], stage_1(processor, rows)
    assert len(packed.lengths) == 4 and packed.num_answer_tokens == int((expected["labels"] != -100).sum())
    (whole,) = packed.mini_batches(10000, processor.tokenizer.pad_token_id)
    assert whole.keys() == expected.keys()
    assert whole["labels"].sort(dim=0).values.tolist() == expected["labels"].sort(dim=0).values.tolist()
    rows[4]["messages"] = rows[4]["messages"][:1]
    with pytest.raises(ValueError, match="Row 4 of the data set is bad: .*the assistant last"):
        collator(rows)
