"""The benchmark of QA generation runs at a tiny size and ends with its figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_runs_and_ends_with_json():
    command = [sys.executable, "-m", "benchmarks.qa_generation", "--concurrency", "1", "4", "--images", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["by_concurrency"]) == {"1", "4"} and found["latency_s"] == 0.05
    assert all(0 < one["ratio"] <= 1 for one in found["by_concurrency"].values())
