"""What is kept of a vector, and how far from it is what is read again."""

from collections.abc import Callable

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

from hub_scripts.embedding.precision import VectorForm, bytes_of, cut_vectors


def read_again(vectors: np.ndarray, form: VectorForm) -> np.ndarray:
    return form.decode(form.encode(vectors)[0]).numpy()


def test_float32_is_what_was_written(clustered: Callable) -> None:
    vectors = 3 * clustered(50, 24)  # whatever their length
    assert np.array_equal(read_again(vectors, VectorForm(24)), vectors)


def test_float16_is_as_near_as_its_numbers(clustered: Callable) -> None:
    vectors = clustered(50, 24)
    found = read_again(vectors, VectorForm(24, "float16"))
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert 0 < np.abs(found - vectors).max() < 2**-10


@pytest.mark.parametrize("precision", ["int8", "ubinary"])
def test_int8_is_half_a_step_away_at_most(clustered: Callable, precision: str) -> None:
    vectors = clustered(500, 24)
    form = VectorForm(24, precision)
    for some in (vectors[:200], vectors[200:200], vectors[200:]):
        form = form.widened(some)
    assert np.array_equal(form.ranges, [vectors.min(0), vectors.max(0)])
    found = read_again(vectors, form)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    away = np.linalg.norm((form.ranges[1] - form.ranges[0]) / 255 / 2)  # the longest difference before normalising
    assert 0 < np.linalg.norm(found - vectors, axis=1).max() < away


def test_codes_are_those_of_sentence_transformers(clustered: Callable) -> None:
    vectors = clustered(90, 20)
    form = VectorForm(20, "ubinary").widened(vectors)
    codes, signs = form.encode(vectors)
    assert np.array_equal(bytes_of(codes).view(np.int8), quantize_embeddings(vectors, "int8", ranges=form.ranges))
    assert np.array_equal(bytes_of(signs), quantize_embeddings(vectors, "ubinary")) and bytes_of(signs).shape == (
        90,
        3,
    )
    assert np.array_equal(bytes_of(codes.slice(7, 30)), bytes_of(codes)[7:37])


def test_one_row_has_no_range_and_is_read_as_it_was(clustered: Callable) -> None:
    vectors = clustered(1, 24)
    form = VectorForm(24, "int8").widened(vectors)
    assert np.allclose(read_again(vectors, form), vectors, atol=1e-6)


def test_vectors_are_cut_to_their_first_numbers_and_have_length_1(clustered: Callable) -> None:
    vectors = clustered(9, 24)
    assert cut_vectors(vectors, 24) is vectors
    cut = cut_vectors(vectors, 5)
    assert cut.dtype == np.float32 and np.allclose(np.linalg.norm(cut, axis=1), 1)
    assert np.allclose(cut / cut[:, :1], vectors[:, :5] / vectors[:, :1], rtol=1e-4)
