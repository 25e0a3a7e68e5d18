"""Rows of stage 1 to tensors: inputs that end with compression tokens, and dialogues with their answers labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

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
        self.options = {"compression_instruction": compression_instruction}
        if max_length is not None:
            self.options["max_length"] = max_length
        self.dialogue_max_length = dialogue_max_length
        self.bad_rows = BadRows(on_bad_row)

    @classmethod
    def of(cls, processor: ComaProcessor, args: ComaCompressionConfig) -> ComaCompressionCollator:
        """The collator that a trainer with these settings makes for itself, with a caching processor for instance."""
        return cls(processor, args.max_length, args.dialogue_max_length, args.compression_instruction, args.on_bad_row)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch, turns_cut = self.bad_rows.apply(self.collate, rows, self._nothing)
        self.bad_rows.count_cut(turns_cut)
        return batch

    def _nothing(self) -> tuple[dict[str, torch.Tensor], int]:
        """A batch of one row of which nothing is trained on: other processes may have some that count."""
        turns = [{"role": "user", "content": "nothing"}, {"role": "assistant", "content": "nothing"}]
        batch, _ = self.collate([{"images": [], "text": "nothing", "messages": turns}])
        return {**batch, "labels": torch.full_like(batch["labels"], -100)}, 0

    def collate(self, rows: list[dict[str, Any]]) -> tuple[dict[str, torch.Tensor], int]:
        """The batch, and how many turns of its dialogues were left out."""
        inputs = [to_compression_input(row, place) for place, row in enumerate(rows)]
        batch = self.processor.process(inputs, **self.options)
        for row in rows:
            check_messages(row.get("messages"))
        dialogues = self.processor.process_dialogues([row["messages"] for row in rows])
        cut = [
            self._cut(np.array(ids), np.array(mask, dtype=bool), place)
            for place, (ids, mask) in enumerate(zip(dialogues["input_ids"], dialogues["assistant_masks"], strict=True))
        ]
        dialogue = _pad([(ids, answers) for ids, answers, _ in cut], self.processor.tokenizer.pad_token_id)
        return {**batch, **dialogue}, sum(turns for *_, turns in cut)

    def _cut(self, ids: np.ndarray, answers: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray, int]:
        """A dialogue up to the last answer that ends within the limit, and how many answers are left out."""
        if len(ids) <= self.dialogue_max_length:
            return ids, answers, 0
        ends = np.flatnonzero(answers & ~np.append(answers[1:], False)) + 1
        fitting = ends[ends <= self.dialogue_max_length]
        if not len(fitting):
            raise ValueError(
                f"Row {row}: its first answer ends at token {ends[0]} of the dialogue, beyond "
                f"dialogue_max_length={self.dialogue_max_length}."
            )
        return ids[: fitting[-1]], answers[: fitting[-1]], len(ends) - len(fitting)


def _pad(rows: list[tuple[np.ndarray, np.ndarray]], pad_token_id: int) -> dict[str, torch.Tensor]:
    ids = np.full((len(rows), max(len(tokens) for tokens, _ in rows)), pad_token_id)
    mask, labels = np.zeros_like(ids), np.full_like(ids, -100)
    for row, (tokens, answers) in enumerate(rows):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        labels[row, : len(tokens)] = np.where(answers, tokens, -100)
    dialogue = {"dialogue_input_ids": ids, "dialogue_attention_mask": mask, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in dialogue.items()}
