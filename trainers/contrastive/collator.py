"""Rows of stage 2 to one packed batch, in which nothing is encoded twice, and the relations between its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from modeling_coma import ComaProcessor
from trainers.contrastive.packing import PackedInputs
from trainers.data.items import content_key, to_item
from trainers.data.rows import BadRows


if TYPE_CHECKING:  # it loads the settings of the HF `Trainer`, and with them PEFT
    from trainers.contrastive.config import ComaContrastiveConfig


__all__ = ["ComaContrastiveCollator"]


class ComaContrastiveCollator:
    r"""
    Rows of stage 2 to tensors. Documents are the positives of all rows, then their hard negatives; equal inputs (class
    names, captions, images) are packed once, whichever side they are on.

    A row has `query`, `positive` and maybe `negatives` (a list), each `{"text": str | None, "image": image, list of
    images or None, "video": video or None}`; maybe a `source`, and a `group`: rows of one group have each other's
    positives as theirs, and so have rows whose queries are equal, instruction included.

    Args:
        processor ([`ComaProcessor`]):
            The processor of the model.
        max_length, instructions, own_negatives_only, on_bad_row:
            As in [`ComaContrastiveConfig`].

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
        on_bad_row: Literal["raise", "skip"] = "raise",
    ) -> None:
        self.processor = processor
        self.options = {"return_images": True} | ({} if max_length is None else {"max_length": max_length})
        self.instructions = instructions or {}
        self.own_negatives_only = set(own_negatives_only or ())
        self.bad_rows = BadRows(on_bad_row)

    @classmethod
    def of(cls, processor: ComaProcessor, args: ComaContrastiveConfig) -> ComaContrastiveCollator:
        """The collator that a trainer with these settings makes for itself, with a caching processor for instance."""
        return cls(
            processor,
            max_length=args.max_length,
            instructions=args.instructions,
            own_negatives_only=args.own_negatives_only,
            on_bad_row=args.on_bad_row,
        )

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return self.bad_rows.apply(self.collate, rows, self._nothing)

    def _nothing(self) -> dict[str, Any]:
        """A batch of no pairs, with an input that is embedded in vain: other processes may have some."""
        batch = self.collate([{"query": {"text": "nothing"}, "positive": {"text": "nothing"}}])
        return {name: value[:0] if isinstance(value, torch.Tensor) else value for name, value in batch.items()}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of rows of which none is bad."""
        queries, documents = [], []
        for row_idx, row in enumerate(rows):
            instruction = self.instructions.get(row.get("source"))
            queries.append(to_item(row["query"], f"Row {row_idx}: query", instruction))
            documents.append(to_item(row["positive"], f"Row {row_idx}: positive"))
        owners = list(range(len(rows)))
        for row_idx, row in enumerate(rows):
            for number, item in enumerate(row.get("negatives") or []):
                documents.append(to_item(item, f"Row {row_idx}: negative {number}"))
                owners.append(row_idx)
        unique = {item.key: item for item in [*queries, *documents]}
        number_of = {key: number for number, key in enumerate(unique)}
        batch = self.processor.process([item.messages for item in unique.values()], **self.options)
        sources = [row.get("source") for row in rows]
        return {
            "inputs": PackedInputs.from_batch(batch, self.processor),
            "queries": torch.tensor([number_of[item.key] for item in queries]),
            "documents": torch.tensor([number_of[item.key] for item in documents]),
            "owners": torch.tensor(owners),
            "asked_keys": torch.tensor([item.key for item in queries]),
            "query_keys": torch.tensor([item.content for item in queries]),
            "document_keys": torch.tensor([item.content for item in documents]),
            "sources": torch.tensor([content_key(source) for source in sources]),
            "groups": torch.tensor([content_key(row.get("group")) for row in rows]),
            "restricted": torch.tensor([source in self.own_negatives_only for source in sources]),
        }
