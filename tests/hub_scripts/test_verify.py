"""`coma verify` finds what is wrong with a published model, and says which vector and which library."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_scripts.hub.golden import GOLDEN_FILE, version_changes, weight_faults, write_golden
from hub_scripts.verify import verify_model
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
    assert vectors[1].startswith("vector    an image ") and "2.0e-02 DIFFERS, at most 0.001" in vectors[1]
    assert "pillow" in libraries and "was 1.0" in libraries


@pytest.mark.usefixtures("without_process")
def test_a_folder_that_was_never_pushed(coma_folder: Path, coma_command: Callable) -> None:
    """It loads and is whole; only what it would be compared with is not there."""
    code, said, error = coma_command("verify", coma_folder)
    assert code == 1 and "does not load" not in error
    assert f"{coma_folder} loads, but has no golden vectors ({GOLDEN_FILE})" in error and "coma push" in error
    assert said.splitlines() == [f"model     {coma_folder} (float32)", "weights   complete"]


@pytest.mark.usefixtures("without_process")
def test_from_python_it_says_what_it_found(published: Path, capsys: pytest.CaptureFixture) -> None:
    """All is as it was; with another vector and a version, those are named, and a tolerance decides."""
    found = verify_model(published)
    assert found.is_intact and not found.weight_faults and not found.changed_libraries
    assert (found.commit, found.dtype, found.tolerance) == (None, "float32", 1e-3)
    golden = json.loads((published / GOLDEN_FILE).read_text())
    assert list(found.differences) == golden["names"] and max(found.differences.values()) < 1e-5
    golden["embeddings"][1][0] += 0.02
    del golden["versions"]["pillow"]
    (published / GOLDEN_FILE).write_text(json.dumps(golden))
    found = verify_model(published, tolerance=0.01)
    assert [name for name, difference in found.differences.items() if difference > 0.01] == ["an image"]
    assert not found.is_intact and len(found.changed_libraries) == 1 and "pillow" in found.changed_libraries[0]
    assert found._replace(tolerance=0.1).is_intact
    assert not found._replace(tolerance=0.1, weight_faults=["1 weights are missing: a"]).is_intact
    assert not capsys.readouterr().out


@pytest.mark.usefixtures("without_process")
def test_without_golden_vectors_nothing_is_intact(coma_folder: Path) -> None:
    found = verify_model(str(coma_folder))
    assert not found.is_intact and not found.differences and not found.weight_faults


def damaged(golden: dict) -> dict[str, str]:
    nan = json.loads(json.dumps(golden))
    nan["embeddings"][1][0] = float("nan")
    return {
        "half": json.dumps(golden)[:500],
        "no object": "[]",
        "no vectors": json.dumps({**golden, "embeddings": []}),
        "a vector too few": json.dumps({**golden, "embeddings": golden["embeddings"][1:]}),
        "not a number": json.dumps(nan),
        "words for numbers": json.dumps({**golden, "embeddings": [["a"]] * 4}),
        "no precision": json.dumps({**golden, "dtype": "int3"}),
        "no versions": json.dumps({name: value for name, value in golden.items() if name != "versions"}),
        "an image that is none": json.dumps(golden).replace("iVBOR", "AAAAA"),
        "deep": "[" * 100_000,
    }


def test_damaged_golden_vectors_are_named(published: Path, coma_command: Callable) -> None:
    """Before anything is loaded, so that the model is not blamed."""
    for what, content in damaged(json.loads((published / GOLDEN_FILE).read_text())).items():
        (published / GOLDEN_FILE).write_text(content)
        code, said, error = coma_command("verify", published)
        assert code == 1 and f"{GOLDEN_FILE} is damaged" in error and error.count("\n") == 1, what
        assert not said


def test_what_is_no_model(published: Path, coma_command: Callable, make_backbone: Callable, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path / "empty": "is no model: it has neither config.json nor adapter_config.json",
        published / "config.json": "is neither a folder nor the name of a repository",
        tmp_path / "none": "is neither a folder nor the name of a repository",
        make_backbone(): "is a qwen2_5_vl model and no CoMa model",
    }
    for model, words in cases.items():
        code, said, error = coma_command("verify", model)
        assert (code, said) == (1, "") and words in error and error.count("\n") == 1
    code, _, error = coma_command("verify", published, "--revision", "v1")
    assert code == 1 and "is a folder, and --revision is for models on the Hub" in error
    (published / "config.json").write_text("{")
    code, _, error = coma_command("verify", published)
    assert code == 1 and "is damaged" in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_folder_without_its_processor_does_not_load(published: Path, coma_command: Callable) -> None:
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (published / name).unlink()
    code, _, error = coma_command("verify", published)
    assert code == 1 and "does not load in a process without coma-embedding" in error and error.count("\n") == 1


@pytest.mark.parametrize("tolerance", ["nan", "-1", "inf", "x"])
def test_a_tolerance_is_a_number(published: Path, coma_command: Callable, tolerance: str) -> None:
    """Everything is within a tolerance of infinity, and nothing within one that is no number."""
    with pytest.raises(SystemExit):
        coma_command("verify", published, f"--tolerance={tolerance}")


@pytest.mark.usefixtures("without_process")
def test_another_precision_is_a_fault(published: Path, coma_command: Callable) -> None:
    """Within the tolerance that is given, but not what was published."""
    model = ComaForEmbedding.from_pretrained(published, dtype=torch.bfloat16)
    model.save_pretrained(published)
    code, said, _ = coma_command("verify", published, "--tolerance", "0.5")
    assert code == 1 and "DIFFERS" not in said
    assert "weights   they compute in bfloat16, and golden vectors were made in float32" in said


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
