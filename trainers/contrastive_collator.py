"""Rows of stage 2 to one packed batch, in which nothing is encoded twice, and the relations between its parts."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import torch

from modeling_coma import ComaProcessor
from trainers.compression_collator import ComaCompressionCollator
from trainers.contrastive_config import ComaContrastiveConfig
from trainers.joint import collate_dialogues
from trainers.packing import PackedInputs
from trainers.pixel_cache import image_key
from trainers.rows import BadRows, as_image


__all__ = ["ComaContrastiveCollator", "ContrastiveInput", "as_input", "content_key"]


class ContrastiveInput(NamedTuple):
    """One query or document as chat messages, the pictures in it, and 63-bit keys, with and without instruction."""

    messages: list[dict]
    num_images: int
    key: int
    content: int


class ComaContrastiveCollator:
    r"""
    Rows of stage 2 to tensors. Documents are the positives of all rows, then their hard negatives; equal inputs (class
    names, captions, pictures) are packed once, whichever side they are on.

    A row has `query`, `positive` and maybe `negatives` (a list), each `{"text": str | None, "image": picture, list of
    pictures or None}`; maybe a `source`, and a `group`: rows of one group have each other's positives as theirs, and
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
            as_input(row["query"], f"Row {place}: query", self.instructions.get(row.get("source")))
            for place, row in enumerate(rows)
        ]
        documents = [as_input(row["positive"], f"Row {place}: positive") for place, row in enumerate(rows)]
        owners = list(range(len(rows)))
        for place, row in enumerate(rows):
            negatives = row.get("negatives") or []
            documents += [as_input(item, f"Row {place}: negative {n}") for n, item in enumerate(negatives)]
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


def as_input(item: Any, where: str, instruction: str | None = None) -> ContrastiveInput:
    """A query or document of a row; pictures come before the text, as in the official recipe."""
    if not isinstance(item, dict) or not item.keys() <= {"text", "image"}:
        raise ValueError(f'{where} must be {{"text": …, "image": …}}, got {str(item)[:80]!r}.')
    text, images = item.get("text"), item.get("image")
    images = [as_image(image) for image in (images if isinstance(images, list) else [images]) if image is not None]
    if not images and not (text and text.strip()):
        raise ValueError(f"{where} is empty: it has neither a text nor an image.")
    content = [{"type": "image", "image": image} for image in images]
    content += [{"type": "text", "text": text}] if text else []
    messages = [{"role": "user", "content": content}]
    key = "\0".join([*map(image_key, images), text or ""])
    if not instruction:
        return ContrastiveInput(messages, len(images), content_key(key), content_key(key))
    messages.insert(0, {"role": "system", "content": instruction})
    return ContrastiveInput(messages, len(images), content_key(f"{instruction}\0\0{key}"), content_key(key))


def content_key(content: str | None) -> int:
    """63 bits of a hash, the same on every process; -1 for nothing."""
    if content is None:
        return -1
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big") >> 1
