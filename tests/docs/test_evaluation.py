"""The snippets of docs/evaluation.md run as they stand, in order; of the commands, those that have data here."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from hub_scripts.cli import main
from hub_scripts.common.folders import save_model
from hub_scripts.evaluate import _parser
from hub_scripts.finetune import _parse


PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)


def commands(code: str) -> list[list[str]]:
    return [shlex.split(line.partition("#")[0]) for line in code.splitlines()]


@pytest.mark.slow
def test_snippets(make_coma, tmp_path, monkeypatch, capsys):
    pytest.importorskip("mteb")
    monkeypatch.chdir(tmp_path)
    save_model(*make_coma(), tmp_path / "demo" / "model")
    Path("photos").mkdir()
    for name in ("one.png", "two.jpg"):
        Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 20).convert("RGB").save(Path("photos", name))
    session: dict = {}
    ran = 0
    for language, code in SNIPPETS:
        if language == "text":  # what is printed
            continue
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code, PAGE.name, "exec"), session)
            continue
        for program, *words in commands(code):
            if program == "coma" and words[1] == "demo/model":
                assert main([*words, "--workers", "0"]) == 0, capsys.readouterr().err
                ran += 1
    assert ran == 3 and Path("shop-results/page.html").exists() and session["scores"]["num_data"] == 2


def test_all_commands_are_of_a_form_that_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pairs.yaml").write_text("model: my-coma\ndata: pairs.csv\nreport_to: none\n")
    found = 0
    for language, code in SNIPPETS:
        assert language in ("bash", "python", "text")
        for words in commands(code) if language == "bash" else ():
            if "evaluate" in words:
                _parser().parse_args(words[words.index("evaluate") + 1 :])
            else:
                assert _parse(words[words.index("finetune") + 1 :])[1].metric_for_best_model == "ndcg@10"
            found += 1
    assert found == 11
