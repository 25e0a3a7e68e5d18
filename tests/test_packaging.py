"""A built wheel holds everything that the checkout holds, and its command runs without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("modeling_coma", "trainers", "hub_scripts")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the files that git knows, so that a stray file in the checkout proves nothing."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    subprocess.run(["git", "checkout-index", "--all", f"--prefix={source}/"], cwd=ROOT, check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(source)], check=True)
    return next(out.glob("*.whl"))


def test_wheel_holds_every_file_of_the_rooms(wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files", *ROOMS], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    missing = set(listed.split()) - set(zipfile.ZipFile(wheel).namelist())
    assert not missing, f"add these to package_data in setup.py: {sorted(missing)}"


def test_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(ROOMS)


def test_command_of_the_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    """`coma --help` as installed: the interpreter starts in an empty folder and finds the wheel's files first."""
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    script = "import sys, hub_scripts.cli as cli; print(cli.__file__); sys.argv = ['coma', '--help']; cli.main()"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed)) and "usage" in done.stdout.lower()
