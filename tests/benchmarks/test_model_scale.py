"""The benchmark of a model of a real size runs with a small one, and its large one is what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.model_scale import SHAPES, config_of
from modeling_coma import ComaForEmbedding


ROOT = Path(__file__).resolve().parents[2]


def test_the_large_shape_has_the_parameters_of_the_published_model(make_coma):
    config = config_of(SHAPES["3b"], make_coma("qwen2_5_vl")[0].config)
    with torch.device("meta"):
        model = ComaForEmbedding(config)
    assert sum(weights.numel() for weights in model.parameters()) == 3_754_622_976


@pytest.mark.study
def test_it_runs_and_ends_with_json():
    command = [sys.executable, "-m", "benchmarks.model_scale", "--shape", "tiny", "--rows", "2", "--pairs", "4"]
    done = subprocess.run([*command, "--repeats", "1"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])["sdpa"]
    assert list(found) == ["stage 1", "stage 2", "embedding"]
    assert all(0 < one["utilisation"] < 1 and one["tokens/s"] > one["rows/s"] > 0 for one in found.values())
