"""Rows of stage 2 with dialogues about their queries: stage 1 beside stage 2 (CREM: one mask, two objectives)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from modeling_coma import ComaProcessor
from trainers.compression.collator import ComaCompressionCollator
from trainers.contrastive.collator import ComaContrastiveCollator
from trainers.contrastive.packing import PackedInputs
from trainers.experimental.config import ExperimentalContrastiveConfig
from trainers.samplers import pack


__all__ = ["JointContrastiveCollator", "PackedDialogues"]


@dataclass(frozen=True, eq=False)
class PackedDialogues(PackedInputs):
    r"""
    Inputs with a dialogue about each of them.

    Args:
        dialogue_input_ids, dialogue_attention_mask, labels (`torch.LongTensor` of shape `(num_rows, length)`):
            Arguments of [`ComaForEmbedding`], padded on the right.
        kwargs:
            As in [`PackedInputs`].
    """

    dialogue_input_ids: torch.LongTensor | None = None
    dialogue_attention_mask: torch.LongTensor | None = None
    labels: torch.LongTensor | None = None

    @property
    def num_answer_tokens(self) -> int:
        """Tokens that are trained on."""
        return int((self.labels != -100).sum())

    def mini_batches(self, max_tokens: int, pad_token_id: int) -> Iterator[dict[str, torch.Tensor]]:
        """Arguments of [`ComaForEmbedding`] for rows of similar length within a budget of tokens."""
        lengths = self.dialogue_attention_mask.sum(dim=1)
        for numbers in pack((self.lengths + lengths).cpu(), max_tokens, longest_first=True):
            rows = torch.tensor(numbers, device=lengths.device)
            width = int(lengths[rows].max())
            yield {
                **self.batch(rows, pad_token_id),
                "dialogue_input_ids": self.dialogue_input_ids[rows, :width],
                "dialogue_attention_mask": self.dialogue_attention_mask[rows, :width],
                "labels": self.labels[rows, :width],
            }


class JointContrastiveCollator(ComaContrastiveCollator):
    r"""
    Rows of stage 2 to tensors, and the `messages` of rows that have any, which are about their queries, to `dialogues`
    ([`PackedDialogues`], or `None` where no row has any).

    Args:
        processor ([`ComaProcessor`]):
            The processor of the model.
        dialogues ([`ComaCompressionCollator`], *optional*):
            What collates the `messages`; by default they are left alone.
        kwargs:
            As in [`ComaContrastiveCollator`].
    """

    def __init__(
        self, processor: ComaProcessor, dialogues: ComaCompressionCollator | None = None, **kwargs: Any
    ) -> None:
        super().__init__(processor, **kwargs)
        self.dialogues = dialogues

    @classmethod
    def of(cls, processor: ComaProcessor, args: ExperimentalContrastiveConfig) -> JointContrastiveCollator:
        """The collator that a trainer with these settings makes for itself, with a caching processor for instance."""
        collator = super().of(processor, args)
        if args.joint_weight > 0:
            collator.dialogues = ComaCompressionCollator(processor, args.max_length)
        return collator

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of rows of which none is bad."""
        batch = super().collate(rows)
        if self.dialogues is not None:
            batch["dialogues"] = self._dialogues([row for row in rows if row.get("messages")])
        return batch

    def _dialogues(self, rows: list[dict[str, Any]]) -> PackedDialogues | None:
        if not rows:
            return None
        items = []
        for row in rows:
            query = row["query"]
            images = query.get("image")
            images = [image for image in (images if isinstance(images, list) else [images]) if image is not None]
            videos = [] if query.get("video") is None else [query["video"]]
            items.append({"images": images, "videos": videos, "text": query.get("text"), "messages": row["messages"]})
        batch, _ = self.dialogues.collate(items)
        return PackedDialogues.from_batch(batch, self.processor)
