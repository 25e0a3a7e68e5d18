"""docs/app.md: its commands are those of the parser, and its picture is one that a page can carry."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from hub_scripts.cli import main


DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "app.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", re.findall(r"^(coma app .*)", PAGE, re.M))
def test_commands_are_parsed(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Callable) -> None:
    """There is no index, or no Gradio: that, and nothing about the command line, is what is wrong."""
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line.partition("#")[0])[1:]) == 1
    error = capsys.readouterr().err
    assert error.startswith("coma app: error: ") and error.count("\n") == 1


def test_the_picture_is_small() -> None:
    assert (DOCS / "app.png").stat().st_size < 300_000
    assert Image.open(DOCS / "app.png").width == 1280
