"""Runs Python where this package is not known: without `site`, whose .pth files would bring in an editable install."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import transformers


__all__ = ["libraries", "run_isolated"]


def libraries() -> list[str]:
    """The folders that torch and the others are imported from."""
    return sorted({str(Path(library.__file__).parents[1]) for library in (np, torch, transformers)})


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
