"""Of every family, the plain folder in stock sentence-transformers equals the model, without our package."""

from itertools import cycle

import pytest

from hub_scripts.common.folders import save_model
from hub_scripts.convert import convert_model
from hub_scripts.create import create_model
from tests.families.folders import FAMILIES, STRANGERS
from tests.plain_export import by_coma, by_strangers


# Their own processors make other tokens of two images than of each alone, and ours makes each alone.
SEVERAL_DIFFER = {"llava_onevision", "minicpmv4_6"}


# Every process loads the libraries anew, so that each family has one of the two poolings.
@pytest.mark.parametrize(("family", "pooling"), zip([*FAMILIES, *STRANGERS], cycle(["last", "mean"]), strict=False))
def test_stock_tools_embed_as_the_model_does(family, pooling, family_folder, tmp_path):
    model, processor = create_model(str(family_folder(family)), 4, pooling)
    save_model(model, processor, tmp_path / "coma")
    converted = convert_model(tmp_path / "coma", tmp_path / "plain", to_backbone=True)
    assert converted.difference < 1e-5
    assert (converted.several_images > 1e-5) == (family in SEVERAL_DIFFER)
    found, expected = by_strangers([tmp_path / "plain"], tmp_path)[tmp_path / "plain"], by_coma(model, processor)
    equal = slice(len(expected) - (family in SEVERAL_DIFFER))  # the last one has two images
    assert (found["alone"] - expected)[equal].abs().max() < 1e-5
    assert (found["together"] - expected)[equal].abs().max() < 1e-5
