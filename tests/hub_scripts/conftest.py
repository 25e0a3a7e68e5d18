"""A saved CoMa model for the commands to work with, and the commands as a person calls them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import hub_scripts.hub.golden
from hub_scripts.cli import main
from hub_scripts.common.folders import save_model
from hub_scripts.hub.training_record import TRAINING_FILE
from tests.clean_process import load_here


@pytest.fixture(scope="session")
def coma_folder(make_coma: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny CoMa model with K = 4, as `coma create` leaves it. Nobody writes to it."""
    folder = tmp_path_factory.mktemp("coma")
    save_model(*make_coma("qwen2_5_vl", 4), folder)
    return folder


@pytest.fixture(scope="session")
def nested(coma_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says of itself that it was trained for budgets, the largest of two vectors of a query and three of
    a document. Nobody writes to it."""
    folder = shutil.copytree(coma_folder, tmp_path_factory.mktemp("nested") / "model")
    stage = {"stage": "contrastive", "settings": {"late_interaction_budgets": [[1, 1], [2, 3]]}}
    (folder / TRAINING_FILE).write_text(json.dumps([stage]))
    return folder


@pytest.fixture
def coma_command(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """`coma_command("search", folder, …)`: exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def without_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`coma push` and `coma verify` load a model in this process, for tests that show something else than that."""
    monkeypatch.setattr(hub_scripts.hub.golden, "load_cleanly", load_here)
