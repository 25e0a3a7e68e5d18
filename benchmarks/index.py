"""What an index of a million vectors costs to make, to open and to search, and how many of the nearest it finds.

The vectors are those of `benchmarks.clustered_vectors`, 1,024 numbers each, written as `coma embed` writes them. The
index is made of the file by `build_index`, and searched, in processes of their own, on two cores.

Recall is the share of the ten nearest of all rows, by an exact scan, that are among the ten that are found. The time
of a query is that of `LanceIndex.nearest`, one after the other, after the first, which also reads the index from the
disk and has a time of its own. Memory is a process's own, at its peak, above what it had before; pages of files are
the system's, which should have room for the vectors. `exact_ms` compares a query with every row of the same index.

  python -m benchmarks.index                                            # 9 GB of disk, in --folder
  python -m benchmarks.index --rows 30000 --dim 64 --queries 20         # quick, to see that it runs

The last line is a JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.clustered_vectors import Clusters
from benchmarks.loading import peak_over
from hub_scripts.embedding.index import with_ranges, write_file
from trainers.encoding.nearest import nearest_documents


K = 10
CORES = 2
METADATA = {"model": "synthetic", "num_compression_tokens": 1, "probe": [1.0]}


def write_store(path: Path, clusters: Clusters) -> None:
    metadata = METADATA | {"dim": clusters.dim, "dims": clusters.dim, "precision": "float32"}
    write_file(path, tables(clusters), with_ranges(metadata, []))


def tables(clusters: Clusters) -> Iterator[pa.Table]:
    first = 0
    for block in clusters.blocks():
        rows = range(first, first + len(block))
        embeddings = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), block.shape[1])
        nothing = pa.nulls(len(block), pa.string())
        columns = {"row": rows, "id": [f"{row}.jpg" for row in rows], "text": nothing, "image": nothing}
        yield pa.table({**columns, "embedding": embeddings, "error": nothing})
        first += len(block)


def expected(store: Path, queries: torch.Tensor) -> list[list[int]]:
    """Numbers of the nearest rows of all."""
    from hub_scripts.embedding.store import read_vectors

    pieces = ((vectors.numbers, torch.from_numpy(vectors.embeddings)) for vectors in read_vectors(store))
    return nearest_documents(queries, pieces, K)[1].tolist()


def measure_build(folder: Path) -> dict[str, float]:
    from hub_scripts import build_index

    began = time.perf_counter()
    own = peak_over(lambda: build_index(folder / "store.parquet", folder / "index"))["own"]
    seconds = time.perf_counter() - began
    size = sum(file.stat().st_size for file in (folder / "index").rglob("*") if file.is_file())
    return {"build_seconds": round(seconds), "build_own_gb": round(own / 1000, 2), "disk_gb": round(size / 1e9, 2)}


def measure_search(folder: Path) -> dict[str, float]:
    import lancedb  # noqa: F401 - what is imported once is not counted

    from hub_scripts.embedding.lance_index import open_index

    queries = torch.from_numpy(np.load(folder / "queries.npy"))
    right = json.loads((folder / "expected.json").read_text())
    seconds, recalls, took = [], [], {}

    def search() -> None:
        began = time.perf_counter()
        index = open_index(folder / "index")
        took["open_seconds"] = round(time.perf_counter() - began, 3)
        for number, query in enumerate(queries):
            began = time.perf_counter()
            found = index.nearest(query, K)
            seconds.append(time.perf_counter() - began)
            recalls.append(len({hit.row["row"] for hit in found} & set(right[number])) / K)
        began = time.perf_counter()
        for query in queries[:3]:
            index.nearest(query, K, is_exact=True)
        took["exact_ms"] = round((time.perf_counter() - began) / 3 * 1e3)

    own = peak_over(search)["own"]
    first, *others = (1e3 * number for number in seconds)
    return {
        **took,
        "first_query_ms": round(first, 1),
        "query_ms": round(statistics.median(others), 1),
        "query_ms_p95": round(float(np.quantile(others, 0.95)), 1),
        "recall@10": round(statistics.mean(recalls), 4),
        "search_own_gb": round(own / 1000, 3),
    }


MEASURES = {"build": measure_build, "search": measure_search}


def in_a_process(name: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.index", "--measure", name, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    print("\n".join(f"{key:<16}{value:>10}" for key, value in found.items()), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where store and index lie while they are measured")
    parser.add_argument("--measure", choices=list(MEASURES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(MEASURES[arguments.measure](arguments.folder)))
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    clusters = Clusters(arguments.rows, arguments.dim)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        queries = clusters.queries(arguments.queries)
        np.save(folder / "queries.npy", queries)
        write_store(folder / "store.parquet", clusters)
        (folder / "expected.json").write_text(
            json.dumps(expected(folder / "store.parquet", torch.from_numpy(queries)))
        )
        found = {name: value for measure in MEASURES for name, value in in_a_process(measure, folder).items()}
    print(json.dumps({"rows": arguments.rows, "dim": arguments.dim, "queries": arguments.queries, **found}))


if __name__ == "__main__":
    main()
