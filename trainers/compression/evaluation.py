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


@torch.no_grad()
def evaluate_compression(
    model: ComaForEmbedding, dataloader: Iterable[dict[str, torch.Tensor]], accelerator: Accelerator, description: str
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
        description (`str`):
            Text of the progress bar.

    Returns:
        `tuple`: metrics `loss`, `loss_shuffled_tokens` (each row answers from the tokens of the row before it),
        `loss_without_tokens` and `answer_accuracy`; the mean similarity of the compression tokens to each other, of
        shape `(K, K)` (paper, figure 3); the number of rows. Where rows were left out as bad, `rows_skipped` says how
        many.

    Raises:
        ValueError: if all rows were left out as bad.
    """
    if isinstance(model, FSDPModule):  # it gathers weights for `forward`, and for what is registered
        for name in ("compress", "answer"):
            register_fsdp_forward_method(model, name)
    k = model.config.num_compression_tokens
    sums = torch.zeros(5, dtype=torch.float64, device=accelerator.device)  # three losses, hits; answer tokens
    similarity, rows = torch.zeros(k, k, device=accelerator.device), torch.zeros(1, device=accelerator.device)
    before, once = None, RowsOnce()
    for batch in tqdm(dataloader, desc=description, disable=not accelerator.is_main_process):
        real = _real_rows(batch, once)
        batch["labels"][real:] = -100
        dialogue = [batch[name] for name in DIALOGUE]
        with accelerator.autocast():
            memory = model.compress(**{name: value for name, value in batch.items() if name not in DIALOGUE})
            others = _of_the_row_before(memory, before, max(real, 1))
            sums += _sums(model, (memory, others, _nothing(memory)), dialogue)
        before = memory.select(torch.tensor([real - 1])) if real else before
        states = F.normalize(memory.compression_states[:real].float(), dim=-1)
        similarity, rows = similarity + (states @ states.mT).sum(dim=0), rows + real
    once.check()
    sums, similarity, rows = accelerator.reduce((sums, similarity, rows))
    names = ("loss", "loss_shuffled_tokens", "loss_without_tokens", "answer_accuracy")
    metrics: dict[str, Any] = dict(zip(names, (sums[:4] / sums[4]).tolist(), strict=True))
    metrics |= {"rows_skipped": len(once.skipped)} if once.skipped else {}
    return metrics, (similarity / rows).cpu(), int(rows)


def _sums(model: ComaForEmbedding, memories: tuple[CompressionMemory, ...], dialogue: list[Tensor]) -> Tensor:
    """Sums over the answer tokens: the loss from each of the memories, and the hits from the first; their number."""
    outputs = [model.answer(memory, *dialogue, 1) for memory in memories]
    answers = dialogue[-1][dialogue[-1] != -100]
    hits = answer_hits(outputs[0].answer_states, model.get_output_embeddings(), answers)
    numbers = [output.loss for output in outputs] + [hits.sum(), torch.tensor(len(answers), device=hits.device)]
    return torch.stack([number.double() for number in numbers])


def _real_rows(batch: dict[str, Tensor], once: RowsOnce) -> int:
    """How many rows of a batch count: those at its end may have been there already. Takes the numbers out of it."""
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
    return CompressionMemory(layers, memory.next_position, memory.compression_states)
