"""A caching processor makes what the processor makes, and preprocesses each image once."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from modeling_coma import ComaProcessor
from trainers.contrastive.collator import ComaContrastiveCollator
from trainers.data.images import image_key, without_decoding
from trainers.data.pixel_cache import CachingProcessor
from trainers.data.schema import PAIR_FEATURES


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen3_vl"], indirect=True)
def test_equals_the_processor(coma: tuple, mixed_inputs: list[Any]) -> None:
    _, processor = coma
    caching = CachingProcessor.of(processor)
    for inputs in (mixed_inputs, mixed_inputs[::-1], mixed_inputs[:1], mixed_inputs[2:5] * 2):
        expected, found = processor.process(inputs), caching.process(inputs)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len(caching.pixels) == 3


def test_each_picture_is_preprocessed_once(make_coma: Callable, picture: Callable) -> None:
    _, processor = make_coma()
    seen: list[Any] = []
    image_processor = processor.image_processor.preprocess
    processor.image_processor.preprocess = lambda images, *args, **kwargs: (
        seen.extend(images),
        image_processor(images, *args, **kwargs),
    )[1]
    caching = CachingProcessor.of(processor)
    pictures = [picture(28, 28, n) for n in (1, 2, 1, 3, 2)]
    caching.fill(pictures, batch_size=2)
    caching.fill(pictures)
    caching.process([*pictures, picture(28, 28, 3)])
    assert len(seen) == 3
    larger = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    assert caching.process(pictures[:1], images_kwargs={"size": larger})["image_grid_thw"].tolist() == [[1, 4, 4]]
    assert caching.process(pictures[:1])["image_grid_thw"].tolist() == [[1, 2, 2]]


def test_workers_fill_the_same(make_coma: Callable, picture: Callable) -> None:
    _, processor = make_coma()
    pictures = [picture(28 + 28 * n, 56, n) for n in range(4)]
    here, there = CachingProcessor.of(processor), CachingProcessor.of(processor)
    here.fill(pictures)
    there.fill(pictures, num_workers=1, batch_size=3)
    assert here.pixels.keys() == there.pixels.keys()
    for key, made in here.pixels.items():
        assert made.keys() == there.pixels[key].keys() > processor.image_inputs.keys()
        assert all(np.array_equal(array, there.pixels[key][name]) for name, array in made.items())


def test_keys_tell_contents_apart(picture: Callable, tmp_path: Path) -> None:
    image, buffer = picture(28, 56, 1), BytesIO()
    image.save(buffer, "PNG")
    different = [image, picture(56, 28, 1), picture(28, 56, 2), image.convert("L"), buffer.getvalue(), b"", "a.png"]
    keys = [image_key(one) for one in different]
    assert len(set(keys)) == len(keys)
    assert image_key(image) == image_key(image.copy()) == image_key(np.asarray(image))
    assert image_key(str(tmp_path / "a.png")) == image_key(tmp_path / "a.png") != image_key(tmp_path / "b.png")


def test_palette_and_orientation_are_part_of_the_content(picture: Callable) -> None:
    first = picture(28, 28).convert("P")
    other, turned = first.copy(), picture(28, 28)
    other.putpalette([255 - value for value in first.getpalette()])
    turned.getexif()[0x0112] = 3
    assert image_key(first) != image_key(other)
    assert image_key(turned) != image_key(picture(28, 28))


def test_a_bad_picture_is_named(make_coma: Callable, picture: Callable) -> None:
    caching = CachingProcessor.of(make_coma()[1])
    with pytest.raises(ValueError, match="Row 1: cannot decode"):
        caching.process([picture(28, 28), {"image": b"no"}, picture(28, 28)])


def test_all_pictures_of_a_data_set_are_kept_and_bad_ones_left_to_the_collator(
    make_coma: Callable, contrastive_rows: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = contrastive_rows("image", 5)
    rows[3]["positive"]["image"] = rows[0]["query"]["image"]
    dataset = Dataset.from_list(rows, features=PAIR_FEATURES)
    stored = without_decoding(dataset).to_list()
    stored[1]["query"]["image"]["bytes"] = b"no image"
    caching = CachingProcessor.of(make_coma()[1])
    caching.fill_from(Dataset.from_list(stored, features=dataset.features), num_workers=1)
    pictures = {one["bytes"] for row in stored for one in [row[side]["image"] for side in ("query", "positive")]}
    pictures |= {item["image"]["bytes"] for row in stored for item in row["negatives"]}
    assert len(caching.pixels) == len(pictures) - 1
    with pytest.raises(ValueError, match=r"Row 1 of the data set is bad: column query\.image: found 8 bytes"):
        ComaContrastiveCollator(caching)(stored)
    monkeypatch.setattr(ComaProcessor, "process_images", lambda *_: pytest.fail("preprocessed again"))
    assert len(ComaContrastiveCollator(caching)(stored[2:])["queries"]) == 3
    with pytest.raises(ValueError, match="images of a stream cannot be kept"):
        caching.fill_from(dataset.to_iterable_dataset())
