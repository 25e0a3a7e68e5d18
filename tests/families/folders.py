"""Folders of tiny families, each with the files of a published checkpoint, made on the spot."""

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText

from hub_scripts.tiny.backbone import MODEL_TYPES, BackboneSizes, create_tiny_backbone
from tests.families import grids, mixed_layers, refused, strangers, tiles
from tests.families.tokenizer import TEXTS


__all__ = ["FAMILIES", "REFUSED", "STRANGERS", "make_folder"]

STD = 0.15

PARTS = {
    "aya_vision": mixed_layers.aya_vision,
    "gemma3": mixed_layers.gemma3,
    "glm4v": grids.glm4v,
    "idefics3": tiles.idefics3,
    "internvl": tiles.internvl,
    "lfm2_vl": mixed_layers.lfm2_vl,
    "llava": grids.llava,
    "llava_next": tiles.llava_next,
    "llava_onevision": tiles.llava_onevision,
    "mistral3": grids.mistral3,
    "ovis2": tiles.ovis2,
    "qwen3_5": mixed_layers.qwen3_5,
    "qwen3_vl_moe": grids.qwen3_vl_moe,
    "smolvlm": tiles.smolvlm,
}
STRANGERS = {
    "cohere2_vision": strangers.cohere2_vision,
    "deepseek_vl": strangers.deepseek_vl,
    "gemma4": strangers.gemma4,
    "minicpmv4_6": strangers.minicpmv4_6,
}
REFUSED = {
    "llama4": refused.llama4,
    "mllama": refused.mllama,
    "paligemma": refused.paligemma,
}
FAMILIES = (*MODEL_TYPES, *PARTS)


def make_folder(family: str, folder: Path) -> None:
    """
    Writes configuration, random weights, tokenizer, chat template and processor settings of a family.

    Args:
        family (`str`): one of [`FAMILIES`], [`STRANGERS`] or [`REFUSED`].
        folder (`Path`): where to write; made if missing.
    """
    if family in MODEL_TYPES:  # the product makes these itself
        sizes = BackboneSizes(num_hidden_layers=3)
        create_tiny_backbone(folder, texts=TEXTS, model_type=family, sizes=sizes, vocab_size=400, spare_rows=24)
        return
    config, processor = (PARTS | STRANGERS | REFUSED)[family]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim > 1:  # gains and biases stay as they are
                parameter.data.normal_(std=STD)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
