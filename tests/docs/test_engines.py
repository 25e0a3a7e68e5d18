"""docs/engines.md names the causes that there are, and its commands are those of the parsers."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

from hub_scripts.cli import main
from hub_scripts.serving import causes, check, variants


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.*?) \| ", PAGE.partition("| what is said |")[2], re.M)


def test_every_cause_is_in_the_table_and_no_other() -> None:
    source = " ".join("".join(map(inspect.getsource, (causes, check, variants))).replace('"\n', '"').split())
    assert len(ROWS) > 15
    for said in ROWS:
        assert said in source, said
    stated = re.findall(r'Variant\(\s*f?"([^"{]+)', source) + re.findall(r'cause = f?"([^"{]+)', source)
    assert len(stated) > 8
    for cause in stated:
        assert any(cause.strip(" ,:").startswith(said) for said in ROWS), cause


@pytest.mark.parametrize("line", [line for line in PAGE.splitlines() if line.startswith("coma ")])
def test_commands_are_parsed(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """There is neither the folder nor the server: that, and nothing about the command line, is what is wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # a name is not looked for for long
    assert main(shlex.split(line.partition("#")[0])[1:]) == 1
    error = capsys.readouterr().err
    assert error.startswith("coma ") and ": error: " in error and error.count("\n") == 1
