"""The commands of docs/serving.md are those of the parsers, and its limits those of the code."""

import re
import shlex
from pathlib import Path

import pytest

from hub_scripts.cli import main
from hub_scripts.serving.body import KEYS, MAX_ITEMS


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_page_knows_parameters_and_limits() -> None:
    assert set(re.findall(r"`(\w+)`", PAGE)) >= KEYS and f"more than {MAX_ITEMS:,} items" in PAGE


@pytest.mark.parametrize("line", [line for line in PAGE.splitlines() if line.startswith("coma ")])
def test_commands_are_parsed(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """There is neither the folder nor the server: that, and nothing about the command line, is what is wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # a name is not looked for for long
    (tmp_path / "my-coma").touch()
    assert main(shlex.split(line.partition("#")[0])[1:]) == 1
    error = capsys.readouterr().err
    assert error.startswith("coma ") and ": error: " in error and error.count("\n") == 1
