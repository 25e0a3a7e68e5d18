"""`coma verify` finds what is wrong with a published model, and says which vector and which library."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_scripts.golden import GOLDEN_FILE, version_changes, weight_faults, write_golden
from modeling_coma import ComaForEmbedding, ComaProcessor


@pytest.fixture
def published(coma_folder: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(coma_folder, tmp_path / "published")
    model, processor = ComaForEmbedding.from_pretrained(folder), ComaProcessor.from_pretrained(folder)
    write_golden(folder, model.eval(), processor)
    return folder


@pytest.mark.slow
def test_what_differs_is_named(published: Path, coma_command: Callable) -> None:
    """One vector of four and the version of pillow were other ones, and there is a weight that belongs nowhere."""
    golden = json.loads((published / GOLDEN_FILE).read_text())
    golden["embeddings"][1][0] += 0.02
    golden["versions"]["pillow"] = "1.0"
    (published / GOLDEN_FILE).write_text(json.dumps(golden))
    weights = load_file(published / "model.safetensors")
    weights["model.stray"] = torch.ones(1)
    save_file(weights, published / "model.safetensors", metadata={"format": "pt"})
    code, said, error = coma_command("verify", published)
    assert code == 1 and not error
    model, of_weights, *vectors, libraries = said.splitlines()
    assert model.endswith("published (float32)")
    assert of_weights.startswith("weights   1 weights are not used: ") and of_weights.endswith(".stray")
    assert [("DIFFERS" in line, "as published" in line) for line in vectors] == [
        (number == 1, number != 1) for number in range(4)
    ]
    assert vectors[1].startswith("vector    a picture ") and "2.0e-02 DIFFERS, at most 0.001" in vectors[1]
    assert "pillow" in libraries and "was 1.0" in libraries


def test_a_folder_that_was_never_pushed(coma_folder: Path, coma_command: Callable) -> None:
    code, _, error = coma_command("verify", coma_folder)
    assert code == 1 and "FileNotFoundError" in error and GOLDEN_FILE in error and error.count("\n") == 1


def test_faults_and_changes_in_words() -> None:
    tied = "backbone.lm_head.token_adapter.trainable_tokens_delta.default"
    report = {
        "missing_keys": ["a", tied],
        "unexpected_keys": ["b", "c", "d", "e"],
        "mismatched_keys": [],
        "golden": {"adapter": False, "versions": {"torch": "1", "pillow": "2"}},
        "versions": {"torch": "1", "numpy": "3"},
    }
    assert weight_faults(report) == [f"2 weights are missing: a, {tied}", "4 weights are not used: b, c, d …"]
    report["golden"]["adapter"] = True
    assert weight_faults(report)[0] == "1 weights are missing: a"
    assert version_changes(report) == ["numpy 3, was not there", "pillow not there, was 2"]
