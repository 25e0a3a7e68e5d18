"""How long everything is trained, in full and quickly, and what all trainings have in common."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """
    Of a study.

    Args:
        tower_steps, tower_batch (`int`): of the tower before the backbone.
        backbone_steps, backbone_batch (`int`): of the backbone.
        unit, batch (`int`): optimizer steps of one unit of stage 1, and its rows.
        least_steps (`int`): of stage 2; with many pairs, one epoch.
        pairs_batch (`int`): pairs of a step of stage 2.
        exam (`int`): questions of each kind in an examination.
        queries (`int`): of a task of retrieval.
        cut (`int`): by which numbers of pairs are divided.
        layers, width (`int`): of the language model of the backbone.
    """

    tower_steps: int = 400
    tower_batch: int = 32
    backbone_steps: int = 5000
    backbone_batch: int = 16
    unit: int = 200
    batch: int = 16
    least_steps: int = 400
    pairs_batch: int = 32
    exam: int = 50
    queries: int = 400
    cut: int = 1
    # Not shown, for what is shown names a study: they are in the recipe.
    layers: int = field(default=4, repr=False)
    width: int = field(default=128, repr=False)

    def of_size(self, name: str) -> Sizes:
        """The same study with a backbone of one of `BACKBONES`."""
        layers, width = BACKBONES[name]
        return replace(self, layers=layers, width=width)


QUICK = Sizes(
    tower_steps=2,
    tower_batch=4,
    backbone_steps=2,
    backbone_batch=4,
    unit=1,
    batch=4,
    least_steps=1,
    pairs_batch=4,
    exam=1,
    queries=6,
    cut=100,
)

USUAL_SIZE = "usual"
# Layers and width of the language model. The layers of the large one have ten times the weights: for a GPU.
BACKBONES = {USUAL_SIZE: (Sizes.layers, Sizes.width), "deep": (8, Sizes.width), "large": (8, 288)}
TURNS = {"multi-turn": 5, "single-turn": 1}
DESCRIPTIONS = 0.25  # of the rows of the backbone, and of mixed dialogues
RATE = {"lora": 3e-3, "full": 1e-3}
TEMPERATURE = 0.05
LEAST_CARRIED = 0.1  # nats per answer token by which another row's tokens must be worse, for a stage 1 to count


def common_settings(folder: str, seed: int, save_steps: int | None = None) -> dict[str, Any]:
    """Settings of every training here."""
    return {
        "output_dir": folder,
        "weight_decay": 0.05,
        "warmup_steps": 0.05,
        "adam_beta2": 0.98,
        "train_sampling_strategy": "sequential",  # rows are drawn by their number
        "logging_steps": 50,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        **({"save_strategy": "no"} if save_steps is None else {"save_steps": save_steps, "save_total_limit": 1}),
    }
