"""Piece by piece the same documents are found as at once, and ties are in the order of the documents."""

import numpy as np
import pytest
import torch

import trainers.encoding.shards
from trainers.encoding.nearest import nearest_documents
from trainers.encoding.shards import EmbeddingShards


def shards(embeddings: np.ndarray, shard_rows: int = 7) -> EmbeddingShards:
    rows = range(0, len(embeddings), shard_rows)
    return EmbeddingShards([embeddings[row : row + shard_rows].astype(np.float32) for row in rows])


def oracle(queries: np.ndarray, documents: np.ndarray, pool: np.ndarray, known: list, depth: int) -> list:
    found = []
    for query, left_out in zip(queries, known, strict=True):
        scores = [(-float(query @ documents[n]), n) for n in pool if n not in left_out]
        found.append([(-score, int(n)) for score, n in sorted(scores)[:depth]])
    return found


@pytest.mark.parametrize("at_a_time", [1, 5, 100])
@pytest.mark.parametrize("depth", [1, 6, 50])
def test_in_pieces_as_at_once(at_a_time: int, depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers.encoding.shards, "DOCUMENTS_AT_A_TIME", at_a_time)
    random = np.random.default_rng(at_a_time)
    # Small whole numbers: scores are exact, and many of them equal.
    queries, documents = random.integers(-2, 3, (9, 4)), random.integers(-2, 3, (40, 4))
    pool = np.sort(random.choice(40, 31, replace=False))
    known = [np.sort(random.choice(40, random.integers(0, 12), replace=False)) for _ in queries]
    scores, numbers = nearest_documents(
        torch.tensor(queries, dtype=torch.float32), shards(documents).blocks(pool), depth, known
    )
    assert scores.shape == numbers.shape == (9, min(depth, 31))
    found = [
        [(s, n) for s, n in zip(*row, strict=True) if s > -np.inf]
        for row in zip(scores.tolist(), numbers.tolist(), strict=True)
    ]
    assert found == oracle(queries, documents, pool, known, depth)


def test_nothing_to_look_among() -> None:
    documents = shards(np.ones((3, 2)))
    nothing = np.empty(0, dtype=np.int64)
    scores, numbers = nearest_documents(torch.ones(2, 2), documents.blocks(nothing), 5, [np.array([1])] * 2)
    assert scores.shape == numbers.shape == (2, 0)
    scores, _ = nearest_documents(torch.ones(1, 2), documents.blocks(np.arange(3)), 5, [np.arange(3)])
    assert scores.tolist() == [[-np.inf] * 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused(bad: float) -> None:
    """`topk` would rank NaN first."""
    documents = np.ones((9, 2))
    documents[7, 1] = bad
    with pytest.raises(ValueError, match="Query 0 and document 7 have the score"):
        nearest_documents(torch.ones(2, 2), shards(documents).blocks(np.arange(9)), 3, [np.array([0])] * 2)
