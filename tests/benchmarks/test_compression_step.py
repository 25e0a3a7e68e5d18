"""The benchmark of stage 1 runs at a tiny size, and its two paths are one loss."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.study
def test_it_runs_and_ends_with_json():
    command = [sys.executable, "-m", "benchmarks.compression_step", "--image-tokens", "4", "16", "--repeats", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--threads", "1"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"time_ratio", "memory_ratio", "loss_difference", "bare_matmul_ratio"}
    assert set(found["time_ratio"]) == set(found["memory_ratio"]) == {"4", "16"}
    assert found["loss_difference"] < 1e-4 and found["bare_matmul_ratio"] > 1
