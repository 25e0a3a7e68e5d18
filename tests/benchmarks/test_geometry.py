"""Geometry of embeddings: closed forms, and slow oracles."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.emoji_study import geometry
from benchmarks.emoji_study.geometry import alignment, anisotropy, effective_rank, token_similarity, uniformity


@pytest.fixture
def embeddings() -> torch.Tensor:
    return torch.randn(50, 8, generator=torch.Generator().manual_seed(0))


def test_pairs_in_one_place_are_aligned_and_opposite_ones_are_not(embeddings):
    assert alignment(embeddings, 3 * embeddings) == pytest.approx(0, abs=1e-6)  # lengths do not matter
    assert alignment(embeddings, -embeddings) == pytest.approx(4)


def test_uniformity_of_two_orthogonal_vectors():
    assert uniformity(torch.eye(2)) == pytest.approx(-4)  # squared distance 2, t = 2
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("chunk", [7, 64])
def test_uniformity_in_chunks_is_that_of_all_pairs(embeddings, chunk, monkeypatch):
    monkeypatch.setattr(geometry, "CHUNK", chunk)
    distances = torch.pdist(F.normalize(embeddings, dim=-1))
    assert uniformity(embeddings) == pytest.approx(distances.square().mul(-2).exp().mean().log().item(), abs=1e-4)
    pairs = F.normalize(embeddings, dim=-1).sub(F.normalize(embeddings.flip(0), dim=-1)).square().sum(dim=1).mean()
    assert alignment(embeddings, embeddings.flip(0)) == pytest.approx(pairs.item(), abs=1e-5)


def test_anisotropy_is_the_mean_cosine_of_different_rows(embeddings):
    unit = F.normalize(embeddings, dim=-1)
    cosines = (unit @ unit.T)[~torch.eye(50, dtype=torch.bool)]
    assert anisotropy(embeddings) == pytest.approx(cosines.mean().item(), abs=1e-6)
    assert anisotropy(torch.ones(4, 3)) == pytest.approx(1)


def test_effective_rank_counts_dimensions():
    assert effective_rank(torch.eye(6)) == pytest.approx(6, abs=1e-4)
    assert effective_rank(torch.ones(6, 4)) == pytest.approx(1, abs=1e-2)


def test_compression_tokens_alike_and_different():
    states = torch.eye(3).expand(5, 3, 3)
    torch.testing.assert_close(token_similarity(states), torch.eye(3))
    torch.testing.assert_close(token_similarity(torch.ones(5, 3, 2)), torch.ones(3, 3))
    half = token_similarity(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]))
    assert half[0, 1].item() == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("measure", [uniformity, anisotropy, effective_rank])
def test_one_row_says_nothing(measure):
    with pytest.raises(ValueError, match=r"two rows or more, not \(1, 4\)"):
        measure(torch.ones(1, 4))


def test_pairs_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="num_pairs, dim"):
        alignment(torch.ones(2, 4), torch.ones(3, 4))
