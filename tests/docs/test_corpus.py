"""The snippets of docs/corpus.md run as they stand, in order, on a cluster of Ray."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from hub_scripts.cli import main
from hub_scripts.common.folders import save_model


PAGE = Path(__file__).resolve().parents[2] / "docs" / "corpus.md"


@pytest.mark.extras
def test_snippets(cluster, make_coma, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_model(*make_coma(), tmp_path / "demo" / "model")
    Path("photos").mkdir()
    for name in ("one.png", "two.jpg"):
        Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 20).convert("RGB").save(Path("photos", name))
    (commands,), (code,) = (
        re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
        for language in ("bash", "python")
    )
    for line in commands.splitlines():
        assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    exec(compile(code, PAGE.name, "exec"), session := {})
    assert session["made"][:1] == (2,) and Path("photos-again").is_dir()
