"""Late interaction: how near several vectors of a query are to several of a document."""

from __future__ import annotations

import torch
import torch.nn.functional as F


__all__ = ["blocks_of_rows", "check_states", "maxsim", "unit_states"]

COSINES = 2**24  # of states with each other that are alive at one time, 64 MiB of them
STATES = 2**12  # of documents that are taken to the device at one time


@torch.no_grad()
def maxsim(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    r"""
    MaxSim (Khattab and Zaharia 2020) of every query and every document: each state of the query takes the nearest
    state of the document,

    $$s(Q, D) = \frac{1}{q} \sum_{i \le q} \max_{j \le t} \cos(Q_i, D_j).$$

    The mean over the query's states rather than their sum: it is a cosine where both sides have one state, and
    stays within [-1, 1] whatever the budget, so that a temperature, a margin or a threshold means the same at each.
    The order of documents is that of the sum. It is `meanmaxsim` of `MultiVectorEncoder` in sentence-transformers,
    and `maxsim` there divided by q.

    Budgets are nested: `maxsim(queries[:, :2], documents[:, :4])` is that of two states and four.

    Args:
        queries (`torch.Tensor` of shape `(num_queries, q, dim)`):
            Their states, on the device where they are scored; normalised here.
        documents (`torch.Tensor` of shape `(num_documents, t, dim)`):
            Their states, taken to that device a block at a time; normalised here.

    Returns:
        `torch.Tensor` of shape `(num_queries, num_documents)`: fp32, or fp64 if the queries are. No more than 64 MiB
        of cosines of states are alive at one time, or those of one query with one document.

    Raises:
        ValueError: for other shapes, or no state on one side.

    Example:

        >>> query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> documents = torch.tensor([[[3.0, 0.0]], [[1.0, 1.0]]])
        >>> maxsim(query, documents)
        tensor([[0.5000, 0.7071]])
    """
    check_states(queries, documents)
    (num_queries, q, dim), (num_documents, t, _) = queries.shape, documents.shape
    queries = unit_states(queries)
    found = torch.empty(num_queries, num_documents, dtype=queries.dtype, device=queries.device)
    for rows in blocks_of_rows(num_documents, min(STATES // t, COSINES // (q * t))):
        block = unit_states(documents[rows].to(queries.device)).to(queries.dtype).reshape(-1, dim)
        for some in blocks_of_rows(num_queries, COSINES // (q * len(block))):
            cosines = queries[some].reshape(-1, dim) @ block.T
            found[some, rows] = cosines.view(-1, q, len(block) // t, t).amax(dim=3).mean(dim=1)
    return found


def check_states(queries: torch.Tensor, documents: torch.Tensor) -> None:
    """Refuses what are not states of one width."""
    shapes = tuple(queries.shape), tuple(documents.shape)
    if any(len(shape) != 3 or not shape[1] for shape in shapes) or shapes[0][2] != shapes[1][2]:
        raise ValueError(
            "Queries and documents of late interaction must be (rows, states, dim) with one dim and at least one "
            f"state, got {shapes[0]} and {shapes[1]}."
        )


def unit_states(states: torch.Tensor) -> torch.Tensor:
    """States of length 1, in fp32 or better; zero stays zero."""
    return F.normalize(states.to(torch.promote_types(states.dtype, torch.float32)), dim=-1)


def blocks_of_rows(number: int, most: int) -> list[slice]:
    """Slices of so many rows, each of `most` or fewer, but of one at least."""
    size = max(1, most)
    return [slice(start, min(start + size, number)) for start in range(0, number, size)]
