"""How much do the compression tokens carry? The loss of answers with them, with another row's, and without any."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from tqdm.auto import tqdm

from modeling_coma import ComaForEmbedding, CompressionMemory
from trainers.compression.loss import answer_hits
from trainers.evaluation_rows import RowsOnce


__all__ = ["evaluate_compression"]

DIALOGUE = ("dialogue_input_ids", "dialogue_attention_mask", "labels")
METRICS = ("loss", "loss_shuffled_tokens", "loss_without_tokens", "answer_accuracy")


@torch.no_grad()
def evaluate_compression(
    model: ComaForEmbedding,
    dataloader: Iterable[dict[str, torch.Tensor]],
    accelerator: Accelerator,
    description: str | None = None,
) -> tuple[dict[str, float], torch.Tensor, int]:
    r"""
    Losses per answer token over a whole set, exact whatever the batches are.

    Args:
        model ([`ComaForEmbedding`] or `PeftModel`):
            The model, in evaluation mode.
        dataloader (`Iterable`):
            Batches of [`ComaCompressionCollator`], with the numbers of their rows (`rows`, `skipped`) where
            accelerate may have filled them up, see [`~trainers.evaluation_rows.EvaluationCollator`].
        accelerator (`Accelerator`):
            Adds up what the processes have seen.
        description (`str`, *optional*):
            Text of the progress bar; without one there is none.

    Returns:
        `tuple`: metrics `loss`, `loss_shuffled_tokens` (each row answers from the tokens of the row before it; not of
        a single row), `loss_without_tokens` and `answer_accuracy`; the mean similarity of the compression tokens to
        each other, of shape `(K, K)` (paper, figure 3); the number of rows. Where rows were left out as bad,
        `rows_skipped` says how many.

    Raises:
        ValueError: if all rows were left out as bad.
    """
    if isinstance(model, FSDPModule):  # it gathers weights for `forward`, and for what is registered
        for name in ("compress", "answer"):
            register_fsdp_forward_method(model, name)
    k, zero = model.config.num_compression_tokens, torch.zeros((), dtype=torch.float64, device=accelerator.device)
    sums = dict.fromkeys((*METRICS, "num_answer_tokens", "num_rows"), zero)
    similarity = torch.zeros(k, k, device=accelerator.device)
    before, once = None, RowsOnce()
    for batch in tqdm(dataloader, desc=description, disable=description is None or not accelerator.is_main_process):
        num_rows = _num_real_rows(batch, once)
        dialogue = {name: batch.pop(name) for name in DIALOGUE}
        dialogue["labels"][num_rows:] = -100
        with accelerator.autocast():
            memory = model.compress(**batch)
            others = _of_the_row_before(memory, before, max(num_rows, 1))
            found = _answer(model, dialogue, memory, others) | {"num_rows": num_rows}
        sums = {name: total + found[name] for name, total in sums.items()}
        states = F.normalize(memory.compression_states[:num_rows].float(), dim=-1)
        similarity += (states @ states.mT).sum(dim=0)
        before = memory.select(torch.tensor([num_rows - 1])) if num_rows else before
    once.check()
    sums, similarity = accelerator.reduce((sums, similarity))
    metrics: dict[str, Any] = {name: (sums[name] / sums["num_answer_tokens"]).item() for name in METRICS}
    metrics |= {"rows_skipped": len(once.skipped)} if once.skipped else {}
    if sums["num_rows"] == 1:
        del metrics["loss_shuffled_tokens"]  # there is no other row
    return metrics, (similarity / sums["num_rows"]).float().cpu(), int(sums["num_rows"])


def _answer(
    model: ComaForEmbedding, dialogue: dict[str, Tensor], memory: CompressionMemory, others: CompressionMemory
) -> dict[str, Tensor]:
    """Sums over the answer tokens of a batch, and their number."""
    memories = {"loss": memory, "loss_shuffled_tokens": others, "loss_without_tokens": _nothing(memory)}
    outputs = {name: model.answer(one, **dialogue, num_items_in_batch=1) for name, one in memories.items()}
    answers = dialogue["labels"][dialogue["labels"] != -100]
    hits = answer_hits(outputs["loss"].answer_states, model.get_output_embeddings(), answers)
    losses = {name: output.loss.double() for name, output in outputs.items()}
    return losses | {"answer_accuracy": hits.sum(), "num_answer_tokens": hits.numel()}


def _num_real_rows(batch: dict[str, Tensor], once: RowsOnce) -> int:
    """How many rows of a batch count: those at its end may have been there already. Takes all numbers out of it."""
    batch.pop("num_images", None)
    rows, skipped = batch.pop("rows", None), batch.pop("skipped", None)
    if rows is None:
        return len(batch["labels"])
    new, here = once.add(rows, skipped)
    return int(new[here].sum())


def _of_the_row_before(memory: CompressionMemory, before: CompressionMemory | None, rows: int) -> CompressionMemory:
    """The memory of the row before, for every row; the first of all gets that of the last of its batch."""
    first = memory.select(torch.tensor([rows - 1])) if before is None else before
    others = memory.select(torch.arange(len(memory) - 1))
    layers = [
        (torch.cat([first_keys, keys]), torch.cat([first_values, values]))
        for (first_keys, first_values), (keys, values) in zip(first.layers, others.layers, strict=True)
    ]
    return CompressionMemory(
        layers,
        torch.cat([first.next_position, others.next_position]),
        torch.cat([first.compression_states, others.compression_states]),
    )


def _nothing(memory: CompressionMemory) -> CompressionMemory:
    """A memory without columns, after which dialogues stand where they would stand."""
    layers = [(keys[:, :, :0], values[:, :, :0]) for keys, values in memory.layers]
    states = memory.compression_states if layers else memory.compression_states[:, :0]
    return CompressionMemory(layers, memory.next_position, states)
