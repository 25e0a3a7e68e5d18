"""Vectors that lie as embeddings of a corpus do, in clusters, drawn a block at a time."""

from collections.abc import Iterator

import numpy as np


__all__ = ["Clusters"]

BLOCK = 8192
CLUSTERS, DIRECTIONS = 4000, 192
SPREAD, NOISE = 0.8, 0.3  # lengths beside that of a centre


class Clusters:
    """Draws vectors, the same block by block for the same seed, never all at once."""

    def __init__(self, num_rows: int, dim: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.num_rows, self.dim, self.seed = num_rows, dim, seed
        weights = np.arange(1, DIRECTIONS + 1) ** -0.5
        self.directions = random.standard_normal((DIRECTIONS, dim), dtype=np.float32) * weights[:, None]
        self.directions = (self.directions / np.linalg.norm(self.directions)).astype(np.float32)
        self.centres = unit(random.standard_normal((CLUSTERS, dim), dtype=np.float32))
        shares = 1 / np.arange(1, CLUSTERS + 1)
        self.shares = shares / shares.sum()

    def differences(self, random: np.random.Generator, number: int) -> np.ndarray:
        shared = random.standard_normal((number, DIRECTIONS), dtype=np.float32) @ self.directions
        own = random.standard_normal((number, self.dim), dtype=np.float32) * np.float32(self.dim**-0.5)
        return SPREAD * shared + NOISE * own

    def block(self, start: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, start])
        number = min(BLOCK, self.num_rows - start)
        cluster = random.choice(CLUSTERS, number, p=self.shares)
        return unit(self.centres[cluster] + self.differences(random, number))

    def blocks(self) -> Iterator[np.ndarray]:
        return map(self.block, range(0, self.num_rows, BLOCK))

    def queries(self, number: int) -> np.ndarray:
        """Of the first rows of some blocks."""
        random = np.random.default_rng([self.seed, self.num_rows])
        starts = range(0, self.num_rows, BLOCK)[:10]
        rows = np.concatenate([self.block(start)[: -(-number // len(starts))] for start in starts])[:number]
        return unit(rows + 0.5 * self.differences(random, number))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
