"""What a model answers, by the kind of the question."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device

from benchmarks.world_study.pictures import draw_picture
from benchmarks.world_study.questions import KINDS, Asked, as_messages, ask
from benchmarks.world_study.scenes import Scene, draw_scene
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.compression.collator import ComaCompressionCollator


@torch.no_grad()
def right_answers(model: ComaForEmbedding, batch: dict[str, Any], view: str) -> torch.Tensor:
    """Which rows, each with one answer, would be answered right by greedy decoding, `(rows,)`."""
    states = model(**send_to_device(batch, model.device), dialogue_view=view).answer_states
    said = model.get_output_embeddings()(states).argmax(dim=-1).cpu()
    rows = (batch["labels"] != -100).nonzero()[:, 0]
    wrong = said != batch["labels"][batch["labels"] != -100]
    return torch.zeros(len(batch["labels"])).index_add_(0, rows, wrong.float()) == 0


def accuracy_by_kind(
    model: ComaForEmbedding, collate: Callable, rows: Sequence[dict[str, Any]], kinds: Sequence[str], view: str
) -> dict[str, float]:
    """Share of right answers of every kind, in percent, and `mean`, that of the kinds."""
    was_training = model.training
    model.eval()
    right = torch.cat(
        [right_answers(model, collate(rows[start : start + 128]), view) for start in range(0, len(rows), 128)]
    )
    model.train(was_training)
    found = {}
    for kind in sorted(set(kinds)):
        places = [place for place, one in enumerate(kinds) if one == kind]
        found[kind] = round(100 * right[places].float().mean().item(), 1)
    return {**found, "mean": round(sum(found.values()) / len(found), 1)}


class Exam:
    """
    Single questions of every kind about scenes that have a combination of shape and colour that was never seen.

    Args:
        processor ([`ComaProcessor`]): of the model.
        number (`int`): of questions of each kind.
    """

    def __init__(self, processor: ComaProcessor, number: int) -> None:
        draw = random.Random("exam")
        self.collate = ComaCompressionCollator(processor, compression_instruction=False)
        self.rows, self.kinds = [], []
        for kind in KINDS:
            for scene, asked in self._asked(kind, number, draw):
                self.rows.append({"images": [draw_picture(scene)], "text": None, "messages": as_messages([asked])})
                self.kinds.append(kind)

    def _asked(self, kind: str, number: int, draw: random.Random) -> list[tuple[Scene, Asked]]:
        found = []
        while len(found) < number:
            scene = draw_scene(draw, unseen=True)
            if (asked := ask(scene, kind, draw)) is not None:
                found.append((scene, asked))
        return found

    def answers(self, model: ComaForEmbedding, view: str) -> dict[str, float]:
        """Share of right answers in percent, from the whole input ("full") or the compression tokens alone."""
        return accuracy_by_kind(model, self.collate, self.rows, self.kinds, view)
