"""What the targets of the Makefile install: exact versions, at both ends of what setup.py allows."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from modeling_coma import TESTED_TRANSFORMERS


ROOT = Path(__file__).resolve().parents[1]


def pins(name):
    """Versions by library."""
    lines = (ROOT / "constraints" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(library): version for library, _, version in (line.partition("==") for line in lines)}


def requirements():
    """What setup.py asks for, extras included."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    asked = re.findall(r'^    +"([A-Za-z0-9-]+(?:\[[a-z,]+\])?[>=]=.*?)"', setup, re.M)
    assert len(asked) > 20
    return [Requirement(line) for line in asked]


@pytest.mark.parametrize("names", [["extras", "locked"], ["extras", "oldest"], ["locked", "extras"]], ids=",".join)
def test_every_library_that_is_asked_for_has_an_exact_version_within_its_bounds(names):
    versions = {library: version for name in names for library, version in pins(name).items()} | pins("vision")
    for requirement in requirements():
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version}"


def test_the_versions_of_the_vision_environment_are_locked_once():
    """They come on top of the locked ones, and the default environment is without them."""
    assert {"torchvision", "num2words"} <= pins("vision").keys()
    assert not pins("vision").keys() & (pins("locked").keys() | pins("oldest").keys())


def test_the_versions_of_the_heavy_extras_are_locked_once():
    """What is locked twice is what one of them does not take as new as everybody else."""
    assert {"ray", "lancedb", "gradio", "playwright"} <= pins("extras").keys()
    assert pins("extras").keys() & pins("locked").keys() == {"pillow"}


def test_the_oldest_versions_are_the_lower_bounds():
    versions = pins("oldest")
    once = (pins("vision") | pins("extras")).keys() - versions.keys()
    for requirement in requirements():
        if canonicalize_name(requirement.name) in once:  # locked once, as torch is
            continue
        lowest = next(bound.version for bound in requirement.specifier if bound.operator in (">=", "=="))
        if requirement.name != "torch":  # at the locked version in both
            assert versions[canonicalize_name(requirement.name)] == lowest
    assert versions["torch"] == pins("locked")["torch"]


def test_what_a_saved_folder_says_it_was_tested_with_is_both_ends():
    assert TESTED_TRANSFORMERS == (pins("oldest")["transformers"], pins("locked")["transformers"])


def test_the_readme_says_what_is_locked():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    sentence = re.search(r"constraints/locked\.txt\).*?: (.*?)\. ", readme)[1]
    said = dict(part.split() for part in sentence.split(", "))
    assert len(said) >= 7 and said == {name: pins("locked")[name] for name in said}
