"""docs/tutorial.md from its first line to its last, in an empty folder, and its Python version."""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from hub_scripts.cli import main
from hub_scripts.finetune import _parse


ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "own_images.py"
# language, title, content
SNIPPETS = re.findall(
    r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```', (ROOT / "docs" / "tutorial.md").read_text("utf-8"), re.S | re.M
)


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def commands(code):
    return [shlex.split(line.partition("#")[0])[1:] for line in code.splitlines()]


@pytest.mark.study
def test_the_page_is_followed(empty_folder, capsys):
    """All of its blocks in order; what it says about the results is what comes out."""
    printed = {}
    for language, title, code in SNIPPETS:
        if language == "python":
            exec(compile(code, "tutorial.md", "exec"), {})
        elif title:
            Path(title).write_text(code, encoding="utf-8")
        for command in commands(code) if language == "bash" else ():
            assert main(command) == 0, capsys.readouterr().err
            output = capsys.readouterr()
            printed.setdefault(command[0], []).append(output.out + output.err)
    short, longer = printed["pretrain"]
    assert "The answers ignore the inputs" in short and "The answers ignore the inputs" not in longer
    assert all(said in printed["finetune"][0] for said in ("learnt by heart", "best     step"))
    scores = json.loads(Path("results/results.json").read_text())["metrics"]["retrieval"]["held-out"]
    assert scores["hit@1"] > 15 * scores["chance_hit@1"]
    assert Path("my-model/loss.png").exists() and "First document wrong" in Path("results/page.html").read_text()
    assert "1F339" in printed["search"][0]  # the rose
    assert "not sent" in printed["push"][0] and Path("published/README.md").exists()


def test_the_page_has_files_and_commands_that_exist(empty_folder):
    """What a command line or a file gets wrong is seen here, without the training."""
    files = {title: code for _, title, code in SNIPPETS if title}
    for title, code in files.items():
        Path(title).write_text(code, encoding="utf-8")
    lines = [command for language, _, code in SNIPPETS if language == "bash" for command in commands(code)]
    assert [line[0] for line in lines] == (
        ["create", "pretrain", "pretrain", "finetune", "evaluate", "embed", "search", "search", "push"]
    )
    assert {language for language, title, _ in SNIPPETS if not title} == {"python", "bash", "text"}
    assert files.keys() == {"compress.yaml", "match.yaml"}
    assert _parse(lines[3][1:])[1].metric_for_best_model == "p@1"


def test_page_and_script_make_the_same_images():
    block = next(code for language, _, code in SNIPPETS if language == "python")
    assert block.partition("\n\n\n")[2] in SCRIPT.read_text("utf-8")


@pytest.mark.study
def test_the_script_runs(empty_folder):
    """With a few steps: that it learns is seen where the page is followed."""
    code = SCRIPT.read_text("utf-8")
    short = code.replace("max_steps=300", "max_steps=2").replace("max_steps=150", "max_steps=2")
    assert short.count("max_steps=2") == 2
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(short, str(SCRIPT), "exec"), {"__name__": "__main__"})
    assert "hit@1" in printed.getvalue() and Path("published/README.md").exists()
