"""Of every family, the plain folder in stock sentence-transformers equals the model, without our package."""

from itertools import cycle
from typing import Any, NamedTuple

import pytest
import torch

from hub_scripts.common.folders import save_model
from hub_scripts.convert import convert_model
from hub_scripts.create import create_model
from tests.families.folders import FAMILIES, STRANGERS
from tests.plain_export import by_coma, by_strangers


EVERY = [*FAMILIES, *STRANGERS]
# Their own processors make other tokens of two images than of each alone, and ours makes each alone.
SEVERAL_DIFFER = {"llava_onevision", "minicpmv4_6"}


class Exported(NamedTuple):
    converted: Any
    expected: torch.Tensor
    found: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def exported(family_folder, tmp_path_factory) -> dict[str, Exported]:
    """Every family, with one of the two poolings; one process loads them all, as its start is what takes time."""
    root = tmp_path_factory.mktemp("plain")
    converted, expected = {}, {}
    for family, pooling in zip(EVERY, cycle(["last", "mean"]), strict=False):
        model, processor = create_model(str(family_folder(family)), 4, pooling)
        save_model(model, processor, root / "coma" / family)
        converted[family] = convert_model(root / "coma" / family, root / family, to_backbone=True)
        expected[family] = by_coma(model, processor)
    found = by_strangers([root / family for family in EVERY], root)
    return {family: Exported(converted[family], expected[family], found[root / family]) for family in EVERY}


@pytest.mark.parametrize("family", EVERY)
def test_stock_tools_embed_as_the_model_does(family, exported):
    converted, expected, found = exported[family]
    assert converted.difference < 1e-5
    assert (converted.several_images > 1e-5) == (family in SEVERAL_DIFFER)
    equal = slice(len(expected) - (family in SEVERAL_DIFFER))  # the last one has two images
    assert (found["alone"] - expected)[equal].abs().max() < 1e-5
    assert (found["together"] - expected)[equal].abs().max() < 1e-5
