"""The share of random pairs below a score is what a slow count over the same pairs gives."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hub_scripts.app_page.random_pairs import RandomPairs
from hub_scripts.embedding.opened import OpenStore


def test_pairs_are_of_different_rows_and_their_scores_those_of_the_index(emoji_index: Path) -> None:
    embeddings = np.stack(pq.read_table(emoji_index)["embedding"].to_numpy())
    all_scores = embeddings @ embeddings.T
    possible = all_scores[~np.eye(len(embeddings), dtype=bool)]
    pairs = RandomPairs.of_index(OpenStore(emoji_index), num_pairs=20_000)
    assert len(pairs.scores) == 20_000
    nearest = np.abs(pairs.scores[::50, None] - possible).min(axis=1)
    assert nearest.max() < 1e-5  # each is the score of some pair …
    for quantile in (0.1, 0.5, 0.9):  # … and all pairs are as likely
        score = float(np.quantile(possible, quantile))
        assert pairs.share_below(score) == pytest.approx(quantile, abs=0.02)


def test_the_same_seed_draws_the_same_pairs(emoji_index: Path) -> None:
    first = RandomPairs.of_index(OpenStore(emoji_index), 500)
    assert (RandomPairs.of_index(OpenStore(emoji_index), 500).scores == first.scores).all()
    assert (RandomPairs.of_index(OpenStore(emoji_index), 500, seed=1).scores != first.scores).any()


def test_the_share_below_is_a_count() -> None:
    scores = np.array([0.5, -1.0, 0.25, 0.25, 1.0], dtype=np.float32)
    pairs = RandomPairs(scores)
    for score in (-2.0, -1.0, 0.0, 0.25, 0.3, 1.0, 2.0):
        assert pairs.share_below(score) == (scores < score).mean()


def test_an_index_of_one_row_has_no_pairs(make_index: Callable, tmp_path: Path) -> None:
    assert RandomPairs.of_index(OpenStore(make_index(tmp_path, [{"id": "alone"}]))).share_below(0.3) is None
