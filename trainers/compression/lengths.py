"""Lengths of the rows of stage 1 in tokens, known before an image is decoded, for batches of similar length."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

from datasets import Dataset, Features, List, Value, concatenate_datasets

from modeling_coma import ComaProcessor
from trainers.data.images import without_decoding
from trainers.data.items import to_compression_input
from trainers.data.schema import check_messages
from trainers.encoding.tokenize import token_lengths


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
    images and videos only the headers are read.

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
    instructions = (processor.text_instruction, processor.image_instruction)
    unlimited = copy.copy(processor)
    unlimited.max_length = None
    lengths = without_decoding(dataset).map(
        _lengths,
        batched=True,
        remove_columns=dataset.column_names,
        features=Features({column: List(Value("int64"))}),
        fn_kwargs={
            "processor": unlimited,
            "instructions": [_num_tokens(processor, text) if compression_instruction else 0 for text in instructions],
            "limits": (max_length or processor.max_length or math.inf, dialogue_max_length),
            "column": column,
        },
        num_proc=num_proc,
        desc="Counting tokens",
    )
    return concatenate_datasets([dataset, lengths], axis=1)


def _lengths(
    batch: dict[str, list], processor: ComaProcessor, instructions: list[int], limits: tuple[float, int], column: str
) -> dict[str, list[list[int]]]:
    def of_inputs(rows: list[dict]) -> list[int]:
        items = [to_compression_input(row, 0) for row in rows]
        lengths = token_lengths(processor, items).tolist()
        shown = [any(block["type"] != "text" for block in item[0]["content"]) for item in items]
        return [length + instructions[is_shown] for length, is_shown in zip(lengths, shown, strict=True)]

    def of_dialogues(rows: list[dict]) -> list[int]:
        for row in rows:
            check_messages(row.get("messages"))
        return [len(ids) for ids in processor.process_dialogues([row["messages"] for row in rows])["input_ids"]]

    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    pairs = zip(_counted(of_inputs, rows), _counted(of_dialogues, rows), strict=True)
    return {column: [[min(length, limit) for length, limit in zip(pair, limits, strict=True)] for pair in pairs]}


def _counted(count: Callable[[list[dict]], list[int]], rows: list[dict]) -> list[int]:
    """Lengths of rows; 0 for one that cannot be read, which is reported, by its number, when it comes into a batch."""
    try:
        return count(rows)
    except ValueError:
        return [0] if len(rows) == 1 else [_counted(count, [row])[0] for row in rows]


def _num_tokens(processor: ComaProcessor, text: str) -> int:
    return len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
