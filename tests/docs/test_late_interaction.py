"""docs/late-interaction.md from its first line to its last: a training of two steps, and all that is done with it."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from hub_scripts.cli import main
from hub_scripts.common.folders import save_model


PAGE = Path(__file__).resolve().parents[2] / "docs" / "late-interaction.md"


@pytest.mark.slow
def test_the_page_is_followed(make_coma, tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    save_model(*make_coma(), tmp_path / "demo" / "model")
    Path("photos").mkdir()
    for path in ("photos/one.png", "photos/two.jpg"):
        Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 20).convert("RGB").save(path)
    session, printed, ran = {}, io.StringIO(), []
    snippets = re.findall(r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```', PAGE.read_text(encoding="utf-8"), re.S | re.M)
    for language, title, code in snippets:
        if title:
            Path(title).write_text(code, encoding="utf-8")
        elif language == "bash":
            for line in code.splitlines():
                assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
                ran.append(capsys.readouterr().out)
        else:
            with contextlib.redirect_stdout(printed):
                exec(compile(code, PAGE.name, "exec"), session)
    assert "  2x4" in ran[1] and "and 4 vectors of each, 512 bytes a row" in ran[2] and "rank  maxsim" in ran[3]
    assert "maxsim" in printed.getvalue() and session["scores"].shape == (2, 2)
    assert "| several vectors | trained for 1x1, 2x4" in Path("nested-vectors/README.md").read_text()
