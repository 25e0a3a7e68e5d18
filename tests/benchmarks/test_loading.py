"""The benchmark of loading runs at a tiny size, and memory does not grow with the rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.study
def test_it_runs_and_ends_with_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.loading", "--batches", "1", "--repeats", "1", "--threads", "1"]
    done = subprocess.run(
        [*command, "--kinds", "emoji", "--rows", "500", "20000"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["loader_to_step"]) == 4 and min(found["loader_to_step"].values()) > 0
    assert found["memory_growth_mb"] < 20
