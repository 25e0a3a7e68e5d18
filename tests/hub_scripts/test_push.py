"""What `coma push` prepares is complete and was proven to load; what would not load is not published."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

import hub_scripts.push
from hub_scripts.golden import GOLDEN_FILE, differences


@pytest.fixture
def source(coma_folder: Path, tmp_path: Path) -> Path:
    """A model with a prompt of somebody's own, and a record of its training."""
    folder = shutil.copytree(coma_folder, tmp_path / "source")
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    settings["prompts"]["query"] = "Find: "
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


def test_a_dry_run_leaves_a_complete_folder(source: Path, coma_command: Callable, tmp_path: Path) -> None:
    """It has been loaded where nothing of ours can be imported, or it would not be there."""
    out = tmp_path / "out"
    code, said, error = coma_command(
        "push", source, "org/my-coma", "--dry-run", out, "--max-shard-size", "300KB", "--license", "apache-2.0"
    )
    assert code == 0, error
    assert "prepared and checked, not sent" in said
    names = {path.name for path in out.rglob("*")}
    assert {path.name for path in source.rglob("*")} - {"model.safetensors"} <= names
    assert len(list(out.glob("model-*.safetensors"))) > 1 and GOLDEN_FILE in names
    prompts = json.loads((out / "config_sentence_transformers.json").read_text())["prompts"]
    assert prompts == {"query": "Find: ", "document": ""}
    assert "license: apache-2.0" in (out / "README.md").read_text()
    assert str(tmp_path) not in (out / "config.json").read_text(), "the card of where it lay"
    model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    golden = json.loads((out / GOLDEN_FILE).read_text())
    hub_scripts.golden.write_golden(tmp_path, model.eval(), processor)
    again = json.loads((tmp_path / GOLDEN_FILE).read_text())
    assert again["embeddings"] == golden["embeddings"] and len(golden["names"]) == 4
    assert len({tuple(row) for row in golden["embeddings"]}) == 4


@pytest.mark.slow
def test_what_does_not_load_is_not_published(
    source: Path, coma_command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that imports what only we have: it works here, and nowhere else."""
    save = hub_scripts.push._save_whole

    def need_us(arguments, folder):
        found = save(arguments, folder)
        code = (folder / "modeling_coma.py").read_text()
        (folder / "modeling_coma.py").write_text(f"import trainers.losses\n{code}")
        return found

    monkeypatch.setattr(hub_scripts.push, "_save_whole", need_us)
    code, _, error = coma_command("push", source, "org/my-coma", "--dry-run", tmp_path / "out")
    assert code == 1 and "does not load in a process without coma-embedding" in error and "trainers" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_embeds_differently_is_not_published(
    source: Path, coma_command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that change on the way, here those that one layer multiplies pictures with."""
    save = hub_scripts.push._save_whole

    def spoil(arguments, folder):
        found = save(arguments, folder)
        weights = load_file(folder / "model.safetensors")
        name = next(name for name in weights if "merger" in name and weights[name].dim() == 2)
        weights[name] *= 1.01
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return found

    monkeypatch.setattr(hub_scripts.push, "_save_whole", spoil)
    code, _, error = coma_command("push", source, "org/my-coma", "--dry-run", tmp_path / "out")
    assert code == 1 and "other embeddings of a picture by" in error and "a text with" not in error
    assert "of a text" not in error and not (tmp_path / "out").exists()


def test_a_pull_request_has_no_tag(source: Path, coma_command: Callable) -> None:
    with pytest.raises(SystemExit):
        coma_command("push", source, "org/my-coma", "--create-pr", "--tag", "v1")


def test_a_repository_has_an_owner(source: Path, coma_command: Callable) -> None:
    code, _, error = coma_command("push", source, "my-coma")
    assert code == 1 and "give ORG/NAME" in error


def test_an_adapter_needs_a_base_on_the_hub(source: Path, coma_command: Callable, tmp_path: Path) -> None:
    from peft import get_peft_model

    from modeling_coma import ComaForEmbedding
    from trainers.lora import lora_config

    model = ComaForEmbedding.from_pretrained(source)
    get_peft_model(model, lora_config(model, r=2)).save_pretrained(tmp_path / "adapter")
    code, _, error = coma_command("push", tmp_path / "adapter", "org/a", "--adapter", "--dry-run", tmp_path / "out")
    assert code == 1 and "is not on the Hub" in error and not (tmp_path / "out").exists()


def test_differences_are_shares_of_the_length() -> None:
    golden = {"names": ["a", "b"], "embeddings": [[3.0, 4.0], [1.0, 0.0]]}
    report = {"golden": golden, "embeddings": [[3.0, 3.0], [1.0, 0.0]]}
    assert dict(differences(report)) == {"a": pytest.approx(0.2), "b": 0.0}
    with pytest.raises(ValueError, match="The vector of a has 1 dimensions, the golden one 2"):
        dict(differences({"golden": golden, "embeddings": [[3.0], [1.0]]}))
    assert torch.tensor(golden["embeddings"]).shape == (2, 2)
