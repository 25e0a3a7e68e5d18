"""Every snippet of the README is run as it stands, the Python ones in one session, the commands in one folder."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from hub_scripts.cli import main
from hub_scripts.create import create_model
from hub_scripts.folders import save_model
from hub_scripts.tiny_backbone import create_tiny_backbone


ROOT = Path(__file__).resolve().parents[1]
SNIPPETS = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M)


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Where a stranger would be: a folder after `make demo`, with a photo, and a backbone in place of the Hub's."""
    monkeypatch.chdir(tmp_path)
    backbone = tmp_path / "Qwen" / "Qwen2.5-VL-3B-Instruct"
    create_tiny_backbone(backbone, texts=["a red apple, what is drawn here?"] * 20)
    save_model(*create_model(str(backbone), num_compression_tokens=4), tmp_path / "demo" / "model")
    Path("photos").mkdir()
    for path in ("photo.png", "photos/one.png", "photos/two.jpg"):
        Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 20).convert("RGB").save(path)


def test_every_snippet_is_of_a_kind_that_is_run():
    assert {language for language, _ in SNIPPETS} == {"bash", "python"}


def test_python_snippets(stranger):
    pytest.importorskip("sentence_transformers")
    session = {}
    for language, code in SNIPPETS:
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code, "README.md", "exec"), session)
    assert session["embeddings"].shape == (4, 64)
    assert Path("my-coma", "modeling_coma.py").exists()


def commands():
    lines = [
        line.partition("#")[0].strip()
        for language, code in SNIPPETS
        if language == "bash"
        for line in code.splitlines()
    ]
    return [shlex.split(line) for line in lines if line]


@pytest.mark.slow
def test_commands(stranger, capsys):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for program, *arguments in commands():
        if program == "make":
            assert arguments[0] in targets
        else:
            assert program == "coma"
            assert main(arguments) == 0, capsys.readouterr().err
