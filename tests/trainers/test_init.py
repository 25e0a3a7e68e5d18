"""The public names of the package: each is there, and none costs more than itself."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import trainers
from trainers._lazy import installed_version


ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["trainers", "trainers.compression", "trainers.contrastive", "trainers.encoding"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_public_name_is_there(folder):
    package = importlib.import_module(folder)
    assert package.__all__ and set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        found = getattr(package, name)
        assert found.__name__ == name and found.__doc__, name
    with pytest.raises(AttributeError, match=f"module '{folder}' has no attribute 'ComaTrainerr'"):
        getattr(package, "Coma" + "Trainerr")


def test_there_is_one_version():
    assert trainers.__version__ == installed_version() and "__version__" in dir(trainers)


@pytest.mark.parametrize("package", ["modeling_coma", "trainers", "hub_scripts"])
def test_type_checkers_read_the_types(package):
    assert (ROOT / package / "py.typed").exists()


LIGHT = """
import sys

import trainers

assert "torch" not in sys.modules and "transformers" not in sys.modules
"""


def test_the_package_alone_loads_no_library():
    subprocess.run([sys.executable, "-c", LIGHT], check=True, cwd=ROOT, timeout=120)
