"""Similarities of a block of queries to all documents, and where their slopes go: cosines, and MaxSim of states."""

from __future__ import annotations

import torch

from trainers.encoding.maxsim import blocks_of_rows


__all__ = ["Cosines", "MaxSims", "similarities_of"]


class Cosines:
    """
    Cosines of unit vectors, and the gradients of what is made of them.

    Args:
        queries (`torch.Tensor` of shape `(N, dim)`), documents (`(M, dim)`):
            Vectors of length 1.
        most (`int`):
            Numbers that a tensor may have.
    """

    def __init__(self, queries: torch.Tensor, documents: torch.Tensor, most: int) -> None:
        self.queries, self.documents = queries, documents
        self.block_size = max(1, most // max(1, len(documents)))
        self.for_queries, self.for_documents = torch.zeros_like(queries), torch.zeros_like(documents)

    def scores(self, block: slice) -> torch.Tensor:
        """Similarities of some queries, `(block_size, M)`."""
        return self.queries[block] @ self.documents.T

    def add_gradients(self, block: slice, slopes: torch.Tensor) -> None:
        """Takes the slopes of the loss in the scores that were computed last, `(block_size, M)`, to the vectors."""
        self.for_queries[block] = slopes @ self.documents
        self.for_documents.addmm_(slopes.T, self.queries[block])


class MaxSims:
    """
    MaxSim, as in [`~trainers.encoding.maxsim.maxsim`], and the gradients of what is made of it.

    A state of a query has a slope in the one nearest state of each document, and so have they in it. All cosines of
    states would be `N x M x q x t` numbers: they are made for some queries and some documents at a time, and of the
    queries of a block it is kept which states were nearest.

    Args:
        queries (`torch.Tensor` of shape `(N, q, dim)`), documents (`(M, t, dim)`):
            States of length 1.
        most (`int`):
            Numbers that a tensor may have, if these are enough for a query and a document.
    """

    def __init__(self, queries: torch.Tensor, documents: torch.Tensor, most: int) -> None:
        self.queries, self.documents, self.most = queries, documents, most
        self.block_size = max(1, most // max(1, len(documents) * queries.shape[1]))
        self.for_queries, self.for_documents = (side.new_zeros(side.shape) for side in (queries, documents))
        self.nearest = torch.empty(0, dtype=torch.long)  # (queries of the block, q, M): which state of the document

    def scores(self, block: slice) -> torch.Tensor:
        """As in [`Cosines`]."""
        states = self.queries[block]
        rows, q, dim = states.shape
        scores = states.new_empty(rows, len(self.documents))
        self.nearest = torch.empty(rows, q, len(self.documents), dtype=torch.long, device=states.device)
        for some in self._documents(rows):
            documents = self.documents[some]
            cosines = states.reshape(-1, dim) @ documents.reshape(-1, dim).T
            best, self.nearest[..., some] = cosines.view(rows, q, *documents.shape[:2]).max(dim=3)
            scores[:, some] = best.mean(dim=1)
        return scores

    def add_gradients(self, block: slice, slopes: torch.Tensor) -> None:
        """As in [`Cosines`]."""
        states = self.queries[block]
        rows, q, dim = states.shape
        of_queries = self.for_queries[block].view(-1, dim)
        for some in self._documents(rows):
            documents = self.documents[some]
            share = (slopes[:, None, some] / q).expand(rows, q, -1)
            of_cosines = slopes.new_zeros(rows, q, *documents.shape[:2])
            of_cosines.scatter_(3, self.nearest[..., some, None], share[..., None])
            of_cosines = of_cosines.view(rows * q, -1)
            of_queries.addmm_(of_cosines, documents.reshape(-1, dim))
            self.for_documents[some].view(-1, dim).addmm_(of_cosines.T, states.reshape(-1, dim))

    def _documents(self, rows: int) -> list[slice]:
        """Of some queries, how many documents at a time."""
        cosines = rows * self.queries.shape[1] * self.documents.shape[1]  # with one document
        return blocks_of_rows(len(self.documents), self.most // max(1, cosines))


def similarities_of(queries: torch.Tensor, documents: torch.Tensor, most: int) -> Cosines | MaxSims:
    """Of vectors, or where rows have several states each, MaxSim."""
    return (Cosines if queries.dim() == 2 else MaxSims)(queries, documents, most)
