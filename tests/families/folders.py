"""Folders of tiny families, each with the files of a published checkpoint, made on the spot."""

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText

from tests.families import tiles


__all__ = ["FAMILIES", "make_folder"]

STD = 0.15

# Each gives the configuration of a model and the processor that fits it.
FAMILIES = {
    "idefics3": tiles.idefics3,
    "internvl": tiles.internvl,
    "llava_next": tiles.llava_next,
    "llava_onevision": tiles.llava_onevision,
    "ovis2": tiles.ovis2,
    "smolvlm": tiles.smolvlm,
}


def make_folder(family: str, folder: Path) -> None:
    """
    Writes configuration, random weights, tokenizer, chat template and processor settings of a family.

    Args:
        family (`str`): one of [`FAMILIES`].
        folder (`Path`): where to write; made if missing.
    """
    config, processor = FAMILIES[family]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim > 1:  # gains and biases stay as they are
                parameter.data.normal_(std=STD)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
