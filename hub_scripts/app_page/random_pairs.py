"""What a score is worth: the share of random pairs of rows of an index that have a lower one."""

import numpy as np
import torch

from hub_scripts.embedding.lance_index import LanceIndex
from hub_scripts.embedding.opened import OpenStore


__all__ = ["RandomPairs"]

PAIRS = 10_000
SEED = 0
PAIRS_AT_A_TIME = 1000


class RandomPairs:
    """
    The scores of random pairs of different rows.

    Args:
        scores (`np.ndarray` of shape `(num_pairs,)`): their scores; none where an index has a single row.
    """

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = np.sort(scores)

    @classmethod
    def of_index(cls, index: OpenStore | LanceIndex, num_pairs: int = PAIRS, seed: int = SEED) -> "RandomPairs":
        """Draws pairs, the same for the same seed, and reads their vectors in one pass over the index."""
        num_rows, random = index.count(), np.random.default_rng(seed)
        if num_rows < 2:
            return cls(np.empty(0, dtype=np.float32))
        first = random.integers(num_rows, size=num_pairs)
        second = (first + random.integers(1, num_rows, size=num_pairs)) % num_rows  # never the same row
        places, pairs = np.unique([first, second], return_inverse=True)
        embeddings = index.vectors_at(places)
        blocks = torch.from_numpy(pairs.reshape(2, -1)).split(PAIRS_AT_A_TIME, dim=1)
        return cls(torch.cat([(embeddings[a] * embeddings[b]).sum(dim=1) for a, b in blocks]).numpy())

    def share_below(self, score: float) -> float | None:
        """The share of the pairs whose score is lower, from 0 to 1; `None` where there are no pairs."""
        if not len(self.scores):
            return None
        return float(np.searchsorted(self.scores, score, side="left") / len(self.scores))
