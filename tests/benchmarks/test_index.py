"""The benchmark of the index runs, and measures what it says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.clustered_vectors import Clusters


ROOT = Path(__file__).resolve().parents[2]


def test_vectors_are_the_same_every_time_and_queries_lie_among_them() -> None:
    clusters = Clusters(9000, 16)
    first, second = (np.concatenate(list(clusters.blocks())) for _ in range(2))
    assert first.shape == (9000, 16) and (first == second).all()
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    queries = clusters.queries(5)
    best = (queries @ first.T).max(axis=1)
    assert queries.shape == (5, 16) and (best > 0.5).all() and (best < 0.9999).all()


@pytest.mark.extras
def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.index", "--rows", "12000", "--dim", "32", "--queries", "10"]
    command += ["--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["recall@10"] > 0.95 and found["query_ms"] > 0 and found["disk_gb"] < 0.1
    assert not any(tmp_path.iterdir())
