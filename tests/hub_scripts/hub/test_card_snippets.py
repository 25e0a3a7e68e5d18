"""What the card of a published folder shows runs as it stands there, in a process without this package."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


WITHOUT_US = "import sys; sys.modules.update(dict.fromkeys(('modeling_coma', 'trainers', 'hub_scripts')))\n"


@pytest.mark.slow
def test_the_snippets_of_a_card_run(coma_folder, coma_command, tmp_path, picture, monkeypatch) -> None:
    """The folder lies where its name leads to, as a repository would; the images of the snippets are there."""
    monkeypatch.chdir(tmp_path)
    published = Path("org", "my-coma")
    published.parent.mkdir()
    code, _, error = coma_command("push", coma_folder, "org/my-coma", "--dry-run", published)
    assert code == 0, error
    Path("photos").mkdir()
    for number, name in enumerate(("photo.png", "one.png", "two.png", "photos/three.png")):
        picture(56, 56, number).save(name)
    card = (published / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```$", card, re.M | re.S)
    assert len(snippets) == 4
    script = WITHOUT_US + "\n".join(snippets) + "\nassert embeddings.shape == (2, 64) and len(scores) == 3\n"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

    several = Path("org", "vectors")
    options = ["--vectors", "2x4", "--any-vectors"]
    assert coma_command("convert", coma_folder, several, "--to-multi-vector", *options)[0] == 0
    *_, snippet = re.findall(r"^```python\n(.*?)^```$", (several / "README.md").read_text("utf-8"), re.M | re.S)
    script = WITHOUT_US + snippet.replace('"vectors"', '"org/vectors"') + "\nassert queries[0].shape == (2, 64)\n"
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

    commands = [
        shlex.split(words)[1:] for words in re.findall(r"`(coma [^`]+ [^`]+)`", card) if "org/my-coma" in words
    ]
    assert [words[0] for words in commands] == ["embed", "search", "verify"]
    for words in commands:
        code, _, error = coma_command(*words)
        assert code == 0, error
