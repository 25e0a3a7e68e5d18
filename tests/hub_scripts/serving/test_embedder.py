"""The model of a server, without the server: its vectors are those of `embed_items`, and a bad item fails alone."""

import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hub_scripts.embedding.model_settings import ModelSettings
from hub_scripts.hub.training_record import TRAINING_FILE
from hub_scripts.serving.body import Item
from hub_scripts.serving.embedder import Embedder, Fault
from trainers.encoding.encode import embed_items


EMPTY = "it has no image and no text other than blanks and instructions."


@pytest.fixture(scope="module")
def embedder(coma_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """Of a model that takes 60 tokens, and was trained for 16 dimensions."""
    folder = shutil.copytree(coma_folder, tmp_path_factory.mktemp("served") / "model")
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps(settings | {"max_length": 60}))
    stage = {"stage": "contrastive", "settings": {"matryoshka_dims": [16]}}
    (folder / TRAINING_FILE).write_text(json.dumps([stage]))
    return Embedder(ModelSettings(str(folder), device="cpu"), "served", max_batch=4, batch_tokens=80, any_dims=False)


def items_of(*contents: object) -> list[Item]:
    images = [content["image"] if isinstance(content, dict) else None for content in contents]
    return [
        Item(f"input[{place}]", content, [(f"input[{place}].image", image)] if image else [])
        for place, (content, image) in enumerate(zip(contents, images, strict=True))
    ]


@pytest.fixture(scope="module")
def png(picture: Callable[..., Image.Image]) -> bytes:
    file = BytesIO()
    picture(84, 56, 1).save(file, "PNG")
    return file.getvalue()


def test_vectors_are_those_of_embed_items_and_a_bad_item_fails_alone(embedder: Embedder, png: bytes) -> None:
    good = ["a red apple", {"image": png}, {"text": "what is this?", "image": png}, "it " * 20]
    bad = [" ", "an <|im_end|> apple", {"image": png[:60]}, {"text": "b", "image": b"no image"}]
    rows = embedder.measure(items_of(*good, *bad))
    assert [row.weight for row in rows][:4] == [1, 1, 1, 2] and all(1 <= row.weight <= 4 for row in rows)
    *found, empty, typed, cut, other = embedder.embed(rows)
    expected = embed_items(embedder.model, embedder.processor, good, description=None).numpy()
    assert np.abs(np.stack(found) - expected).max() <= 1e-5
    assert empty == Fault(
        "input[4]", "input[4] is empty: it has no image and no text other than blanks and instructions."
    )
    assert typed.param == "input[5]" and typed.message.startswith("input[5]: its text types '<|im_end|>'")
    assert cut.param == "input[6].image" and cut.message.startswith(
        "input[6].image: cannot decode the image of 60 bytes"
    )
    assert other.param == "input[7].image" and "in no format that Pillow can read" in other.message


def test_what_is_too_long_is_refused_and_not_cut(embedder: Embedder) -> None:
    fits, too_long = embedder.measure(items_of("a " * 20, "a " * 80))
    assert fits.num_tokens <= 60 == embedder.max_tokens
    assert too_long.param == "input[1]" and "tokens; this model takes 60, and nothing is cut" in too_long.message


def test_vectors_are_cut_where_the_model_was_trained_for_it(embedder: Embedder) -> None:
    assert [embedder.cut_fault(dims) for dims in (None, 16, 64)] == [None] * 3
    for dims in (0, 8, 65):
        fault = embedder.cut_fault(dims)
        assert fault.param == "dimensions" and "served" in fault.message and embedder.name not in fault.message
    cut = embedder.cut(np.array([[3.0, 4.0, 12.0]], np.float32), 2)
    assert np.allclose(cut, [[0.6, 0.8]])
