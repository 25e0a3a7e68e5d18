"""Rows of stage 1 to tensors: inputs that end with compression tokens, and dialogues with their answers labelled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from modeling_coma import ComaProcessor
from trainers.rows import BadRows, as_image


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
        labels              -100 … (11 times)                                                   A cat . <|im_end|> -100
        ```
    """

    def __init__(
        self,
        processor: ComaProcessor,
        max_length: int | None = None,
        dialogue_max_length: int = 8192,
        compression_instruction: bool = True,
        on_bad_row: str = "raise",
    ) -> None:
        self.processor = processor
        self.options = {"compression_instruction": compression_instruction}
        if max_length is not None:
            self.options["max_length"] = max_length
        self.dialogue_max_length = dialogue_max_length
        self.bad_rows = BadRows(on_bad_row)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return self.bad_rows.apply(self._collate, rows)

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        items = [{"image": [as_image(image) for image in row["images"] or []], "text": row["text"]} for row in rows]
        batch = self.processor.process([{k: v for k, v in item.items() if v} for item in items], **self.options)
        for place, row in enumerate(rows):
            _check_messages(row["messages"], place)
        dialogues = self.processor.process_dialogues([row["messages"] for row in rows])
        cut = [
            self._cut(np.array(ids), np.array(mask, dtype=bool), place)
            for place, (ids, mask) in enumerate(zip(dialogues["input_ids"], dialogues["assistant_masks"], strict=True))
        ]
        ids = np.full((len(rows), max(len(tokens) for tokens, _ in cut)), self.processor.tokenizer.pad_token_id)
        mask, labels = np.zeros_like(ids), np.full_like(ids, -100)
        for row, (tokens, answers) in enumerate(cut):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
            labels[row, : len(tokens)] = np.where(answers, tokens, -100)
        dialogue = {"dialogue_input_ids": ids, "dialogue_attention_mask": mask, "labels": labels}
        return {**batch, **{name: torch.from_numpy(array) for name, array in dialogue.items()}}

    def _cut(self, ids: np.ndarray, answers: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
        """A dialogue up to the last answer that ends within the limit."""
        if len(ids) <= self.dialogue_max_length:
            return ids, answers
        ends = np.flatnonzero(answers[:-1] & ~answers[1:]) + 1
        fitting = ends[ends <= self.dialogue_max_length]
        if not len(fitting):
            raise ValueError(
                f"Row {row}: its first answer ends at token {ends[0]} of the dialogue, beyond "
                f"dialogue_max_length={self.dialogue_max_length}."
            )
        self.bad_rows.count_cut(len(ends) - len(fitting))
        return ids[: fitting[-1]], answers[: fitting[-1]]


def _check_messages(messages: Any, row: int) -> None:
    roles = [message.get("role") for message in messages] if isinstance(messages, list) else None
    if not roles or roles[-1] != "assistant" or not set(roles) <= {"system", "user", "assistant"}:
        raise ValueError(
            f"Row {row}: `messages` must be a list of {{'role', 'content'}} that ends with an assistant's answer; its "
            f"roles are {roles}."
        )
    for message in messages:
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise ValueError(f"Row {row}: a message without text: {message}.")
