"""The vision tower learns to see before the language model learns to look, as those of published backbones have."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from benchmarks.world_study.fast_processor import WorldProcessor
from benchmarks.world_study.pictures import draw_picture
from benchmarks.world_study.scenes import COLOURS, PLACES, SHAPES, SIZES, TEXTURES, WORDS, Scene, draw_scene


IGNORED = -100
LABELS = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES, "word": WORDS}
# Without the place, a tower learns to leave it out, and nothing in its tokens tells the language model where they lie.
HEADS = {**LABELS, "what": ("nothing", "a thing", "the word"), "place": PLACES}
LEARNING_RATE = 3e-3


def targets(scene: Scene) -> dict[str, list[int]]:
    """At each place its own number, what is there, and the numbers of the attributes of the thing or of the word."""
    found = {name: [IGNORED] * len(PLACES) for name in LABELS}
    found["what"] = [0] * len(PLACES)
    found["place"] = list(range(len(PLACES)))
    for thing in scene.things:
        found["what"][thing.place] = 1
        for name in ("shape", "colour", "size", "texture"):
            found[name][thing.place] = LABELS[name].index(getattr(thing, name))
    found["what"][scene.word_place] = 2
    found["word"][scene.word_place] = WORDS.index(scene.word)
    return found


def teach_tower(backbone: PreTrainedModel, processor: WorldProcessor, steps: int, batch: int, seed: int = 0) -> float:
    """
    Trains the tower so that linear heads read the attributes off the mean of the 3x3 tokens of each place. The heads
    are thrown away.

    Args:
        backbone (`PreTrainedModel`): its tower is trained.
        processor ([`WorldProcessor`]): cuts pictures into patches.
        steps, batch (`int`): how long, and of how many pictures a step.
        seed (`int`): of the pictures and the heads.

    Returns:
        `float`: share of right attributes in the last tenth of the steps, in percent.
    """
    draw = random.Random(f"tower {seed}")
    torch.manual_seed(seed)
    tower, width = backbone.model.visual.train(), backbone.config.vision_config.out_hidden_size
    heads = nn.ModuleDict({name: nn.Linear(width, len(labels)) for name, labels in HEADS.items()})
    optimizer = torch.optim.AdamW([*tower.parameters(), *heads.parameters()], LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    hits: list[float] = []
    for step in range(steps):
        scenes = [draw_scene(draw) for _ in range(batch)]
        loss, right = _loss(backbone, processor, heads, scenes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        hits += right if step >= 0.9 * steps else []
    return round(100 * sum(hits) / max(1, len(hits)), 1)


def _loss(
    backbone: PreTrainedModel, processor: WorldProcessor, heads: nn.ModuleDict, scenes: list[Scene]
) -> tuple[torch.Tensor, list[float]]:
    made = processor.process_images([draw_picture(scene) for scene in scenes], [0] * len(scenes))
    pixels, grid = (np.concatenate([one[name] for one in made]) for name in ("pixel_values", "image_grid_thw"))
    tokens = backbone.model.get_image_features(torch.from_numpy(pixels), torch.from_numpy(grid), return_dict=True)
    tokens = torch.stack(list(tokens.pooler_output)).unflatten(1, (7, 7)).permute(0, 3, 1, 2)
    places = F.avg_pool2d(tokens, 3, stride=2).flatten(2).mT  # (scenes, places, width)
    found = [targets(scene) for scene in scenes]
    loss, right = torch.zeros(()), []
    for name, head in heads.items():
        expected = torch.tensor([one[name] for one in found]).flatten()
        logits = head(places).flatten(0, 1)
        loss = loss + F.cross_entropy(logits, expected, ignore_index=IGNORED)
        counts = expected != IGNORED
        right += (logits.argmax(dim=1) == expected)[counts].float().tolist()
    return loss, right
