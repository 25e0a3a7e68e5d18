"""Retrieval by several states of the compression tokens, one budget after another."""

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.emoji_study.arms import Arm
from benchmarks.emoji_study.setting import Emoji
from modeling_coma import ComaForEmbedding, ComaOutput, ComaProcessor
from trainers.encoding.maxsim import maxsim
from trainers.experimental import ExperimentalContrastiveTrainer


BATCH = 64


class LastFirst(ExperimentalContrastiveTrainer):
    """A budget has the last states: their tokens see all tokens before them."""

    def _vectors(self, output: ComaOutput) -> torch.Tensor:
        return super()._vectors(ComaOutput(**{**output, "compression_states": output.compression_states.flip(1)}))


@torch.no_grad()
def states(model: ComaForEmbedding, processor: ComaProcessor, items: Sequence[Any]) -> torch.Tensor:
    """`(num_items, K, hidden_size)`."""
    parts = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
    return torch.cat([model.eval()(**processor.process(part)).compression_states for part in parts])


def examine_budgets(model: ComaForEmbedding, processor: ComaProcessor, emoji: Emoji, arm: Arm) -> dict[str, dict]:
    """P@1 in percent of each budget of an arm, for the tasks of [`~benchmarks.emoji_study.setting.examine`]."""
    caching = emoji.caching(processor)
    images, others, names = (
        states(model, caching, items).flip(1) if arm.last_first else states(model, caching, items)
        for items in (emoji.images, emoji.others, emoji.names)
    )
    tasks = {"name": (names, emoji.seen), "image": (others, emoji.seen), "new": (others, emoji.new)}
    found: dict[str, dict] = {}
    for budget in arm.budgets.split():
        q, t = map(int, budget.split("x"))
        nearest = {
            task: maxsim(images[rows, :q], documents[:, :t]).argmax(1) for task, (documents, rows) in tasks.items()
        }
        found[budget] = {
            task: 100 * (nearest[task] == rows).float().mean().item() for task, (_, rows) in tasks.items()
        }
    return found
