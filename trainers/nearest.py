"""The nearest documents of many queries, exactly, in memory that does not depend on how many documents there are."""

from __future__ import annotations

import numpy as np
import torch

from trainers.embedding_shards import EmbeddingShards


__all__ = ["nearest_documents"]

DOCUMENTS_AT_A_TIME = 8192


def nearest_documents(
    queries: torch.Tensor, documents: EmbeddingShards, pool: np.ndarray, known: list[np.ndarray], depth: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The nearest documents of some queries, a piece of the documents at a time.

    Args:
        queries (`torch.FloatTensor` of shape `(num_queries, dim)`): their embeddings.
        documents ([`EmbeddingShards`]): embeddings of documents.
        pool (`np.ndarray` of shape `(pool_size,)`): sorted numbers of the documents to look among.
        known (`list[np.ndarray]`): by query, numbers of documents to leave out.
        depth (`int`): how many.

    Returns:
        `tuple[torch.FloatTensor, torch.LongTensor]`, each of shape `(num_queries, min(depth, pool_size))`: scores, the
        largest first and equal ones in the order of the numbers, and numbers; -inf where there are no more.
    """
    device = queries.device
    scores, numbers = torch.empty(len(queries), 0, device=device), torch.empty(len(queries), 0, dtype=torch.long)
    numbers = numbers.to(device)
    rows = torch.from_numpy(np.repeat(np.arange(len(known)), [len(one) for one in known])).to(device)
    left_out = torch.from_numpy(np.concatenate([*known, np.empty(0, dtype=np.int64)])).to(device)
    for start in range(0, len(pool), DOCUMENTS_AT_A_TIME):
        some = pool[start : start + DOCUMENTS_AT_A_TIME]
        block = torch.from_numpy(some).to(device)
        found = queries @ documents.take(some).to(device).T
        places = torch.searchsorted(block, left_out).clamp(max=len(block) - 1)
        here = block[places] == left_out
        found[rows[here], places[here]] = -torch.inf
        scores = torch.cat([scores, found], dim=1)
        numbers = torch.cat([numbers, block.expand(len(queries), -1)], dim=1)
        scores, numbers = _first(scores, numbers, depth)
    return scores, numbers


def _first(scores: torch.Tensor, numbers: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest scores of each row in order; where equal ones are at the edge, those that come first are in."""
    depth = min(depth, scores.shape[1])
    values, places = scores.topk(depth, dim=1)
    edge = values[:, -1:]
    undecided = ((scores == edge).sum(1) > (values == edge).sum(1)).nonzero()[:, 0]
    if len(undecided):
        places[undecided] = scores[undecided].sort(dim=1, descending=True, stable=True).indices[:, :depth]
    places = places.sort(dim=1).values
    values = scores.gather(1, places)
    order = values.sort(dim=1, descending=True, stable=True).indices
    return values.gather(1, order), numbers.gather(1, places.gather(1, order))
