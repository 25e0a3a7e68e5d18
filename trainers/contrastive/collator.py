"""Rows of stage 2 to one packed batch, in which nothing is encoded twice, and the relations between its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from modeling_coma import ComaProcessor
from trainers.compression.collator import ComaCompressionCollator
from trainers.contrastive.packing import PackedInputs
from trainers.data.items import content_key, to_item
from trainers.data.rows import BadRows
from trainers.experimental.joint import collate_dialogues


if TYPE_CHECKING:  # it loads the settings of the HF `Trainer`, and with them PEFT
    from trainers.contrastive.config import ComaContrastiveConfig


__all__ = [
    "ComaContrastiveCollator",
]


class ComaContrastiveCollator:
    r"""
    Rows of stage 2 to tensors. Documents are the positives of all rows, then their hard negatives; equal inputs (class
    names, captions, images) are packed once, whichever side they are on.

    A row has `query`, `positive` and maybe `negatives` (a list), each `{"text": str | None, "image": image, list of
    images or None}`; maybe a `source`, and a `group`: rows of one group have each other's positives as theirs, and
    so have rows whose queries are equal, instruction included.

    Args:
        processor ([`ComaProcessor`]):
            The processor of the model.
        max_length, instructions, own_negatives_only, on_bad_row:
            As in [`ComaContrastiveConfig`].
        dialogues ([`ComaCompressionCollator`], *optional*):
            What collates the `messages` of rows that have any, as `dialogues`.

    Example:

        Two rows, the first with a hard negative that is the positive of the second:

        ```
        {"query": {"image": cat.png}, "positive": {"text": "cat"}, "negatives": [{"text": "dog"}]}
        {"query": {"image": dog.png}, "positive": {"text": "dog"}, "negatives": []}
        ->
        inputs     cat.png, dog.png, "cat", "dog"      (PackedInputs)
        queries    [0, 1]
        documents  [2, 3, 3]                           "cat", "dog", and "dog" once more as a negative
        owners     [0, 1, 0]                           the rows to which the documents belong
        ```

        and, to tell who may be whose negative, `asked_keys` (with the instruction), `query_keys` (without it),
        `document_keys`, `sources`, `groups` (hashes, -1 for none) and `restricted` (rows with no negatives but their
        own).
    """

    def __init__(
        self,
        processor: ComaProcessor,
        max_length: int | None = None,
        instructions: dict[str, str] | None = None,
        own_negatives_only: list[str] | None = None,
        on_bad_row: str = "raise",
        dialogues: ComaCompressionCollator | None = None,
    ) -> None:
        self.processor = processor
        self.options = {} if max_length is None else {"max_length": max_length}
        self.instructions = instructions or {}
        self.own_negatives_only = set(own_negatives_only or ())
        self.bad_rows = BadRows(on_bad_row)
        self.dialogues = dialogues

    @classmethod
    def of(cls, processor: ComaProcessor, args: ComaContrastiveConfig) -> ComaContrastiveCollator:
        """The collator that a trainer with these settings makes for itself, with a caching processor for instance."""
        dialogues = ComaCompressionCollator(processor, args.max_length) if args.joint_weight > 0 else None
        settings = (args.max_length, args.instructions, args.own_negatives_only, args.on_bad_row, dialogues)
        return cls(processor, *settings)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return self.bad_rows.apply(self._collate, rows, self._nothing)

    def _nothing(self) -> dict[str, Any]:
        """A batch of no pairs, with an input that is embedded in vain: other processes may have some."""
        batch = self._collate([{"query": {"text": "nothing"}, "positive": {"text": "nothing"}}])
        return {name: value[:0] if isinstance(value, torch.Tensor) else value for name, value in batch.items()}

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        queries = [
            to_item(row["query"], f"Row {place}: query", self.instructions.get(row.get("source")))
            for place, row in enumerate(rows)
        ]
        documents = [to_item(row["positive"], f"Row {place}: positive") for place, row in enumerate(rows)]
        owners = list(range(len(rows)))
        for place, row in enumerate(rows):
            negatives = row.get("negatives") or []
            documents += [to_item(item, f"Row {place}: negative {n}") for n, item in enumerate(negatives)]
            owners += [place] * len(negatives)
        unique = {one.key: one for one in [*queries, *documents]}
        number = {key: n for n, key in enumerate(unique)}
        batch = self.processor.process([one.messages for one in unique.values()], **self.options)
        images_per_row = torch.tensor([one.num_images for one in unique.values()])
        sources = [row.get("source") for row in rows]
        more = {} if self.dialogues is None else {"dialogues": collate_dialogues(rows, self.dialogues)}
        return {
            **more,
            "inputs": PackedInputs.from_batch(batch, images_per_row),
            "queries": torch.tensor([number[one.key] for one in queries]),
            "documents": torch.tensor([number[one.key] for one in documents]),
            "owners": torch.tensor(owners),
            "asked_keys": torch.tensor([one.key for one in queries]),
            "query_keys": torch.tensor([one.content for one in queries]),
            "document_keys": torch.tensor([one.content for one in documents]),
            "sources": torch.tensor([content_key(source) for source in sources]),
            "groups": torch.tensor([content_key(row.get("group")) for row in rows]),
            "restricted": torch.tensor([source in self.own_negatives_only for source in sources]),
        }
