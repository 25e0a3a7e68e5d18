"""What families can do, found without their names; what cannot be a backbone is refused in a sentence."""

import pytest
from transformers import AutoModelForImageTextToText

from tests.families.folders import FAMILIES, REFUSED, STRANGERS
from trainers.backbone import model_from_backbone
from trainers.capabilities import capabilities


HYBRID = {"lfm2_vl", "minicpmv4_6", "qwen3_5"}
WITHOUT_SOFT_TOKENS = {"gemma3": "`generate`", "gemma4": "a table of their own"}
WHY = {
    "llama4": "it has no `model` without a head",
    "mllama": r"no `get_image_features`: images are no tokens of its rows \(cross attention\)",
    "paligemma": r"its text attends both ways \(prefix-LM\)",
}


@pytest.mark.parametrize("family", [*FAMILIES, *STRANGERS])
def test_what_a_family_can_do(family_folder, family):
    found = capabilities(AutoModelForImageTextToText.from_pretrained(family_folder(family)))
    assert found.embedding is None
    assert (found.cache is not None) is (family in HYBRID)
    assert found.memory == ("states" if family in HYBRID else "cache")
    assert WITHOUT_SOFT_TOKENS.get(family, "") in (found.states or "")
    assert (found.states is None) is (family not in WITHOUT_SOFT_TOKENS)


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_a_backbone_is_refused(family_folder, family):
    with pytest.raises(ValueError, match=f"cannot be a backbone: .*{WHY[family]}"):
        model_from_backbone(family_folder(family), 4)
