"""Batches of similar length: every row once, the budget kept, the same for every process."""

import numpy as np
import pytest
import torch

from trainers.samplers import LengthGroupedBatches


RANDOM = np.random.default_rng(0)
LENGTHS = {
    "one part": RANDOM.integers(5, 400, 311),
    "two parts": np.stack([RANDOM.integers(40, 300, 311), RANDOM.integers(5, 200, 311)], axis=1),
    "all equal": np.full(50, 70),
}


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
