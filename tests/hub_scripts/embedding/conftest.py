"""Indexes of vectors that were drawn, and not embedded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hub_scripts.embedding.index import write_index
from trainers.encoding.shards import write_shard


METADATA = {"model": "m", "num_compression_tokens": 4, "probe": [0.5, 0.25]}


@pytest.fixture
def clustered() -> Callable[..., np.ndarray]:
    """`clustered(600, 64)`: vectors of length 1 in ten clusters, in fp32; `near=…` draws around those given."""

    def draw(num_rows: int, dim: int, near: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
        random = np.random.default_rng(seed)
        centres = random.standard_normal((10, dim)) if near is None else near * dim**0.5
        vectors = centres[np.arange(num_rows) % len(centres)] + 0.5 * random.standard_normal((num_rows, dim))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    return draw


@pytest.fixture
def as_index(tmp_path: Path) -> Callable[..., Path]:
    """`as_index(vectors, "i.parquet", precision="int8")`: their index, from shards of some rows each."""

    def write(vectors: np.ndarray, name: str = "i.parquet", shard_rows: int = 100, **metadata: object) -> Path:
        num_rows, dim = vectors.shape
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        table = pa.table(
            {
                "row": range(num_rows),
                "id": [f"n{row}" for row in range(num_rows)],
                "text": [f"text {row}" for row in range(num_rows)],
                "image": pa.nulls(num_rows, pa.string()),
                "embedding": pa.FixedSizeListArray.from_arrays(flat, dim),
                "error": pa.nulls(num_rows, pa.string()),
            }
        )
        shards = [tmp_path / f"{name}-{row:06}.arrow" for row in range(0, num_rows, shard_rows)]
        for number, shard in enumerate(shards):
            write_shard(shard, table.slice(number * shard_rows, shard_rows))
        made = write_index(tmp_path / name, shards, tmp_path / "skipped", {**METADATA, "dim": dim, **metadata})
        assert made == (num_rows, 0)
        return tmp_path / name

    return write
