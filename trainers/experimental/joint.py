"""The dialogues of a contrastive batch: stage 1 beside stage 2, in one step (CREM: one mask, two objectives)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainers.compression.collator import ComaCompressionCollator
from trainers.contrastive.packing import PackedInputs
from trainers.data.images import as_image
from trainers.samplers import pack


__all__ = ["PackedDialogues", "collate_dialogues"]

DIALOGUE = ("dialogue_input_ids", "dialogue_attention_mask", "labels")


@dataclass(frozen=True, eq=False)
class PackedDialogues:
    r"""
    Inputs with a dialogue about each of them.

    Args:
        inputs ([`PackedInputs`]):
            What the dialogues are about.
        dialogues (`dict[str, torch.LongTensor]` of shape `(num_rows, length)`):
            Arguments of [`ComaForEmbedding`], padded on the right.
    """

    inputs: PackedInputs
    dialogues: dict[str, torch.Tensor]

    @property
    def num_answer_tokens(self) -> int:
        """Tokens that are trained on."""
        return int((self.dialogues["labels"] != -100).sum())

    def to(self, device: torch.device | str, **kwargs: Any) -> PackedDialogues:
        """The same dialogues on another device."""
        moved = {name: tensor.to(device, **kwargs) for name, tensor in self.dialogues.items()}
        return PackedDialogues(self.inputs.to(device, **kwargs), moved)

    def mini_batches(self, max_tokens: int, pad_token_id: int) -> list[dict[str, torch.Tensor]]:
        """Arguments of [`ComaForEmbedding`] for rows of similar length within a budget of tokens."""
        lengths = self.dialogues["dialogue_attention_mask"].sum(dim=1)
        batches = []
        for numbers in pack((self.inputs.lengths + lengths).cpu(), max_tokens, longest_first=True):
            rows = torch.tensor(numbers, device=lengths.device)
            width = int(lengths[rows].max())
            dialogues = {name: tensor[rows, :width] for name, tensor in self.dialogues.items()}
            batches.append({**self.inputs.batch(rows, pad_token_id), **dialogues})
        return batches


def collate_dialogues(rows: list[dict[str, Any]], collator: ComaCompressionCollator) -> PackedDialogues | None:
    """The dialogues of the rows that have `messages`, which are about their queries; `None` if none has."""
    talking = [row for row in rows if row.get("messages")]
    if not talking:
        return None
    items = []
    for row in talking:
        image = row["query"].get("image")
        images = [as_image(one) for one in (image if isinstance(image, list) else [image]) if one is not None]
        items.append({"images": images, "text": row["query"].get("text"), "messages": row["messages"]})
    batch, _ = collator.collate(items)
    dialogues = {name: batch.pop(name) for name in DIALOGUE}
    images_per_row = torch.tensor([len(item["images"]) for item in items])
    return PackedDialogues(PackedInputs.from_batch(batch, images_per_row), dialogues)
