"""Rows of stage 1 to tensors: inputs that end with compression tokens, and dialogues with their answers labelled."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from modeling_coma import ComaProcessor
from trainers.data.items import to_compression_input
from trainers.data.rows import BadRows
from trainers.data.schema import check_messages


if TYPE_CHECKING:  # it loads the settings of the HF `Trainer`, and with them PEFT
    from trainers.compression.config import ComaCompressionConfig


__all__ = ["ComaCompressionCollator"]


class ComaCompressionCollator:
    r"""
    Rows of stage 1 to the arguments of [`ComaForEmbedding`]. Inputs are padded on the left, dialogues on the right.

    A row has `images` (a list), `text` (or `None`) and `messages`, which end with an answer. Labels are the tokens of
    all answers with their end of turn; a dialogue over its limit loses its last turns.

    Args:
        processor ([`ComaProcessor`]):
            The processor of the model.
        max_length, dialogue_max_length, compression_instruction, on_bad_row:
            As in [`ComaCompressionConfig`].

    Example:

        With K = 2 compression tokens, an image of one token and no instruction, in readable form:

        ```
        {"images": [image], "text": None, "messages": [{"role": "user", "content": "What?"},
                                                       {"role": "assistant", "content": "A cat."}]}
        ->
        input_ids           <|vision_start|> <|image_pad|> <|vision_end|> <|ctoken_pad_0|> <|ctoken_pad_1|>
        dialogue_input_ids  <|im_start|> user \n What ? <|im_end|> \n <|im_start|> assistant \n A cat . <|im_end|> \n
        labels              -100 …                                                              A cat . <|im_end|> -100
        ```
    """

    def __init__(
        self,
        processor: ComaProcessor,
        max_length: int | None = None,
        dialogue_max_length: int = 8192,
        compression_instruction: bool = True,
        on_bad_row: Literal["raise", "skip"] = "raise",
    ) -> None:
        self.processor = processor
        self.options = {"compression_instruction": compression_instruction, "return_images": True}
        if max_length is not None:
            self.options["max_length"] = max_length
        self.dialogue_max_length = dialogue_max_length
        self.bad_rows = BadRows(on_bad_row)
        self.counts_images = False

    @classmethod
    def of(cls, processor: ComaProcessor, args: ComaCompressionConfig) -> ComaCompressionCollator:
        """The collator that a trainer with these settings makes for itself, with a caching processor for instance."""
        return cls(processor, args.max_length, args.dialogue_max_length, args.compression_instruction, args.on_bad_row)

    def counting_images(self) -> ComaCompressionCollator:
        """The same, whose batches have `num_images`, too: whoever uses it takes that out before the model."""
        counting = copy.copy(self)
        counting.counts_images = True
        return counting

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch, turns_cut = self.bad_rows.apply(self.collate, rows, self._nothing)
        self.bad_rows.count_cut(turns_cut)
        seen = sum(len(of_row) for kind in ("images", "videos") for of_row in batch.pop(kind))
        return {**batch, "num_images": torch.tensor(seen)} if self.counts_images else batch

    def _nothing(self) -> tuple[dict[str, Any], int]:
        """A batch of one row of which nothing is trained on: other processes may have some that count."""
        turns = [{"role": "user", "content": "nothing"}, {"role": "assistant", "content": "nothing"}]
        batch, _ = self.collate([{"images": [], "text": "nothing", "messages": turns}])
        return {**batch, "labels": torch.full_like(batch["labels"], -100)}, 0

    def collate(self, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], int]:
        """The batch, with what the processor made of each of its `images`, and how many turns of its dialogues were
        left out."""
        inputs = [to_compression_input(row, place) for place, row in enumerate(rows)]
        batch = dict(self.processor.process(inputs, **self.options))
        for row in rows:
            check_messages(row.get("messages"))
        dialogues = self.processor.process_dialogues([row["messages"] for row in rows])
        ids, labels, turns_cut = [], [], 0
        for place, (tokens, mask) in enumerate(zip(dialogues["input_ids"], dialogues["assistant_masks"], strict=True)):
            tokens, is_answer = np.array(tokens), np.array(mask, dtype=bool)
            length, turns = self._length(is_answer, place)
            ids.append(torch.from_numpy(tokens[:length]))
            labels.append(torch.from_numpy(np.where(is_answer, tokens, -100)[:length]))
            turns_cut += turns
        batch |= {
            "dialogue_input_ids": _pad(ids, self.processor.tokenizer.pad_token_id),
            "dialogue_attention_mask": _pad([torch.ones_like(tokens) for tokens in ids], 0),
            "labels": _pad(labels, -100),
        }
        return batch, turns_cut

    def _length(self, is_answer: np.ndarray, row: int) -> tuple[int, int]:
        """Tokens of a dialogue up to the last answer that ends within the limit, and how many answers are left out."""
        if len(is_answer) <= self.dialogue_max_length:
            return len(is_answer), 0
        ends = np.flatnonzero(is_answer & ~np.append(is_answer[1:], False)) + 1
        fitting = ends[ends <= self.dialogue_max_length]
        if not len(fitting):
            raise ValueError(
                f"Row {row}: its first answer ends at token {ends[0]} of the dialogue, beyond "
                f"dialogue_max_length={self.dialogue_max_length}."
            )
        return int(fitting[-1]), len(ends) - len(fitting)


def _pad(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)
