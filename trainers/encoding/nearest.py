"""The nearest documents of many queries, exactly, in memory that does not depend on how many documents there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch


__all__ = ["nearest_documents"]


def nearest_documents(
    queries: torch.Tensor,
    blocks: Iterable[tuple[np.ndarray, torch.Tensor]],
    depth: int,
    left_out: Sequence[np.ndarray] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The nearest documents of some queries, a block of the documents at a time.

    Args:
        queries (`torch.FloatTensor` of shape `(num_queries, dim)`): their embeddings.
        blocks (`Iterable[tuple[np.ndarray, torch.FloatTensor]]`): numbers of documents, `(num_documents,)`, which rise
            from the first block to the last, and their embeddings, `(num_documents, dim)`.
        depth (`int`): how many.
        left_out (`Sequence[np.ndarray]`, *optional*): by query, numbers of documents that are not looked at.

    Returns:
        `tuple[torch.FloatTensor, torch.LongTensor]`, each of shape `(num_queries, min(depth, num_documents))`: scores,
        the largest first and equal ones in the order of the numbers, and numbers; -inf where there are no more.

    Raises:
        ValueError: for a score that is not finite, with the query and the document.
    """
    device = queries.device
    scores = torch.empty(len(queries), 0, device=device)
    numbers = torch.empty(len(queries), 0, dtype=torch.long, device=device)
    counts = np.array([len(documents) for documents in left_out], dtype=np.int64)
    rows_out = torch.from_numpy(np.repeat(np.arange(len(left_out)), counts)).to(device)
    numbers_out = torch.from_numpy(np.concatenate([*left_out, np.empty(0, dtype=np.int64)])).to(device)
    for block_numbers, embeddings in blocks:
        block = torch.from_numpy(block_numbers).to(device)
        found = queries @ embeddings.to(device).T
        if len(bad := (~found.isfinite()).nonzero()):
            query, place = bad[0].tolist()
            raise ValueError(
                f"Query {query} and document {block_numbers[place]} have the score {found[query, place].item()}: one "
                "of their embeddings is not finite."
            )
        places = torch.searchsorted(block, numbers_out).clamp(max=len(block) - 1)
        here = block[places] == numbers_out
        found[rows_out[here], places[here]] = -torch.inf
        found, places = _largest(found, depth)
        scores, numbers = torch.cat([scores, found], dim=1), torch.cat([numbers, block[places]], dim=1)
        scores, places = _largest(scores, depth)
        numbers = numbers.gather(1, places)
    return scores, numbers


def _largest(scores: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
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
