"""What is found in an index of any precision, beside the products of all vectors in float32."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hub_scripts.embedding.nearest import nearest


# Of a precision: how far a score may be from the cosine, and the least share of the ten nearest that are found.
BOUNDS = {"float32": (1e-6, 1.0), "float16": (5e-4, 0.98), "int8": (1e-2, 0.93), "ubinary": (1e-2, 0.93)}


def oracle(query: np.ndarray, vectors: np.ndarray, dims: int, k: int) -> tuple[list[int], np.ndarray]:
    cut = vectors[:, :dims] / np.linalg.norm(vectors[:, :dims], axis=1, keepdims=True)
    scores = cut @ (query[:dims] / np.linalg.norm(query[:dims]))
    return np.argsort(-scores, kind="stable")[:k].tolist(), scores


@pytest.mark.parametrize("name", ["i.parquet", "folder"])
@pytest.mark.parametrize("dims", [20, 64])
@pytest.mark.parametrize("precision", BOUNDS)
def test_the_nearest_are_those_of_float32(
    clustered: Callable,
    as_index: Callable[..., Path],
    precision: str,
    dims: int,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hub_scripts.embedding.index.SHARDS_OF_A_FILE", 3)
    monkeypatch.setattr("hub_scripts.embedding.nearest.CANDIDATES", 100)
    vectors = clustered(1000, 64)
    path = as_index(vectors, name, 200, dims=dims, precision=precision)
    away, least = BOUNDS[precision]
    recalls = []
    for query in clustered(8, 64, near=vectors[:8], seed=1):
        expected, scores = oracle(query, vectors, dims, 10)
        hits = nearest(path, torch.from_numpy(query), 10)
        rows = [hit.row["row"] for hit in hits]
        assert [hit.row["id"] for hit in hits] == [f"n{row}" for row in rows]
        found = np.array([hit.score for hit in hits])
        assert np.abs(found - scores[rows]).max() < away and (np.diff(found) <= 0).all()
        recalls.append(len({*rows} & {*expected}) / 10)
    assert np.mean(recalls) >= least


def test_signs_choose_and_int8_decides(clustered: Callable, as_index: Callable, monkeypatch) -> None:
    """With every row a candidate ubinary finds what int8 finds; with few it finds less."""
    vectors = clustered(400, 64)
    signs, steps = (as_index(vectors, f"{name}.parquet", precision=name) for name in ("ubinary", "int8"))
    queries = torch.from_numpy(clustered(4, 64, near=vectors[:4], seed=1))
    monkeypatch.setattr("hub_scripts.embedding.nearest.CANDIDATES", 400)
    assert all(nearest(signs, query, 10) == nearest(steps, query, 10) for query in queries)
    monkeypatch.setattr("hub_scripts.embedding.nearest.CANDIDATES", 12)
    monkeypatch.setattr("hub_scripts.embedding.nearest.CANDIDATES_OF_A_HIT", 1)
    assert any(nearest(signs, query, 10) != nearest(steps, query, 10) for query in queries)


@pytest.mark.parametrize("precision", BOUNDS)
def test_equal_rows_are_in_their_order(as_index: Callable, clustered: Callable, precision: str) -> None:
    vectors = np.repeat(clustered(3, 16), 40, axis=0)
    hits = nearest(as_index(vectors, precision=precision), torch.from_numpy(vectors[50]), 7)
    assert [hit.row["row"] for hit in hits] == list(range(40, 47))


def test_more_hits_than_rows(as_index: Callable, clustered: Callable) -> None:
    vectors = clustered(30, 16)
    for precision in BOUNDS:
        hits = nearest(
            as_index(vectors, f"{precision}.parquet", precision=precision), torch.from_numpy(vectors[3]), 99
        )
        assert {hit.row["row"] for hit in hits} == {*range(30)} and hits[0].row["row"] == 3


def test_a_query_that_does_not_fit_is_refused(as_index: Callable, clustered: Callable) -> None:
    path = as_index(clustered(30, 16), dims=8)
    with pytest.raises(ValueError, match=f"The query has 8 dimensions, and the model of {path} 16"):
        nearest(path, torch.ones(8), 3)
    with pytest.raises(ValueError, match="The first 8 numbers of the query, to which .* is cut, are all 0"):
        nearest(path, torch.tensor([0.0] * 8 + [1.0] * 8), 3)
