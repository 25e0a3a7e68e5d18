"""Piece by piece the same documents are found as at once, and ties are in the order of the documents."""

from pathlib import Path

import numpy as np
import pytest
import torch

import trainers.encoding.nearest
from trainers.encoding.nearest import nearest_documents
from trainers.encoding.shards import EmbeddingShards


def shards(embeddings: np.ndarray, folder: Path, shard_rows: int = 7) -> EmbeddingShards:
    files = []
    for start in range(0, len(embeddings), shard_rows):
        files.append(folder / f"{start:04}.npy")
        np.save(files[-1], embeddings[start : start + shard_rows].astype(np.float32))
    return EmbeddingShards(files, shard_rows)


def oracle(queries: np.ndarray, documents: np.ndarray, pool: np.ndarray, known: list, depth: int) -> list:
    found = []
    for query, left_out in zip(queries, known, strict=True):
        scores = [(-float(query @ documents[n]), n) for n in pool if n not in left_out]
        found.append([(-score, int(n)) for score, n in sorted(scores)[:depth]])
    return found


@pytest.mark.parametrize("at_a_time", [1, 5, 100])
@pytest.mark.parametrize("depth", [1, 6, 50])
def test_in_pieces_as_at_once(at_a_time: int, depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers.encoding.nearest, "DOCUMENTS_AT_A_TIME", at_a_time)
    random = np.random.default_rng(at_a_time)
    # Small whole numbers: scores are exact, and many of them equal.
    queries, documents = random.integers(-2, 3, (9, 4)), random.integers(-2, 3, (40, 4))
    pool = np.sort(random.choice(40, 31, replace=False))
    known = [np.sort(random.choice(40, random.integers(0, 12), replace=False)) for _ in queries]
    scores, numbers = nearest_documents(
        torch.tensor(queries, dtype=torch.float32), shards(documents, tmp_path), pool, known, depth
    )
    assert scores.shape == numbers.shape == (9, min(depth, 31))
    found = [
        [(s, n) for s, n in zip(*row, strict=True) if s > -np.inf]
        for row in zip(scores.tolist(), numbers.tolist(), strict=True)
    ]
    assert found == oracle(queries, documents, pool, known, depth)


def test_nothing_to_look_among(tmp_path: Path) -> None:
    documents = shards(np.ones((3, 2)), tmp_path)
    scores, numbers = nearest_documents(
        torch.ones(2, 2), documents, np.empty(0, dtype=np.int64), [np.array([1])] * 2, 5
    )
    assert scores.shape == numbers.shape == (2, 0)
    scores, _ = nearest_documents(torch.ones(1, 2), documents, np.arange(3), [np.arange(3)], 5)
    assert scores.tolist() == [[-np.inf] * 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused(tmp_path: Path, bad: float) -> None:
    """`topk` would rank NaN first."""
    documents = np.ones((9, 2))
    documents[7, 1] = bad
    with pytest.raises(ValueError, match="Query 0 and document 7 have the score"):
        nearest_documents(torch.ones(2, 2), shards(documents, tmp_path), np.arange(9), [np.array([0])] * 2, 3)
