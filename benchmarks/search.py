"""What a million vectors cost to search in each precision, and how many of the nearest are still found.

Vectors of length 1 with 1,024 numbers, in 4,000 clusters whose sizes follow a power law (the largest has a ninth of
all rows). A vector is the centre of its cluster, and 0.8 times as long a difference in 192 directions that all share,
of falling weight, as embeddings of models have, and 0.3 times as long a difference in any direction. A query is a
vector with another such difference, half as long. The neighbours are so many rows of one cluster, close together.

Of each precision: memory, which is what `nearest` reads of vectors for every query and the system should have room
for; the peak of the process's own memory; bytes on disk; recall, the share of the ten nearest in float32 that are
among the ten that are found; seconds of a query, by the clock and of the processors.

  python -m benchmarks.search                                      # 8.4 GB of disk, gone at the end; kept in --folder
  python -m benchmarks.search --rows 5000 --dim 64 --queries 5     # quick, to see that it runs

The last line is a JSON object: `memory_gb`, `own_gb`, `disk_gb`, `recall@10`, `seconds` and `cpu_seconds`, by
precision.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.clustered_vectors import Clusters
from benchmarks.loading import peak_over
from hub_scripts.common.arguments import PRECISIONS
from hub_scripts.embedding.index import with_ranges, write_file
from hub_scripts.embedding.nearest import nearest
from hub_scripts.embedding.store import read_vectors
from trainers.encoding.nearest import nearest_documents
from trainers.files import whole_file


K = 10
METADATA = {"model": "synthetic", "num_compression_tokens": 1, "probe": [1.0]}


def tables(blocks: Iterator[np.ndarray]) -> Iterator[pa.Table]:
    first = 0
    for block in blocks:
        rows = range(first, first + len(block))
        nothing = pa.nulls(len(block), pa.string())
        embeddings = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), block.shape[1])
        columns = {"row": rows, "id": [str(row) for row in rows], "text": nothing, "image": nothing}
        yield pa.table({**columns, "embedding": embeddings, "error": nothing})
        first += len(block)


def write(folder: Path, precision: str, clusters: Clusters, ranges: dict[str, list]) -> Path:
    """An index of this precision; those of fewer bits from that in float32. Ranges are looked for once."""
    path, source = folder / f"{precision}.parquet", folder / "float32.parquet"

    def blocks() -> Iterator[np.ndarray]:
        if precision == "float32":
            return clusters.blocks()
        return (vectors.embeddings for vectors in read_vectors(source))

    if path.exists():
        return path
    known = ranges if precision == "ubinary" else {}
    metadata = with_ranges(METADATA | {"dim": clusters.dim, "precision": precision, **known}, tables(blocks()))
    ranges |= {"ranges": metadata["ranges"]} if "ranges" in metadata else {}
    with whole_file(path) as temporary:
        write_file(temporary, tables(blocks()), metadata)
    return path


def scanned_gb(path: Path) -> float:
    """Size of the column that is read as a whole for every query."""
    metadata = pq.read_metadata(path)
    names = metadata.schema.to_arrow_schema().names
    place = names.index("bits" if "bits" in names else "embedding")
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return sum(group.column(place).total_compressed_size for group in groups) / 1e9


def nearest_of_all(path: Path, queries: torch.Tensor) -> list[set[int]]:
    """What `nearest` finds for each query where it compares it with all rows, in one pass for all of them."""
    pieces = ((vectors.numbers, torch.from_numpy(vectors.embeddings)) for vectors in read_vectors(path))
    return [set(numbers) for numbers in nearest_documents(queries, pieces, K)[1].tolist()]


def measure(path: Path, queries: torch.Tensor, expected: list[set[int]] | None) -> tuple[dict, list[set[int]]]:
    """What a precision costs and finds. Where a query goes through all vectors, one of them tells the time."""
    is_coarse = path.stem == "ubinary"
    found, seconds, busy = [], [], []

    def search() -> None:
        for query in queries if is_coarse else queries[:1]:
            began, computed = time.perf_counter(), time.process_time()
            found.append({hit.row["row"] for hit in nearest(path, query, K)})
            seconds.append(time.perf_counter() - began)
            busy.append(time.process_time() - computed)

    of_all = [] if is_coarse else nearest_of_all(path, queries)
    own = peak_over(search)["own"]
    found = found if is_coarse else of_all
    recalls = [len(some & right) / K for some, right in zip(found, expected or found, strict=True)]
    costs = {
        "memory_gb": round(scanned_gb(path), 6),
        "own_gb": round(own / 1000, 3),
        "disk_gb": round(path.stat().st_size / 1e9, 3),
        "recall@10": round(statistics.mean(recalls), 4),
        "seconds": round(statistics.median(seconds), 3),
        "cpu_seconds": round(statistics.median(busy), 3),
    }
    return costs, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="for the indexes; those that are there are used again")
    arguments = parser.parse_args()
    clusters = Clusters(arguments.rows, arguments.dim)
    queries = torch.from_numpy(clusters.queries(arguments.queries))
    results: dict[str, dict[str, float]] = {}
    print(f"{'':<10}{'memory GB':>12}{'own GB':>9}{'disk GB':>9}{'recall@10':>11}{'s a query':>11}{'CPU s':>8}")
    with ExitStack() as stack:
        folder = arguments.folder or stack.enter_context(tempfile.TemporaryDirectory())
        folder = Path(folder, f"{arguments.rows}x{arguments.dim}")
        expected, ranges = None, {}
        for precision in PRECISIONS:
            costs, found = measure(write(folder, precision, clusters, ranges), queries, expected)
            expected = expected or found  # of float32, which is the first
            for name, value in costs.items():
                results.setdefault(name, {})[precision] = value
            line = f"{precision:<10}{costs['memory_gb']:>12.3f}{costs['own_gb']:>9.3f}{costs['disk_gb']:>9.3f}"
            print(
                f"{line}{costs['recall@10']:>11.4f}{costs['seconds']:>11.3f}{costs['cpu_seconds']:>8.3f}", flush=True
            )
    print(json.dumps({"rows": arguments.rows, "dim": arguments.dim, "queries": arguments.queries, **results}))


if __name__ == "__main__":
    main()
