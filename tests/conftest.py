"""Fixtures for every room: tiny backbones and CoMa models, built once per process, small images, padded dialogues.

Models and processors are handed out as copies: a test may do to its own what it likes.
"""

# Where torchvision is installed it must be importable before transformers looks for it.
import tests.families.torchvision_on_cpu  # noqa: F401


# isort: split
import copy
import functools
import gc
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

from hub_scripts.embedding.ray_cluster import ALONE
from hub_scripts.tiny.backbone import MODEL_TYPES, BackboneSizes, create_tiny_backbone
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.backbone import model_from_backbone


# What is compared is computed on the CPU, on machines with a GPU, too. `make test-gpu` names the device.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# Tests kill copies of this process while they draw a bar. The lock that bars have by default is one for all copies;
# whoever is killed with it would never give it back.
tqdm.set_lock(threading.RLock())

TEXTS = [
    "a red apple on a green tree, and a blue one below it",
    "what is this? it is an apple. what is around it? leaves, and a little sky",
    "Summarize above image and text in a few words. user assistant system",
] * 4

# What Qwen3-VL adds after its first layer needs two more layers to reach the memory of the compression tokens.
SIZES = BackboneSizes(num_hidden_layers=3)
Coma = tuple[ComaForEmbedding, ComaProcessor]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """
    Keeps the millions of objects of the libraries out of every search for garbage: each training begins with one, and
    it would take longer than the steps of a small model. Nothing is searched while they are made, either.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def make_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_backbone(model_type, **options of create_tiny_backbone)`: its folder, the same for the same options."""

    @functools.cache
    def make(model_type: str = "qwen2_5_vl", **options) -> Path:
        options = {"texts": TEXTS, "vocab_size": 400, "sizes": SIZES, **options}
        return create_tiny_backbone(tmp_path_factory.mktemp(model_type), model_type=model_type, **options)

    return make


@pytest.fixture(scope="session")
def make_coma(make_backbone: Callable[..., Path]) -> Callable[..., Coma]:
    """`make_coma(model_type, num_compression_tokens, **options of create_tiny_backbone)`: model and processor."""

    @functools.cache
    def make(model_type: str, num_compression_tokens: int, **options) -> Coma:
        return model_from_backbone(str(make_backbone(model_type, **options)), num_compression_tokens)

    def make_copy(model_type: str = "qwen2_5_vl", num_compression_tokens: int = 4, **options) -> Coma:
        return copy.deepcopy(make(model_type, num_compression_tokens, **options))

    return make_copy


# Qwen2-VL is Qwen2.5-VL with an older vision tower: what it varies is seen by `make test-slow`.
BACKBONES = [pytest.param(name, marks=pytest.mark.slow) if name == "qwen2_vl" else name for name in MODEL_TYPES]


@pytest.fixture(params=BACKBONES)
def model_type(request: pytest.FixtureRequest) -> str:
    """Every backbone, one after the other."""
    return request.param


@pytest.fixture
def coma(model_type: str, make_coma: Callable[..., Coma]) -> Coma:
    """A model with K = 4 on every backbone, one after the other, and its processor."""
    return make_coma(model_type)


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """`image(width, height, seed)`: coarse colourful squares, another image for every seed."""

    def draw(width: int = 56, height: int = 56, seed: int = 0) -> Image.Image:
        squares = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return Image.fromarray(squares).resize((width, height), Image.Resampling.NEAREST)

    return draw


@pytest.fixture(scope="session")
def mixed_inputs(picture: Callable[..., Image.Image]) -> list[Any]:
    """One row of every kind: texts, images, both in either order, several images, interleaved messages."""
    wide, high, small = picture(84, 56, 1), picture(56, 112, 2), picture(28, 28, 3)
    blocks = [{"type": "text", "text": "left "}, {"type": "image", "image": high}, {"type": "text", "text": " right"}]
    return [
        "a red apple",
        wide,
        {"image": high, "text": "what is this?"},
        {"text": "an apple and leaves below a little sky:", "image": wide},
        {"image": [small, wide, small]},
        [{"role": "system", "content": "Find it."}, {"role": "user", "content": [*blocks, *blocks[1:]]}],
        "it",
    ]


@pytest.fixture(scope="session")
def mixed_dialogues(mixed_inputs: list[Any]) -> list[list[dict[str, str]]]:
    """A ragged dialogue for every row of `mixed_inputs`."""
    turns = [("what is this?", "an apple"), ("what is around it?", "leaves, and a little sky"), ("red?", "no")]
    counts = [1, 3, 2, 1, 2, 3, 1]
    assert len(counts) == len(mixed_inputs)
    return [dialogue(turns[-count:]) for count in counts]


def dialogue(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    messages = [({"role": "user", "content": a}, {"role": "assistant", "content": b}) for a, b in turns]
    return [message for turn in messages for message in turn]


@pytest.fixture(scope="session")
def pad() -> Callable[..., dict[str, torch.Tensor]]:
    """`pad(rows of process_dialogues, side)`: `dialogue_input_ids`, `dialogue_attention_mask` and `labels`."""

    def make(rows: dict[str, list], side: str = "right") -> dict[str, torch.Tensor]:
        shape = (len(rows["input_ids"]), max(map(len, rows["input_ids"])))
        ids, mask = torch.full(shape, 7), torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, -100)
        for row, (tokens, is_answer) in enumerate(zip(rows["input_ids"], rows["assistant_masks"], strict=True)):
            place = slice(len(tokens)) if side == "right" else slice(shape[1] - len(tokens), None)
            ids[row, place], mask[row, place] = torch.tensor(tokens), 1
            labels[row, place] = torch.tensor(tokens).masked_fill(torch.tensor(is_answer) == 0, -100)
        return {"dialogue_input_ids": ids, "dialogue_attention_mask": mask, "labels": labels}

    return make


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A cluster of Ray with two processors on this machine, which this process is connected to."""
    os.environ.update(ALONE)
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    yield
    ray.shutdown()
