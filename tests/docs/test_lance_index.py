"""docs/lance-index.md from its first line to its last; what needs libraries of others, where they are."""

import contextlib
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import hub_scripts
from hub_scripts.cli import main
from hub_scripts.common.folders import save_model


PAGE = Path(__file__).resolve().parents[2] / "docs" / "lance-index.md"
SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
OF_OTHERS = ("faiss", "qdrant_client")


def missing(code: str) -> list[str]:
    return [name for name in OF_OTHERS if f"import {name}" in code or f"from {name}" in code]


def test_the_page_has_what_it_should() -> None:
    assert {language for language, _ in SNIPPETS} == {"bash", "python", "json"}  # what is printed
    assert [missing(code) for _, code in SNIPPETS if missing(code)] == [["faiss"], ["qdrant_client"]]
    assert "qdrant_client" not in str(SNIPPETS[:-1])  # the last one: nothing after it needs what it makes


@pytest.mark.extras
def test_the_page_is_followed(make_coma, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    save_model(*make_coma(), tmp_path / "demo" / "model")
    for path in ("photos/one.png", "photos/two.jpg", "more/three.png"):
        Path(path).parent.mkdir(exist_ok=True)
        Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 20).convert("RGB").save(path)
    session, printed, ran = {}, io.StringIO(), []
    for language, code in SNIPPETS:
        if language == "bash":
            for line in code.splitlines():
                words = shlex.split(line.partition("  #")[0])[1:]
                assert main(words) == 0, capsys.readouterr().err
                ran.append(words[0])
        elif language == "python" and all(importlib.util.find_spec(name) for name in missing(code)):
            with contextlib.redirect_stdout(printed):
                exec(compile(code, PAGE.name, "exec"), session)
    assert ran == ["embed", "index", "search", "search", "search", "embed", "index", "index", "index"]
    assert "2 rows searched exactly" in printed.getvalue() and "1 more; 1 deleted" in printed.getvalue()
    assert session["rows"].num_rows == 2 and len(session["rows"][0]["embedding"]) == 64
    assert session.keys() >= {name for name, module in hub_scripts.FUNCTIONS.items() if module == "index"}
