"""Sub-batches come from one source, in an order that seed and epoch decide."""

from collections import Counter

import pytest

from trainers.samplers import SubBatchSampler


SOURCES = ["a"] * 70 + ["b"] * 33 + ["c"] * 5 + ["a"] * 10


def order(sampler: SubBatchSampler, epoch: int = 0) -> list[int]:
    sampler.set_epoch(epoch)
    rows = list(sampler)
    assert len(rows) == len(sampler)
    return rows


@pytest.mark.parametrize("size", [1, 8, 64, 1000])
def test_every_row_once_and_sub_batches_of_one_source(size: int) -> None:
    rows = order(SubBatchSampler(SOURCES, size, seed=1))
    assert sorted(rows) == list(range(len(SOURCES)))
    whole = sum(count // size for count in Counter(SOURCES).values())
    for start in range(0, whole * size, size):
        assert len({SOURCES[row] for row in rows[start : start + size]}) == 1


def test_seed_and_epoch_decide_the_order() -> None:
    first = order(SubBatchSampler(SOURCES, 8, seed=1))
    assert first == order(SubBatchSampler(SOURCES, 8, seed=1))
    assert first != order(SubBatchSampler(SOURCES, 8, seed=2))
    assert first != order(SubBatchSampler(SOURCES, 8, seed=1), epoch=1)
    sampler = SubBatchSampler(SOURCES, 8, seed=1)
    order(sampler, epoch=3)
    assert order(sampler) == first  # not of what was drawn before


def test_caps_and_weights() -> None:
    sampler = SubBatchSampler(SOURCES, 8, caps={"a": 20}, weights={"b": 0.5, "c": 3})
    rows = order(sampler)
    counts = Counter(SOURCES[row] for row in rows)
    assert counts == {"a": 20, "b": 16, "c": 15}
    assert set(Counter(row for row in rows if SOURCES[row] == "c").values()) == {3}
    assert max(Counter(row for row in rows if SOURCES[row] != "c").values()) == 1
    seen = {row for epoch in range(30) for row in order(sampler, epoch)}
    assert seen == set(range(len(SOURCES)))  # a cap is on an epoch, not on the data


def test_unknown_sources_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sources \['d', 'e'\]; there are \['a', 'b', 'c'\]"):
        SubBatchSampler(SOURCES, 8, caps={"d": 1}, weights={"e": 1.0, "a": 1.0})
