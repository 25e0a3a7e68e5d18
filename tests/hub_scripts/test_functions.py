"""The functions behind the commands are found by `from hub_scripts import …`, and say how they are called."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hub_scripts
from hub_scripts.cli import COMMANDS


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", hub_scripts.__all__)
def test_a_function_is_there_and_explains_itself(name: str) -> None:
    function = getattr(hub_scripts, name)
    assert inspect.isfunction(function) and function.__name__ == name
    _, has_arguments, described = inspect.getdoc(function).partition("\nArgs:\n")
    described, has_example, example = described.partition("\nExample:\n")
    assert has_arguments and has_example and f"{name}(" in example
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL), parameter
        assert parameter.annotation is not parameter.empty and "Namespace" not in str(parameter.annotation), parameter
        assert re.search(rf"^    (\w+, )*{parameter.name}\b.*:", described, re.MULTILINE), f"{parameter} has no line"


def test_every_function_is_that_of_a_command() -> None:
    commands = {name.replace("-", "_") for name in COMMANDS}
    assert set(hub_scripts.FUNCTIONS.values()) == commands - {"pretrain", "finetune", "demo"}  # which have trainers


def test_names_are_known_before_anything_is_loaded() -> None:
    script = "import sys, hub_scripts\nprint(dir(hub_scripts), 'trainers' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{sorted(hub_scripts.__all__)} False False"
    with pytest.raises(AttributeError, match="module 'hub_scripts' has no attribute 'no_such_name'"):
        _ = hub_scripts.no_such_name
