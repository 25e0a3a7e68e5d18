"""Retrieval metrics agree with trec_eval, count ties against the model and do not depend on the block size."""

import math

import numpy as np
import pytest
import pytrec_eval
import torch
import torch.nn.functional as F

from trainers.evaluation.metrics import (
    Relevance,
    query_metrics,
    rank_embeddings,
    rank_scores,
    retrieval_metrics,
)


def random_relevance(queries: int, documents: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Up to 12 judged documents per query with grades from 0 to 3, at least one of them relevant."""
    random = np.random.default_rng(seed)
    numbers = [random.choice(documents, random.integers(1, 13), replace=False).tolist() for _ in range(queries)]
    grades = [[int(random.integers(1, 4)), *random.integers(0, 4, len(row) - 1).tolist()] for row in numbers]
    return numbers, grades


@pytest.mark.parametrize("seed", range(5))
def test_equals_trec_eval(seed):
    numbers, grades = random_relevance(20, 50, seed)
    scores = torch.randn(20, 50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ours = query_metrics(rank_scores(scores, Relevance.from_lists(numbers, grades)), (1, 5, 10))
    qrels = {
        str(query): {str(number): grade for number, grade in zip(*row, strict=True)}
        for query, row in enumerate(zip(numbers, grades, strict=True))
    }
    run = {
        str(query): {str(number): score for number, score in enumerate(row)}
        for query, row in enumerate(scores.tolist())
    }
    evaluator = pytrec_eval.RelevanceEvaluator(
        qrels, {"recip_rank", "success.1,5,10", "recall.1,5,10", "ndcg_cut.1,5,10"}
    )
    theirs = evaluator.evaluate(run)
    names = {"recip_rank": "mrr"}
    for k in (1, 5, 10):
        names |= {f"success_{k}": f"hit@{k}", f"recall_{k}": f"recall@{k}", f"ndcg_cut_{k}": f"ndcg@{k}"}
    for name, own_name in names.items():
        expected = [theirs[str(query)][name] for query in range(20)]
        assert ours[own_name].tolist() == pytest.approx(expected), own_name


def worst_order(scores: list[float], grades: dict[int, float]) -> list[int]:
    """All documents, best first; among equal scores the worst order for the model."""
    return sorted(range(len(scores)), key=lambda number: (-scores[number], grades.get(number, 0)))


@pytest.mark.parametrize("seed", range(5))
def test_ties_are_ranked_in_the_worst_order(seed):
    numbers, grades = random_relevance(20, 30, seed)
    scores = torch.randint(0, 4, (20, 30), generator=torch.Generator().manual_seed(seed)).float()
    metrics = query_metrics(rank_scores(scores, Relevance.from_lists(numbers, grades)), (1, 10))
    for query, row in enumerate(scores.tolist()):
        judged = dict(zip(numbers[query], grades[query], strict=True))
        gains = [judged.get(number, 0) for number in worst_order(row, judged)]
        best = sorted(gains, reverse=True)
        discounts = [1 / math.log2(2 + position) for position in range(10)]
        gain, most = (sum(map(math.prod, zip(some, discounts, strict=False))) for some in (gains, best))
        assert metrics["ndcg@10"][query] == pytest.approx(gain / most)
        assert metrics["mrr"][query] == pytest.approx(1 / (1 + next(i for i, gain in enumerate(gains) if gain)))
        assert metrics["hit@1"][query] == bool(gains[0])
        found, all_relevant = (sum(gain > 0 for gain in some) for some in (gains[:10], gains))
        assert metrics["recall@10"][query] == pytest.approx(found / all_relevant)


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_collapsed_model_is_not_flattered(noise):
    """All embeddings equal, or equal but for rounding: chance would be 2%, by document order some would be right."""
    torch.manual_seed(0)
    documents = torch.ones(50, 64) + noise * torch.randn(50, 64)
    ranking = rank_embeddings(documents, documents, Relevance.single(range(50)))
    assert (ranking.ranks == 50).all()
    assert retrieval_metrics(ranking)["hit@10"] == 0


def test_perfect_and_worst_models():
    perfect = retrieval_metrics(rank_embeddings(torch.eye(8), torch.eye(8), Relevance.single(range(8))))
    assert set(perfect.values()) == {1.0}
    worst = retrieval_metrics(rank_scores(-torch.eye(8), Relevance.single(torch.arange(8))), cutoffs=(1, 7))
    assert worst == {"mrr": 1 / 8, **{f"{name}@{k}": 0 for k in (1, 7) for name in ("hit", "recall", "ndcg")}}


@pytest.mark.parametrize("pairs_per_block", [1, 90, 10**6])
def test_embeddings_rank_like_their_cosines_in_any_block(pairs_per_block):
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(17, 6, generator=generator), 3 * torch.randn(40, 6, generator=generator)
    relevance = Relevance.from_lists(*random_relevance(17, 40, 0))
    cosines = F.normalize(queries, dim=1) @ F.normalize(documents, dim=1).T
    ranking = rank_embeddings(queries, documents, relevance, pairs_per_block)
    expected = rank_scores(cosines, relevance)
    assert torch.equal(ranking.ranks, expected.ranks) and torch.equal(ranking.grades, expected.grades)


@pytest.mark.parametrize("pairs_per_block", [1, 7, 10000])
def test_several_vectors_rank_by_maxsim_in_any_block(pairs_per_block):
    torch.manual_seed(0)
    queries, documents = torch.randn(9, 2, 8), torch.randn(13, 3, 8)
    relevance = Relevance.single(range(9))
    scores = torch.tensor(
        [
            [torch.stack([torch.cosine_similarity(one[None], d, dim=1).max() for one in q]).mean() for d in documents]
            for q in queries
        ]
    )
    ranking = rank_embeddings(queries, documents, relevance, pairs_per_block)
    assert torch.equal(ranking.ranks, rank_scores(scores, relevance).ranks)
    one = [vectors[:, :1] for vectors in (queries, documents)]
    of_one = rank_embeddings(queries[:, 0], documents[:, 0], relevance)
    assert torch.equal(rank_embeddings(*one, relevance, pairs_per_block).ranks, of_one.ranks)


def test_only_candidates_are_ranked():
    scores = torch.tensor([[0.5, 0.9, 0.1], [0.5, -torch.inf, 0.1]])
    assert rank_scores(scores, Relevance.single([0, 0])).ranks.tolist() == [[2], [1]]


def test_lists_keep_relevant_documents_only():
    relevance = Relevance.from_lists([[4, 2, 7], [1]], [[0, 1, 3], [2]])
    assert relevance.documents.tolist() == [[2, 7], [1, -1]]
    assert relevance.grades.tolist() == [[1, 3], [2, 0]]


@pytest.mark.parametrize(
    ("documents", "grades", "message"),
    [
        ([[1], []], None, "Query 1 has no relevant"),
        ([[1], [2]], [[1], [0]], "Query 1 has no relevant"),
        ([[1, 1]], None, "Query 0 has a document that is judged twice"),
        ([[1], [-1]], None, "Query 1 has a negative"),
        ([[1, 2]], [[1, -1]], "Query 0 has a negative"),
        ([[1, 2]], [[1]], "same lengths"),
    ],
)
def test_judgements_that_make_no_sense_are_refused(documents, grades, message):
    with pytest.raises(ValueError, match=message):
        Relevance.from_lists(documents, grades)


def test_bad_rankings_are_refused():
    single = Relevance.single([0, 1])
    with pytest.raises(ValueError, match="Query 1 has a NaN"):
        rank_scores(torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]), single)
    with pytest.raises(ValueError, match="Query 1 has a NaN score, or `-inf`"):
        rank_scores(torch.tensor([[1.0, 2.0], [0.0, -torch.inf]]), single)
    with pytest.raises(ValueError, match="3 queries, but the relevant documents of 2"):
        rank_scores(torch.zeros(3, 2), single)
    with pytest.raises(ValueError, match=r"Query 1 has the relevant documents \[1\], but there are only 1"):
        rank_scores(torch.zeros(2, 1), single)
    with pytest.raises(ValueError, match="embedding of document 1 is not finite"):
        rank_embeddings(torch.ones(2, 2), torch.tensor([[1.0, 0.0], [torch.inf, 0.0]]), single)
    with pytest.raises(ValueError, match="no queries"):
        rank_embeddings(torch.ones(0, 2), torch.ones(2, 2), Relevance.from_lists([]))
    with pytest.raises(ValueError, match="cutoffs"):
        retrieval_metrics(rank_scores(torch.eye(2), single), cutoffs=(0,))


def test_what_is_not_finite_is_refused():
    single = Relevance.single([0, 1])
    with pytest.raises(ValueError, match="Query 0 has a NaN score, or .*, or `inf`"):
        rank_scores(torch.tensor([[1.0, torch.inf], [1.0, 0.0]]), single)
    for bad in (torch.nan, torch.inf, 1e30):  # the norm of the last one overflows: its cosines would all be 0
        embeddings = torch.ones(2, 3)
        embeddings[1, 2] = bad
        with pytest.raises(ValueError, match="The embedding of document 1 is not finite"):
            rank_embeddings(torch.ones(2, 3), embeddings, single)
    with pytest.raises(ValueError, match="Query 0 has .*a grade that is negative or not finite"):
        Relevance.from_lists([[0]], [[torch.inf]])
