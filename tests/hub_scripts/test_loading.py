"""A command never computes with weights that were not in the file."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hub_scripts.loading import load_model


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
