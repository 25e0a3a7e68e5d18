"""Batches of similar length: every row once, the budget kept, the same for every process."""

import doctest
from itertools import pairwise

import numpy as np
import pytest
import torch

import trainers.samplers
from trainers.samplers import LengthGroupedBatches, halve_largest, pack


RANDOM = np.random.default_rng(0)
LENGTHS = {
    "one part": RANDOM.integers(5, 400, 311),
    "two parts": np.stack([RANDOM.integers(40, 300, 311), RANDOM.integers(5, 200, 311)], axis=1),
    "all equal": np.full(50, 70),
}


def tokens_of(lengths, padded):
    """What some rows take, of lengths `(num_rows, num_parts)`."""
    return len(lengths) * lengths.max(axis=0).sum() if padded else lengths.sum()


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("longest_first", [True, False])
@pytest.mark.parametrize(("max_tokens", "max_rows"), [(700, None), (2048, 5), (None, 7), (None, None)])
def test_batches_are_full_and_no_fuller(lengths, padded, longest_first, max_tokens, max_rows):
    batches = pack(lengths, max_tokens, max_rows, longest_first=longest_first, padded=padded)
    parts = lengths.reshape(len(lengths), -1)
    order = [row for batch in batches for row in batch]
    assert order == (
        sorted(order, key=lambda row: (-parts[row].sum(), row)) if longest_first else list(range(len(lengths)))
    )

    def fits(batch):
        within = max_tokens is None or tokens_of(parts[batch], padded) <= max_tokens
        return within and len(batch) <= (max_rows or len(batch))

    assert all(batch and fits(batch) for batch in batches)
    assert not any(fits([*batch, following[0]]) for batch, following in pairwise(batches))


def test_a_row_that_is_too_long_is_a_batch_and_one_of_no_length_counts():
    assert pack([3, 50, 4], 10) == [[0], [1], [2]]
    assert pack([0, 0, 0], 2) == [[0, 1], [2]]
    assert pack([], 10) == [] == pack([], longest_first=True)


def test_the_largest_batches_are_halved():
    assert halve_largest([[1, 2, 3], [4]], 2) == [[1, 2, 3], [4]]
    assert halve_largest([[1, 2, 3], [4]], 4) == [[1], [2], [3], [4]]
    assert halve_largest([[5]], 3) == [[], [], [5]]


def test_the_example_of_the_documentation():
    assert doctest.testmod(trainers.samplers) == (0, 1)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("max_tokens", [None, 700, 2048])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_every_row_once_within_the_budget_and_as_many_batches_for_all(lengths, max_tokens, num_processes):
    batches = LengthGroupedBatches(lengths, 16, max_tokens, num_processes, seed=3)
    parts = lengths.reshape(len(lengths), -1)
    for epoch in range(3):
        batches.set_epoch(epoch)
        drawn = list(batches)
        assert len(drawn) == len(batches) and len(batches) % num_processes == 0
        assert sorted(row for batch in drawn for row in batch) == list(range(len(lengths)))
        assert all(1 <= len(batch) <= 16 for batch in drawn)
        if max_tokens is not None:
            assert all(len(batch) * parts[batch].max(axis=0).sum() <= max_tokens for batch in drawn)


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        batches = LengthGroupedBatches(LENGTHS["two parts"], 16, 2048, seed=seed)
        batches.set_epoch(epoch)
        torch.manual_seed(np.random.default_rng().integers(1000))
        return list(batches)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(2, 2)
    assert order(1, 2) != order(1, 3)
    assert {frozenset(batch) for batch in order(1, 2)} != {frozenset(batch) for batch in order(1, 3)}  # rows mix, too


@pytest.mark.parametrize("name", ["one part", "two parts"])
def test_there_is_less_padding_than_in_random_batches(name):
    lengths = LENGTHS[name].reshape(len(LENGTHS[name]), -1)

    def padded(batches):
        return sum(len(batch) * lengths[batch].max(axis=0).sum() for batch in batches) / lengths.sum()

    grouped = padded(list(LengthGroupedBatches(lengths, 8)))
    shuffled = padded(np.array_split(np.random.default_rng(1).permutation(len(lengths)), len(lengths) // 8))
    assert grouped < 1.35 and shuffled > 1.6


def test_what_cannot_be_kept_is_said():
    with pytest.raises(ValueError, match="Row 1 has 90 tokens, a batch may have 80: raise max_tokens_per_batch"):
        LengthGroupedBatches([[10, 10], [50, 40]], 4, 80)
    with pytest.raises(ValueError, match="2 rows cannot be shared by 3 processes"):
        LengthGroupedBatches([10, 20], 4, num_processes=3)
