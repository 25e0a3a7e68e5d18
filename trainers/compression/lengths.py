"""Lengths of the rows of stage 1 in tokens, known before an image is decoded, for batches of similar length."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets

from modeling_coma import ComaProcessor
from trainers.data.images import without_decoding
from trainers.data.items import to_compression_input
from trainers.data.schema import check_messages
from trainers.encoding.encode import token_lengths


__all__ = ["add_lengths"]


def add_lengths(
    dataset: Dataset,
    processor: ComaProcessor,
    max_length: int | None = None,
    dialogue_max_length: int = 8192,
    compression_instruction: bool = True,
    column: str = "length",
    num_proc: int | None = None,
) -> Dataset:
    r"""
    Adds a column with the tokens of the input and of the dialogue of every row. Texts are tokenized in batches; of
    images only the sizes in their headers are read.

    Args:
        dataset (`Dataset`):
            Rows of stage 1.
        processor ([`ComaProcessor`]):
            The processor of the model.
        max_length, dialogue_max_length, compression_instruction:
            As in [`ComaCompressionConfig`].
        column (`str`, *optional*, defaults to `"length"`):
            Name of the new column; the `length_column_name` of the settings.
        num_proc (`int`, *optional*):
            Processes that share the work.

    Returns:
        `Dataset`: the same with the column, a list of two numbers per row. What cannot be read has length 0; it is
        reported, by its number, when it comes into a batch.
    """
    processor = copy.copy(processor)
    limit, processor.max_length = max_length or processor.max_length, None
    lengths = without_decoding(dataset).map(
        _lengths,
        batched=True,
        remove_columns=dataset.column_names,
        features=Features({column: List(Value("int64"))}),
        fn_kwargs={
            "processor": processor,
            "limits": (limit, dialogue_max_length),
            "compression_instruction": compression_instruction,
            "column": column,
        },
        num_proc=num_proc,
        desc="Counting tokens",
    )
    return concatenate_datasets([dataset, lengths], axis=1)


def _lengths(
    batch: dict[str, list],
    processor: ComaProcessor,
    limits: tuple[int | None, int],
    compression_instruction: bool,
    column: str,
) -> dict[str, list[list[int]]]:
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    inputs = _readable(rows, lambda row: to_compression_input(row, 0))
    lengths = np.zeros((len(rows), 2), dtype=np.int64)
    if inputs:
        lengths[list(inputs), 0] = token_lengths(processor, list(inputs.values()))
    if compression_instruction:
        with_image, without = (
            len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
            for text in (processor.image_instruction, processor.text_instruction)
        )
        for place, item in inputs.items():
            lengths[place, 0] += with_image if "image" in item else without
    dialogues = _readable(rows, lambda row: check_messages(row.get("messages")) or row["messages"])
    if dialogues:
        lengths[list(dialogues), 1] = _dialogue_lengths(processor, list(dialogues.values()))
    limits = [np.iinfo(np.int64).max if limit is None else limit for limit in limits]
    return {column: np.minimum(lengths, limits).tolist()}


def _readable(rows: list[dict], read: Any) -> dict[int, Any]:
    """By place, what is read of those rows of which it can be read."""
    found = {}
    for place, row in enumerate(rows):
        try:
            found[place] = read(row)
        except ValueError:  # it is reported, with its row, when it comes into a batch
            continue
    return found


def _dialogue_lengths(processor: ComaProcessor, dialogues: list[list[dict]]) -> list[int]:
    try:
        return [len(ids) for ids in processor.process_dialogues(dialogues)["input_ids"]]
    except ValueError:  # some of them have tokens that belong to inputs
        found = _readable(dialogues, lambda messages: len(processor.process_dialogues([messages])["input_ids"][0]))
        return [found.get(place, 0) for place in range(len(dialogues))]
