"""Images that were made apart are put together as if they had been made at once."""

import numpy as np
import pytest

from modeling_coma.images_coma import join_images


@pytest.fixture
def whole():
    return np.random.default_rng(0).random((10, 6))


def dicts(parts):
    return [{"pixel_values": part} for part in parts]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [0, 2], [1, 2], [0, 1], [0, 1, 2, 2], [1]])
def test_parts_of_an_array_are_joined_in_the_order_given(whole, order):
    parts = np.split(whole, [2, 7])
    parts = [parts[number] for number in order]
    assert np.array_equal(join_images(dicts(parts), {"pixel_values": 0})["pixel_values"], np.concatenate(parts))


def test_all_parts_in_their_order_are_not_copied(whole):
    joined = join_images(dicts(np.split(whole, [2, 7])), {"pixel_values": 0})["pixel_values"]
    assert joined is whole


def test_parts_of_other_arrays_and_of_columns_are_copied(whole):
    columns = np.split(whole, 3, axis=1)
    for parts, axis in (([whole[:2], whole[2:].copy()], 0), (columns, 1), (columns, 0), (np.split(whole.T, 3), 0)):
        joined = join_images(dicts(parts), {"pixel_values": axis})["pixel_values"]
        assert np.array_equal(joined, np.concatenate(parts, axis)) and joined.base is None


def test_smaller_ones_are_followed_by_zeros():
    images = [{"a": np.full((1, 2, 3), 1)}, {"a": np.full((2, 4, 1), 2)}]
    joined = join_images(images, {"a": 0})["a"]
    assert joined.shape == (3, 4, 3)
    assert np.array_equal(joined[:1, :2], images[0]["a"]) and np.array_equal(joined[1:, :, :1], images[1]["a"])
    assert joined.sum() == 6 + 16
