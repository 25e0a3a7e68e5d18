"""Fixtures of the model package: processors, rows to be read, and batches with dialogues."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from modeling_coma import ComaProcessor
from tests.checkpointing import set_checkpointing


@pytest.fixture
def processor(coma) -> ComaProcessor:
    """Of every backbone, one after the other."""
    return coma[1]


@pytest.fixture
def qwen(make_coma) -> ComaProcessor:
    """Of Qwen2.5-VL."""
    return make_coma("qwen2_5_vl")[1]


@pytest.fixture(scope="session")
def unpadded() -> Callable[[dict], list[list[int]]]:
    """`unpadded(batch)`: the ids of each row, without its padding."""

    def make(batch: dict) -> list[list[int]]:
        pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        return [np.asarray(ids)[np.asarray(mask) == 1].tolist() for ids, mask in pairs]

    return make


@pytest.fixture(scope="session")
def read() -> Callable[[ComaProcessor, list[int]], str]:
    """`read(processor, ids)`: the text of a row, with its runs of image tokens as one."""

    def make(processor: ComaProcessor, ids: list[int]) -> str:
        text = processor.tokenizer.decode(ids)
        while "<|image_pad|><|image_pad|>" in text:
            text = text.replace("<|image_pad|><|image_pad|>", "<|image_pad|>")
        return text

    return make


@pytest.fixture
def batch(coma, mixed_inputs, mixed_dialogues, pad) -> Callable[..., dict[str, torch.Tensor]]:
    """`batch(side, dialogue_side)`: a ragged batch of all kinds of rows with dialogues, padded on these sides."""
    _, processor = coma

    def make(side: str = "left", dialogue_side: str = "right") -> dict[str, torch.Tensor]:
        inputs = processor.process(mixed_inputs, padding_side=side, compression_instruction=True)
        return {**inputs, **pad(processor.process_dialogues(mixed_dialogues), dialogue_side)}

    return make


@pytest.fixture(scope="session")
def run() -> Callable[..., Any]:
    """`run(model, batch, checkpointing)`: the two passes, or with gradient checkpointing the one behind a mask."""

    def forward(model, batch: dict, checkpointing: bool):
        set_checkpointing(model.train(), checkpointing)
        return model(**batch)

    return forward
