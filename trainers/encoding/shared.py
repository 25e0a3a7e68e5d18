"""Embedding shared by the processes of a run: each embeds a part of the items, and all of them get all embeddings."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.distributed import gather_rows
from trainers.encoding.encode import embed_items


__all__ = ["embed_shared"]


def embed_shared(
    model: ComaForEmbedding,
    processor: ComaProcessor,
    items: Sequence[Any],
    *,
    names: Callable[[int], str] | None = None,
    failures: dict[int, str] | None = None,
    **options: Any,
) -> torch.FloatTensor:
    """
    Embeds a list on all processes together; on one process it is [`embed_items`].

    Args:
        model ([`ComaForEmbedding`]): the same on all processes.
        processor ([`ComaProcessor`]): makes its inputs.
        items (`Sequence`): the same on all processes.
        names, failures (*optional*): of [`embed_items`], by places in `items`; the same failures on all processes.
        options: others of [`embed_items`].

    Returns:
        `torch.FloatTensor` of shape `(len(items), hidden_size)`, in the order of the items, on every process.
    """
    several = dist.is_available() and dist.is_initialized()
    rank, processes = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
    share = _Share(items, range(rank, len(items), processes), names)
    own = None if failures is None else {}
    embeddings = embed_items(model, processor, share, names=share.name, failures=own, **options)
    gathered, _ = gather_rows(embeddings.to(model.device))
    if failures is not None:
        of_all: list[dict[int, str]] = [{}] * processes
        own = {share.places[number]: reason for number, reason in own.items()}
        if several:
            dist.all_gather_object(of_all, own)
        failures.update(ChainMap(*of_all) if several else own)
    places = torch.cat([torch.arange(one, len(items), processes) for one in range(processes)])
    return torch.empty(gathered.shape).index_copy_(0, places, gathered.cpu())


class _Share(Sequence):
    """Some of the items, fetched when they are asked for."""

    def __init__(self, items: Sequence[Any], places: range, names: Callable[[int], str] | None) -> None:
        self.items, self.places, self.names = items, places, names

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Any:
        return self.items[self.places[number]]

    def name(self, number: int) -> str:
        """What an item is called in messages."""
        place = self.places[number]
        return f"Row {place}" if self.names is None else self.names(place)
