"""sentence-transformers gives the embeddings of the model itself, for every kind of input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from hub_scripts.sentence_transformers_files import write_sentence_transformers_files
from modeling_coma import ComaForEmbedding, ComaProcessor


PROMPT = "Find the thing in the picture."


@pytest.fixture(scope="module")
def inputs(picture: Callable[..., Image.Image]) -> list[Any]:
    wide, high = picture(84, 56, 1), picture(56, 112, 2)
    return [
        "a red apple",
        wide,
        {"text": "what is this?", "image": high},
        {"image": high},
        "an apple",
    ]


@pytest.fixture(scope="module")
def direct(coma_folder: Path) -> Callable[[list[Any]], np.ndarray]:
    model = ComaForEmbedding.from_pretrained(coma_folder)
    processor = ComaProcessor.from_pretrained(coma_folder)

    def embed(inputs: list[Any]) -> np.ndarray:
        with torch.no_grad():
            return model(**processor.process(inputs)).embeddings.numpy()

    return embed


@pytest.fixture(scope="module")
def loaded(coma_folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(coma_folder), device="cpu", trust_remote_code=True)


def test_encode_is_the_model(loaded: SentenceTransformer, inputs: list[Any], direct: Callable) -> None:
    expected = direct(inputs)
    for batch_size in (32, 2):
        assert np.abs(loaded.encode(inputs, batch_size=batch_size) - expected).max() < 1e-6
    # The other order of keys comes alone: sentence-transformers 6.0 gives all dicts of a batch the order of the first.
    alone = [*inputs, {"image": inputs[1], "text": "what is this?"}]
    for one, row in zip(alone, direct(alone), strict=True):
        assert np.abs(loaded.encode(one) - row).max() < 1e-6
    assert np.abs(loaded.encode_query(inputs) - expected).max() < 1e-6
    assert loaded.encode(inputs, truncate_dim=16).shape == (len(inputs), 16)


def test_a_prompt_is_the_line_before(loaded: SentenceTransformer, inputs: list[Any], direct: Callable) -> None:
    found = loaded.encode(inputs, prompt=PROMPT)
    before = [f"{PROMPT}\na red apple", {"text": f"{PROMPT}\n", "image": inputs[1]}]
    assert np.abs(found[:2] - direct(before)).max() < 1e-6
    assert np.abs(found - direct(inputs)).max(axis=1).min() > 1e-3


def test_saved_again_it_is_the_same(
    loaded: SentenceTransformer, inputs: list[Any], direct: Callable, tmp_path: Path
) -> None:
    loaded.save_pretrained(str(tmp_path))
    again = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    assert np.abs(again.encode(inputs) - direct(inputs)).max() < 1e-6


def test_prompts_are_written_and_not_overwritten(tmp_path: Path) -> None:
    prompts = {"query": "Find: "}
    assert len(write_sentence_transformers_files(tmp_path, prompts)) == 3
    assert write_sentence_transformers_files(tmp_path) == []
    saved = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert saved["prompts"] == {"query": "Find: ", "document": ""}
