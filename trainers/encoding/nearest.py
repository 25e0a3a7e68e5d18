"""The nearest documents of many queries, exactly, in memory that does not depend on how many documents there are."""

from __future__ import annotations

import numpy as np
import torch

from trainers.encoding.shards import EmbeddingShards


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

    Raises:
        ValueError: for a score that is not finite, with the query and the document.
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
        if len(bad := (~found.isfinite()).nonzero()):
            query, place = bad[0].tolist()
            raise ValueError(
                f"Query {query} and document {some[place]} have the score {found[query, place].item()}: one of their "
                "embeddings is not finite."
            )
        places = torch.searchsorted(block, left_out).clamp(max=len(block) - 1)
        here = block[places] == left_out
        found[rows[here], places[here]] = -torch.inf
        found, places = _first(found, depth)
        scores, numbers = torch.cat([scores, found], dim=1), torch.cat([numbers, block[places]], dim=1)
        scores, places = _first(scores, depth)
        numbers = numbers.gather(1, places)
    return scores, numbers


def _first(scores: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest scores of each row, and their places. Of equal ones those that come first are in, and come first."""
    depth = min(depth, scores.shape[1])
    values, places = scores.topk(min(depth + 1, scores.shape[1]), dim=1)
    undecided = (values[:, depth:] == values[:, depth - 1 : depth]).any(1).nonzero()[:, 0]
    places = places[:, :depth]
    if len(undecided):  # which of equal scores `topk` takes is not said
        places[undecided] = scores[undecided].sort(dim=1, descending=True, stable=True).indices[:, :depth]
    places = places.sort(dim=1).values
    values, order = scores.gather(1, places).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, order)
