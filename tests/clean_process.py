"""Runs Python where this package is not known: without `site`, whose .pth files would bring in an editable install.

And spares a test that process where what it shows is something else.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hub_scripts.hub.clean_load import GOLDEN_FILE, decode_inputs, embed, library_versions
from hub_scripts.hub.golden import read_golden


__all__ = ["libraries", "load_here", "run_isolated"]


def libraries() -> list[str]:
    """The folders that torch and the others are imported from: two, where an environment lies on top of another."""
    found = [importlib.util.find_spec(name) for name in ("torchvision", "torch", "transformers", "numpy")]
    return list(dict.fromkeys(str(Path(library.origin).parents[1]) for library in found if library is not None))


def run_isolated(words: list[str], folder: Path) -> str:
    """
    Runs `python *words` in a folder, offline, and gives what it prints.

    What will be removed from transformers is an error there: the code of the model has another name as remote code, so
    that no filter of this package's tests sees its warnings.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and "HF_" not in name}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf_home")}
    command = [sys.executable, "-I", "-S", "-W", "error::FutureWarning", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def load_here(
    name: str, commit: str | None = None, golden: dict[str, Any] | None = None, offline: bool = False
) -> dict[str, Any]:
    """
    [`hub_scripts.hub.golden.load_cleanly`] without its process, which takes seconds to start: a whole model is loaded
    and embeds the same inputs by the same function, in this process, where this package can be imported.
    """
    golden = read_golden(Path(name, GOLDEN_FILE)) if golden is None else golden
    assert not golden["adapter"]
    pinned = {"revision": commit} if commit else {}
    report = {**embed(name, pinned, decode_inputs(golden)), **pinned, "versions": library_versions()}
    return {**json.loads(json.dumps(report)), "golden": golden}
