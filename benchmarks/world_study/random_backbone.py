"""The backbone before it has learned anything: a small Qwen3-VL, and a tokenizer of the words of this world."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from benchmarks.world_study.pictures import SIDE
from benchmarks.world_study.questions import as_messages, ask_several, describe
from benchmarks.world_study.scenes import draw_scene
from benchmarks.world_study.settings import Sizes
from hub_scripts.tiny.tokenizer import train_tokenizer


PATCH, MERGE = 8, 2
TOKENS = (SIDE // PATCH // MERGE) ** 2
SPARE_ROWS = 64
LARGER = {"embed_tokens": 3, "pos_embed": 10}  # the first are the output head, too
# A turn costs three tokens beside its texts: questions are many and short here.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}<|im_start|>{% else %}{{ ' ' }}{% endif %}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}{% if message.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
)
HEAD = 32  # dimensions of an attention head


def text_config(sizes: Sizes) -> dict[str, Any]:
    """Settings of the language model."""
    heads = sizes.width // HEAD
    return {
        "hidden_size": sizes.width,
        "intermediate_size": 2 * sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": HEAD,
        "max_position_embeddings": 4096,
        "initializer_range": 0.05 * (Sizes.width / sizes.width) ** 0.5,
        # Published: a base of 5e6 for 64 frequencies. With 16, places in a grid of 3x3 would hardly be told apart.
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 500.0,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
    }


def vision_config(sizes: Sizes) -> dict[str, Any]:
    """Settings of the tower, which sees all that there is with these two blocks."""
    return {
        "depth": 2,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 3,
        "out_hidden_size": sizes.width,
        "patch_size": PATCH,
        "temporal_patch_size": 1,
        "spatial_merge_size": MERGE,
        "num_position_embeddings": (SIDE // PATCH) ** 2,
        "deepstack_visual_indexes": [],
        "initializer_range": 0.05,
    }


def write_random(folder: Path, sizes: Sizes, seed: int = 0) -> None:
    """Random weights, drawn from a seed, with a tokenizer to which each word of the world is one token."""
    draw = random.Random(seed)
    scenes = [draw_scene(draw) for _ in range(500)]
    texts = [turn["content"] for scene in scenes for turn in as_messages(ask_several(scene, draw, 99))]
    texts += [describe(scene) for scene in scenes]
    tokenizer = train_tokenizer([*texts, *(f" {text}" for text in texts)], 2048)
    tokenizer.chat_template = CHAT_TEMPLATE
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("vision_start_token_id", "vision_start"),
            ("vision_end_token_id", "vision_end"),
            ("image_token_id", "image_pad"),
            ("video_token_id", "video_pad"),
        )
    }
    text = {**text_config(sizes), "vocab_size": len(tokenizer) + SPARE_ROWS, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(
        "qwen3_vl", text_config=text, vision_config=vision_config(sizes), tie_word_embeddings=True, **ids
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    _scale(model)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    images = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": PATCH,
        "temporal_patch_size": 1,
        "merge_size": MERGE,
        "size": {"shortest_edge": SIDE**2, "longest_edge": SIDE**2},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(images, indent=1))


@torch.no_grad()
def _scale(model: PreTrainedModel) -> None:
    """
    Weights as they are drawn are of one size. So that what a token is, and where a patch lies, is not drowned in what
    random layers add to it, tables are larger, and what layers add is smaller, the deeper they are.
    """
    added = ("o_proj", "down_proj", "attn.proj", "linear_fc2")
    for name, module in model.named_modules():
        if name.endswith(tuple(LARGER)):
            module.weight.mul_(LARGER[name.rsplit(".", 1)[-1]])
        elif name.endswith(added) and "merger" not in name:
            module.weight.div_((2 * model.config.text_config.num_hidden_layers) ** 0.5)
