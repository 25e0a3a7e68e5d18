"""Retrieval metrics from scores or embeddings, without a matrix of all queries against all documents.

Everything follows from the rank of each relevant document. **Ties count against the model**: documents with the score
of a relevant one are ranked before it, the less relevant first. A model whose embeddings have collapsed to one point
has only ties, and so the worst ranks instead of those that the order of the documents happens to give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F

from trainers.encoding.maxsim import maxsim


__all__ = [
    "Ranking",
    "Relevance",
    "query_metrics",
    "rank_embeddings",
    "rank_scores",
    "retrieval_metrics",
]

# Equal documents may get cosines that differ in the last bits, depending on the block in which they were computed.
COSINE_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Relevance:
    """
    Which documents are relevant to each query, and how much.

    Args:
        documents (`torch.LongTensor` of shape `(num_queries, max_relevant)`):
            Numbers of the relevant documents, -1 where a query has fewer.
        grades (`torch.DoubleTensor` of shape `(num_queries, max_relevant)`):
            Their gains, positive.
    """

    documents: torch.Tensor
    grades: torch.Tensor

    @classmethod
    def from_lists(
        cls, documents: Sequence[Sequence[int]], grades: Sequence[Sequence[float]] | None = None
    ) -> Relevance:
        """
        Args:
            documents (`Sequence[Sequence[int]]`):
                Numbers of the judged documents of each query.
            grades (`Sequence[Sequence[float]]`, *optional*):
                Gains of these documents, 1 by default. A document of gain 0 is not relevant.

        Returns:
            `Relevance`

        Raises:
            `ValueError`: a query without relevant documents, a document judged twice, a number or grade that is
                negative or not finite.
        """
        lengths = [len(numbers) for numbers in documents]
        if grades is not None and [len(gains) for gains in grades] != lengths:
            raise ValueError("`grades` must have one grade per document, in lists of the same lengths as `documents`.")
        rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.long))
        numbers = torch.tensor(list(chain.from_iterable(documents)), dtype=torch.long)
        gains = torch.ones(len(numbers), dtype=torch.float64)
        if grades is not None:
            gains = torch.tensor(list(chain.from_iterable(grades)), dtype=torch.float64)
        wrong = (numbers < 0) | ~(gains >= 0) | gains.isinf()
        _refuse(rows[wrong], documents, "has a negative document number, or a grade that is negative or not finite")
        pairs, times = torch.stack([rows, numbers]).unique(dim=1, return_counts=True)
        _refuse(pairs[0, times > 1], documents, "has a document that is judged twice")

        relevant = gains > 0
        rows, numbers, gains = rows[relevant], numbers[relevant], gains[relevant]
        counts = torch.bincount(rows, minlength=len(lengths))
        _refuse((counts == 0).nonzero()[:, 0], documents, "has no relevant document, so it must be left out")
        columns = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        shape = (len(lengths), int(counts.max()) if len(counts) else 0)
        return cls(
            torch.full(shape, -1).index_put((rows, columns), numbers),
            torch.zeros(shape, dtype=torch.float64).index_put((rows, columns), gains),
        )

    @classmethod
    def single(cls, documents: torch.Tensor | Sequence[int]) -> Relevance:
        """One relevant document per query, given by its number."""
        documents = torch.as_tensor(documents)[:, None]
        return cls(documents, torch.ones(documents.shape, dtype=torch.float64, device=documents.device))


@dataclass(frozen=True, eq=False)
class Ranking:
    """
    Where the relevant documents of each query came out, best first.

    Args:
        ranks (`torch.LongTensor` of shape `(num_queries, max_relevant)`):
            Ranks among the candidates, from 1, ascending; 0 at the end where a query has fewer.
        grades (`torch.DoubleTensor` of shape `(num_queries, max_relevant)`):
            The gains of these documents.
    """

    ranks: torch.Tensor
    grades: torch.Tensor


def rank_scores(scores: torch.Tensor, relevance: Relevance, tolerance: float = 0.0) -> Ranking:
    """
    Ranks of the relevant documents in a matrix of scores.

    Args:
        scores (`torch.Tensor` of shape `(num_queries, num_documents)`):
            Higher is better; `-inf` where a document is no candidate of a query.
        relevance (`Relevance`):
            The relevant documents of each query.
        tolerance (`float`, *optional*, defaults to 0.0):
            Differences that are still a tie.

    Returns:
        `Ranking`

    Raises:
        `ValueError`: shapes that do not fit, a score that is NaN or `inf`, a relevant document that is no
            candidate.
    """
    _check_shapes(len(scores), scores.shape[1], relevance)
    numbers, grades = relevance.documents.to(scores.device), relevance.grades.to(scores.device)
    missing = numbers < 0
    found = scores.gather(1, numbers.clamp(min=0)).masked_fill(missing, -torch.inf)
    unusable = (scores.isnan() | scores.isposinf()).any(1) | ((found == -torch.inf) & ~missing).any(1)
    if len(bad := unusable.nonzero()):
        what = "a NaN score, or `-inf` at a document that is relevant to it, or `inf`"
        raise ValueError(f"Query {bad[0].item()} has {what}.")

    # Relevant documents in the order in which they count: by score and, in a tie, the lower grade first.
    order = grades.argsort(dim=1, stable=True)
    order = order.gather(1, found.gather(1, order).argsort(dim=1, descending=True, stable=True))
    found, grades, missing = (values.gather(1, order) for values in (found, grades, missing))
    bars = found - tolerance
    before = torch.stack([(scores >= bar[:, None]).count_nonzero(dim=1) for bar in bars.unbind(1)], dim=1)
    relevant_before = torch.searchsorted(-found, -bars, right=True)
    ranks = before - relevant_before + torch.arange(1, found.shape[1] + 1, device=scores.device)
    return Ranking(ranks.masked_fill(missing, 0), grades)


def rank_embeddings(
    queries: torch.Tensor,
    documents: torch.Tensor,
    relevance: Relevance,
    pairs_per_block: int = 2**23,
    candidates: torch.Tensor | None = None,
) -> Ranking:
    """
    Ranks of the relevant documents by cosine similarity, or by MaxSim of several vectors, in fp32, a block of queries
    at a time.

    Args:
        queries (`torch.Tensor` of shape `(num_queries, dim)`):
            Embeddings; `(num_queries, q, dim)` where an input has several.
        documents (`torch.Tensor` of shape `(num_documents, dim)`):
            Embeddings of all candidates; `(num_documents, t, dim)`.
        relevance (`Relevance`):
            The relevant documents of each query.
        pairs_per_block (`int`, *optional*, defaults to 8,388,608):
            Similarities that are alive at one time. Changes memory, not results.
        candidates (`torch.LongTensor` of shape `(num_queries, max_candidates)`, *optional*):
            Numbers of the documents among which each query is ranked, -1 where it has fewer; by default all.

    Returns:
        `Ranking`: similarities that differ by less than 1e-6 are ties.

    Raises:
        `ValueError`: no queries, shapes that do not fit, an embedding that is not finite.
    """
    _check_shapes(len(queries), len(documents), relevance)
    if len(queries) == 0:
        raise ValueError("There are no queries to rank documents for.")
    for name, embeddings in (("query", queries), ("document", documents)):
        norms = embeddings.float().flatten(1).norm(dim=1)  # may overflow where no number is inf
        bad = (~norms.isfinite()).nonzero()
        if len(bad):
            raise ValueError(f"The embedding of {name} {bad[0].item()} is not finite, and {len(bad)} in all are not.")
    queries, documents = F.normalize(queries.float(), dim=-1), F.normalize(documents.float(), dim=-1)
    rows = max(1, pairs_per_block // max(1, len(documents)))
    ranks, grades = [], []
    for start in range(0, len(queries), rows):
        block = slice(start, start + rows)
        scores = queries[block] @ documents.T if queries.dim() == 2 else maxsim(queries[block], documents)
        if candidates is not None:
            scores = _among(scores, candidates[block].to(scores.device))
        of_block = Relevance(relevance.documents[block], relevance.grades[block])
        part = rank_scores(scores, of_block, COSINE_TOLERANCE)
        ranks.append(part.ranks)
        grades.append(part.grades)
    return Ranking(torch.cat(ranks), torch.cat(grades))


def query_metrics(ranking: Ranking, cutoffs: Sequence[int] = (1, 5, 10)) -> dict[str, torch.Tensor]:
    r"""
    Metrics of each query.

    With gains $g_d$ and ranks $r_d$ of its relevant documents, $\mathrm{NDCG@}k = \frac{\sum_{r_d \le k}
    g_d / \log_2(1 + r_d)}{\mathrm{the\ same\ for\ the\ best\ order}}$ (linear gain), MRR is $1 / \min r_d$, hit@k says
    whether any $r_d \le k$ (hit@1 is P@1), recall@k which part of the relevant documents has $r_d \le k$.

    Args:
        ranking (`Ranking`):
            From `rank_scores` or `rank_embeddings`.
        cutoffs (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`):
            The k.

    Returns:
        `dict[str, torch.Tensor]`: `mrr`, and `hit@k`, `recall@k`, `ndcg@k` for each k, of shape `(num_queries,)`.
    """
    if not cutoffs or min(cutoffs) < 1:
        raise ValueError(f"`cutoffs` must be ranks from 1, got {list(cutoffs)}.")
    ranks, relevant = ranking.ranks.double(), ranking.ranks > 0
    discounts = torch.where(relevant, 1 / torch.log2(1 + ranks.clamp(min=1)), 0)
    best_gains = ranking.grades.sort(dim=1, descending=True).values
    best = best_gains / torch.log2(torch.arange(2, best_gains.shape[1] + 2, device=ranks.device))
    metrics = {"mrr": 1 / ranks[:, 0]}
    for k in cutoffs:
        within = relevant & (ranks <= k)
        metrics[f"hit@{k}"] = within.any(1).double()
        metrics[f"recall@{k}"] = within.sum(1) / relevant.sum(1)
        metrics[f"ndcg@{k}"] = (ranking.grades * discounts * within).sum(1) / best[:, :k].sum(1)
    return metrics


def retrieval_metrics(ranking: Ranking, cutoffs: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """
    Means over the queries.

    Args:
        ranking (`Ranking`):
            From `rank_scores` or `rank_embeddings`.
        cutoffs (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`):
            The k.

    Returns:
        `dict[str, float]`: `mrr`, and `hit@k` (hit@1 is P@1), `recall@k`, `ndcg@k` (linear gain) for each k.
    """
    if len(ranking.ranks) == 0:
        raise ValueError("There are no queries to average over.")
    return {name: values.double().mean().item() for name, values in query_metrics(ranking, cutoffs).items()}


def _among(scores: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Scores with `-inf` at what is no candidate."""
    none = scores.shape[1]  # a column more, for where a query has fewer candidates
    allowed = torch.zeros(len(scores), none + 1, dtype=torch.bool, device=scores.device)
    allowed.scatter_(1, candidates.where(candidates >= 0, none), True)
    return scores.masked_fill(~allowed[:, :none], -torch.inf)


def _check_shapes(num_queries: int, num_documents: int, relevance: Relevance) -> None:
    if len(relevance.documents) != num_queries:
        raise ValueError(f"{num_queries} queries, but the relevant documents of {len(relevance.documents)}.")
    outside = (relevance.documents >= num_documents).any(1).nonzero()
    if len(outside):
        row = outside[0].item()
        raise ValueError(
            f"Query {row} has the relevant documents {relevance.documents[row].tolist()}, but there are only "
            f"{num_documents} documents."
        )


def _refuse(rows: torch.Tensor, documents: Sequence[Sequence[int]], reason: str) -> None:
    if len(rows):
        raise ValueError(f"Query {rows[0].item()} {reason}: {list(documents[rows[0]])}.")
