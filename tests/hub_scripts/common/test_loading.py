"""A command never computes with weights that were not in the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from hub_scripts.common.loading import find_device, load_model
from modeling_coma import ComaForEmbedding
from trainers.adapters import lora_config


def test_missing_weights_are_not_made_up(coma_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(coma_folder, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if name.endswith("patch_embed.proj.weight"))
    save_file({name: weights[name] for name in weights if name != gone}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit its configuration.*missing_keys.*patch_embed.proj.weight"):
        load_model(str(folder))


def test_a_download_that_broke_off_is_said(coma_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(coma_folder, tmp_path / "broken")
    whole = (coma_folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(str(folder))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_weights_of_another_shape_or_unknown_are_named(coma_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(coma_folder, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("patch_embed.proj.weight"))
    for problem, changed in (
        ("mismatched_keys.*patch_embed", {**weights, name: weights[name][:-1].clone()}),
        ("unexpected_keys.*more.weight", {**weights, "more.weight": weights[name].clone()}),
    ):
        save_file(changed, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=f"do not fit its configuration.*{problem}"):
            load_model(str(folder))


@pytest.mark.parametrize("content", ["half", "", "[]", "null"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json"])
def test_a_file_that_is_damaged_is_named(coma_folder: Path, tmp_path: Path, name: str, content: str) -> None:
    folder = shutil.copytree(coma_folder, tmp_path / "broken")
    if content == "half":
        cut(folder / name)
    else:
        (folder / name).write_text(content)
    with pytest.raises(ValueError, match=f"broken/{name} cannot be read: it is"):
        load_model(str(folder))


@pytest.fixture
def adapter(coma_folder: Path, tmp_path: Path) -> Path:
    model = ComaForEmbedding.from_pretrained(coma_folder)
    get_peft_model(model, lora_config(model, r=2)).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_that_is_damaged_is_named(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    whole = {name: weight.clone() for name, weight in load_file(file).items()}  # not mapped: the file will be cut
    cut(file)
    with pytest.raises(ValueError, match="adapter/adapter_model.safetensors cannot be read"):
        load_model(str(adapter))
    name = min(whole)
    for changed in (
        {other: weight for other, weight in whole.items() if other != name},
        {**whole, name: whole[name][:-1].clone()},
        {**whole, "base_model.more.weight": whole[name].clone()},
    ):
        save_file(changed, file)
        with pytest.raises(ValueError, match="adapter/adapter_model.safetensors does not fit the adapter: 1 of "):
            load_model(str(adapter))
    cut(adapter / "adapter_config.json")
    with pytest.raises(ValueError, match="adapter_config.json cannot be read"):
        load_model(str(adapter))


OTHER_TASKS = ("FEATURE_EXTRACTION", "SEQ_CLS")


@pytest.mark.parametrize(
    "task_type", [None, "CAUSAL_LM", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHER_TASKS)]
)
def test_an_adapter_of_any_task_type_is_loaded(
    adapter: Path, coma_folder: Path, tmp_path: Path, task_type: str | None, coma_command: Callable
) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "task_type": task_type}))
    model, processor = load_model(str(adapter))
    expected, _ = load_model(str(coma_folder))  # a new adapter changes nothing
    inputs = processor.process(["a red apple"])
    with torch.no_grad():
        assert torch.allclose(model(**inputs).embeddings, expected(**inputs).embeddings, atol=1e-6)
    code, _, error = coma_command("merge", adapter, tmp_path / "merged")
    assert code == 0, error


def test_what_is_no_folder_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, message in (("file", "is a file"), ("empty", "has no config.json"), ("gone", "There is no folder")):
        with pytest.raises(ValueError, match=message):
            load_model(str(tmp_path / name))


@pytest.mark.parametrize("device", ["cuda:77", "foo", "meta", "cpu:1", ""])
def test_a_device_that_is_not_there(coma_folder: Path, device: str) -> None:
    with pytest.raises(ValueError, match=f"There is no device '{device}' on this machine, which has cpu"):
        load_model(str(coma_folder), device=device)
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is one")
def test_an_accelerator_that_is_not_there(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    code, _, error = coma_command("search", coma_folder, tmp_path / "x", "text", "--device", "cuda")
    assert code == 1 and error.count("\n") == 1
    with pytest.raises(ValueError, match="There is no device 'cuda'"):
        find_device("cuda")
