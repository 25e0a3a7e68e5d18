"""What a million vectors cost to search in each precision, and how many of the nearest are still found.

Vectors of length 1 with 1,024 numbers, in 4,000 clusters whose sizes follow a power law (the largest has a ninth of all
rows). A vector is the centre of its cluster, and 0.8 times as long a difference in 192 directions that all share,
of falling weight, as embeddings of models have, and 0.3 times as long a difference in any direction. A query is a
vector with another such difference, half as long. The neighbours are so many rows of one cluster, close together.

Of each precision: memory, which is what `nearest` reads of vectors for every query and the system should have room
for; the peak of the process's own memory; bytes on disk; recall, the share of the ten nearest in float32 that are
among the ten that are found; seconds of a query, of which those of ubinary are signs first, then int8.

  python -m benchmarks.search                                      # 8.4 GB of disk, in --folder
  python -m benchmarks.search --rows 5000 --dim 64 --queries 5     # quick, to see that it runs

The last line is a JSON object: `memory_gb`, `own_gb`, `disk_gb`, `recall@10` and `seconds`, by precision.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.loading import peak_over
from hub_scripts.common.arguments import PRECISIONS
from hub_scripts.embedding.index import with_ranges, write_file
from hub_scripts.embedding.nearest import nearest
from hub_scripts.embedding.store import read_vectors
from trainers.encoding.nearest import nearest_documents


K = 10
BLOCK = 8192
CLUSTERS, DIRECTIONS = 4000, 192
SPREAD, NOISE = 0.8, 0.3  # lengths beside that of a centre
METADATA = {"model": "synthetic", "num_compression_tokens": 1, "probe": [1.0]}


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

    def blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, self.num_rows, BLOCK):
            random = np.random.default_rng([self.seed, start])
            number = min(BLOCK, self.num_rows - start)
            cluster = random.choice(CLUSTERS, number, p=self.shares)
            yield unit(self.centres[cluster] + self.differences(random, number))

    def queries(self, number: int) -> np.ndarray:
        """Of rows that lie evenly over all."""
        random = np.random.default_rng([self.seed, self.num_rows])
        wanted, first, found = np.linspace(0, self.num_rows - 1, number).astype(int), 0, []
        for block in self.blocks():
            found.append(block[wanted[(wanted >= first) & (wanted < first + len(block))] - first])
            first += len(block)
        return unit(np.concatenate(found) + 0.5 * self.differences(random, number))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def tables(blocks: Iterator[np.ndarray]) -> Iterator[pa.Table]:
    first = 0
    for block in blocks:
        rows = range(first, first + len(block))
        nothing = pa.nulls(len(block), pa.string())
        embeddings = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), block.shape[1])
        columns = {"row": rows, "id": [str(row) for row in rows], "text": nothing, "image": nothing}
        yield pa.table({**columns, "embedding": embeddings, "error": nothing})
        first += len(block)


def write(folder: Path, precision: str, clusters: Clusters) -> Path:
    """An index of this precision; those of fewer bits from that in float32."""
    path, source = folder / f"{precision}.parquet", folder / "float32.parquet"

    def blocks() -> Iterator[np.ndarray]:
        if precision == "float32":
            return clusters.blocks()
        return (vectors.embeddings for vectors in read_vectors(source, BLOCK))

    metadata = with_ranges(METADATA | {"dim": clusters.dim, "precision": precision}, tables(blocks()))
    write_file(path, tables(blocks()), metadata)
    return path


def scanned_gb(path: Path) -> float:
    """Size of the column that is read as a whole for every query."""
    metadata = pq.read_metadata(path)
    names = metadata.schema.to_arrow_schema().names
    place = names.index("bits" if "bits" in names else "embedding")
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return sum(group.column(place).total_compressed_size for group in groups) / 1e9


def measure(path: Path, queries: torch.Tensor, expected: list[set[int]]) -> dict[str, float]:
    found, seconds = [], []

    def search() -> None:
        for query in queries:
            began = time.perf_counter()
            found.append({hit.row["row"] for hit in nearest(path, query, K)})
            seconds.append(time.perf_counter() - began)

    nearest(path, queries[0], K)  # what is imported and mapped once
    own = peak_over(search)["own"]
    recalls = [len(some & right) / K for some, right in zip(found, expected, strict=False)]
    return {
        "memory_gb": round(scanned_gb(path), 4),
        "own_gb": round(own / 1000, 3),
        "disk_gb": round(path.stat().st_size / 1e9, 3),
        "recall@10": round(statistics.mean(recalls), 4),
        "seconds": round(statistics.median(seconds), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where the indexes lie while they are measured")
    arguments = parser.parse_args()
    clusters = Clusters(arguments.rows, arguments.dim)
    queries = torch.from_numpy(clusters.queries(arguments.queries))
    results: dict[str, dict[str, float]] = {}
    print(f"{'':<10}{'memory GB':>12}{'own GB':>9}{'disk GB':>9}{'recall@10':>11}{'s a query':>11}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        expected = []
        for precision in PRECISIONS:
            path = write(Path(folder), precision, clusters)
            if precision == "float32":
                pieces = ((vectors.numbers, torch.from_numpy(vectors.embeddings)) for vectors in read_vectors(path))
                expected = [set(numbers) for numbers in nearest_documents(queries, pieces, K)[1].tolist()]
            # Of all rows in fp32 a few queries tell the time; what they find is the measure of the others.
            found = measure(path, queries[:3] if precision == "float32" else queries, expected)
            for name, value in found.items():
                results.setdefault(name, {})[precision] = value
            line = f"{precision:<10}{found['memory_gb']:>12.3f}{found['own_gb']:>9.3f}{found['disk_gb']:>9.3f}"
            print(f"{line}{found['recall@10']:>11.4f}{found['seconds']:>11.3f}", flush=True)
    print(json.dumps({"rows": arguments.rows, "dim": arguments.dim, "queries": arguments.queries, **results}))


if __name__ == "__main__":
    main()
