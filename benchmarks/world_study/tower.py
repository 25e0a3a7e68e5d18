"""The vision tower learns to see before the language model learns to look, as those of published backbones have."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from benchmarks.world_study.fast_processor import WorldProcessor
from benchmarks.world_study.pictures import draw_picture
from benchmarks.world_study.scenes import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    WORDS,
    Scene,
    draw_scene,
)


IGNORED = -100
# Of each group at most one word is true of a place. Its own is among them: without, a tower learns to leave out where
# a token lies, and the language model has nothing to find it by.
GROUPS = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "texture": TEXTURES,
    "written": WORDS,
    "background": BACKGROUNDS,
    "place": PLACES,
    "what": ("background", "thing", "word"),
}
LEARNING_RATE = 3e-3
SHARPNESS = 8.0  # the logit of a word whose vector is part of a token


def targets(scene: Scene) -> dict[str, list[int]]:
    """Of every group the number of its word that is true of each place, or `IGNORED`."""
    found = {group: [IGNORED] * len(PLACES) for group in GROUPS}
    found["background"] = [BACKGROUNDS.index(scene.background)] * len(PLACES)
    found["place"] = list(range(len(PLACES)))
    found["what"] = [0] * len(PLACES)
    for thing in scene.things:
        found["what"][thing.place] = 1
        for group in ("shape", "colour", "size", "texture"):
            found[group][thing.place] = GROUPS[group].index(getattr(thing, group))
    found["what"][scene.word_place] = 2
    found["written"][scene.word_place] = WORDS.index(scene.word)
    return found


def teach_tower(backbone: PreTrainedModel, processor: WorldProcessor, steps: int, batch: int, seed: int = 0) -> float:
    """
    Trains the tower to say what it sees in the language model's own words: the token of a place is to be most similar,
    in each group, to the input vector of the word that is true of it.

    Args:
        backbone (`PreTrainedModel`): its tower is trained, and nothing else.
        processor ([`WorldProcessor`]): cuts pictures into patches.
        steps, batch (`int`): how long, and of how many pictures a step.
        seed (`int`): of the pictures.

    Returns:
        `float`: share of right words in the last tenth of the steps, in percent.
    """
    draw = random.Random(f"tower {seed}")
    vectors = {group: _vectors(backbone, processor, words) for group, words in GROUPS.items()}
    tower = backbone.model.visual.train()
    optimizer = torch.optim.AdamW(tower.parameters(), LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    hits: list[float] = []
    for step in range(steps):
        scenes = [draw_scene(draw) for _ in range(batch)]
        loss, right = _loss(backbone, processor, vectors, scenes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        hits += right if step >= 0.9 * steps else []
    return round(100 * sum(hits) / max(1, len(hits)), 1)


def _vectors(backbone: PreTrainedModel, processor: WorldProcessor, words: tuple[str, ...]) -> torch.Tensor:
    """Input vectors of words, divided so that one of them has the logit `SHARPNESS` with itself, `(words, width)`."""
    ids = [processor.tokenizer.convert_tokens_to_ids(processor.tokenizer.tokenize(f" {word}")) for word in words]
    vectors = backbone.get_input_embeddings().weight.detach()[torch.tensor(ids)[:, 0]]
    return SHARPNESS * vectors / vectors.square().sum(dim=1).mean()


def _loss(
    backbone: PreTrainedModel, processor: WorldProcessor, vectors: dict[str, torch.Tensor], scenes: list[Scene]
) -> tuple[torch.Tensor, list[float]]:
    made = processor.process_images([draw_picture(scene) for scene in scenes], [0] * len(scenes))
    pixels, grid = (np.concatenate([one[name] for one in made]) for name in ("pixel_values", "image_grid_thw"))
    tokens = backbone.model.get_image_features(torch.from_numpy(pixels), torch.from_numpy(grid), return_dict=True)
    places = torch.cat(list(tokens.pooler_output))  # one token is one place
    found = [targets(scene) for scene in scenes]
    loss, right = torch.zeros(()), []
    for group, of_group in vectors.items():
        expected = torch.tensor([one[group] for one in found]).flatten()
        logits = places @ of_group.T
        loss = loss + F.cross_entropy(logits, expected, ignore_index=IGNORED)
        counts = expected != IGNORED
        right += (logits.argmax(dim=1) == expected)[counts].float().tolist()
    return loss, right
