"""How much do the compression tokens carry? The loss of answers with them, with another row's, and without any."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from tqdm.auto import tqdm

from modeling_coma import ComaForEmbedding, CompressionMemory
from trainers.losses import answer_hits


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
            Batches of [`ComaCompressionCollator`].
        accelerator (`Accelerator`):
            Adds up what the processes have seen.
        description (`str`):
            Text of the progress bar.

    Returns:
        `tuple`: metrics `loss`, `loss_shuffled_tokens` (each row answers from the tokens of the next row of its
        batch), `loss_without_tokens` and `answer_accuracy`; the mean similarity of the compression tokens to each
        other, of shape `(K, K)` (paper, figure 3); the number of rows.
    """
    coma = model.get_base_model() if hasattr(model, "get_base_model") else model
    head, k = coma.get_output_embeddings(), coma.config.num_compression_tokens
    sums = torch.zeros(5, device=accelerator.device)  # loss, shuffled, without, hits; answer tokens
    similarity, rows = torch.zeros(k, k, device=accelerator.device), torch.zeros(1, device=accelerator.device)
    for batch in tqdm(dataloader, desc=description, disable=not accelerator.is_main_process):
        dialogue = [batch[name] for name in DIALOGUE]
        memory = coma.compress(**{name: value for name, value in batch.items() if name not in DIALOGUE})
        output = coma.answer(memory, *dialogue, 1)
        others = memory.select(torch.arange(len(memory)).roll(1))
        answers = batch["labels"][batch["labels"] != -100]
        hits = answer_hits(output.answer_states, head, answers)
        losses = [
            output.loss,
            coma.answer(others, *dialogue, 1).loss,
            coma.answer(_nothing(memory), *dialogue, 1).loss,
        ]
        sums += torch.stack([*losses, hits.sum(), torch.tensor(answers.numel(), device=sums.device)]).float()
        states = F.normalize(memory.compression_states.float(), dim=-1)
        similarity, rows = similarity + (states @ states.mT).sum(dim=0), rows + len(memory)
    sums, similarity, rows = accelerator.reduce((sums, similarity, rows))
    names = ("loss", "loss_shuffled_tokens", "loss_without_tokens", "answer_accuracy")
    metrics: dict[str, Any] = dict(zip(names, (sums[:4] / sums[4]).tolist(), strict=True))
    return metrics, (similarity / rows).cpu(), int(rows)


def _nothing(memory: CompressionMemory) -> CompressionMemory:
    """A memory without columns, after which dialogues stand where they would stand."""
    layers = [(keys[:, :, :0], values[:, :, :0]) for keys, values in memory.layers]
    return CompressionMemory(layers, memory.next_position, memory.compression_states)
