"""The table of docs/backbones.md: `python -m tests.families.table`, about a minute, in the environment of
`make test-vision`.

The families of the tests are asked with their tiny models; of every other family that `AutoModelForImageTextToText`
knows, a shell without weights is made of its default configuration, and asked what it can do.
"""

# ruff: noqa: I001 - the shim comes before transformers
from tests.families import torchvision_on_cpu  # noqa: F401

import sys
import tempfile
import warnings
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging

from tests.families.folders import FAMILIES, REFUSED, STRANGERS, make_folder
from trainers.capabilities import capabilities


TESTED = {*FAMILIES, *STRANGERS}


def make_backbone(family: str) -> PreTrainedModel:
    """The tiny model of a family of the tests, or the shell of another."""
    if family in TESTED | {*REFUSED}:
        with tempfile.TemporaryDirectory() as folder:
            make_folder(family, Path(folder))
            return AutoModelForImageTextToText.from_pretrained(folder)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(family))


def row_of(family: str) -> tuple[str, str, str]:
    """How it is known, what stage 1 answers from, and why something does not work."""
    try:
        able = capabilities(make_backbone(family))
    except Exception as error:
        return "not known", "", f"its default configuration makes no model here ({type(error).__name__})"
    if able.embedding is not None:
        return f"refused{', tested' if family in REFUSED else ''}", "", able.embedding
    memories = [name for name in ("cache", "states") if getattr(able, name) is None]
    known = "tested" if family in TESTED else "expected"
    return known, " or ".join(memories) or "none", able.cache or able.states or ""


def table() -> str:
    """The rows, those that are tested first."""
    rows = [(family, *row_of(family)) for family in sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)]
    order = ["tested", "expected", "not known", "refused, tested", "refused"]
    rows.sort(key=lambda row: order.index(row[1]))
    lines = [f"| `{family}` | {known} | {memory} | {why} |" for family, known, memory, why in rows]
    return "\n".join(["| family | is | stage 1 from | why not more |", "|---|---|---|---|", *lines])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    sys.stdout.write(table() + "\n")
