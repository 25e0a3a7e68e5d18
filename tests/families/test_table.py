"""The table of docs/backbones.md says of tested families what their tiny models can do."""

from pathlib import Path

import pytest

from tests.families.folders import FAMILIES, REFUSED, STRANGERS
from tests.families.table import row_of


LINES = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("family", [*FAMILIES, *STRANGERS, *REFUSED])
def test_the_row_of_a_family_is_what_was_found(family):
    known, memory, why = row_of(family)
    assert f"| `{family}` | {known} | {memory} | {why} |" in LINES
    assert "tested" in known


def test_nothing_else_is_called_tested():
    tested = [line.split("`")[1] for line in LINES if line.startswith("| `") and "tested |" in line]
    assert sorted(tested) == sorted([*FAMILIES, *STRANGERS, *REFUSED])
