"""Embedding shared by the processes of a run: each embeds a part of the items, and all of them get all embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.encoding import embed_items
from trainers.gather import gather_rows


__all__ = ["embed_shared"]


def embed_shared(
    model: ComaForEmbedding, processor: ComaProcessor, items: Sequence[Any], **options: Any
) -> torch.FloatTensor:
    """
    Embeds a list on all processes together; on one process it is [`embed_items`].

    Args:
        model ([`ComaForEmbedding`]): the same on all processes.
        processor ([`ComaProcessor`]): makes its inputs.
        items (`Sequence`): the same on all processes.
        options: of [`embed_items`].

    Returns:
        `torch.FloatTensor` of shape `(len(items), hidden_size)`, in the order of the items, on every process.
    """
    several = dist.is_available() and dist.is_initialized()
    rank, processes = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
    share = _Share(items, range(rank, len(items), processes))
    gathered, _ = gather_rows(embed_items(model, processor, share, **options).to(model.device))
    places = torch.cat([torch.arange(one, len(items), processes) for one in range(processes)])
    return torch.empty(gathered.shape).index_copy_(0, places, gathered.cpu())


class _Share(Sequence):
    """Some of the items, fetched when they are asked for."""

    def __init__(self, items: Sequence[Any], places: range) -> None:
        self.items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Any:
        return self.items[self.places[number]]
