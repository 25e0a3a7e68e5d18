"""Ids in sets: what rows share, however the sets are made, and in memory that does not grow with the number of ids."""

import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainers.contrastive import targets as targets_module
from trainers.contrastive.targets import IdSets, PairIds


def some_sets(generator: random.Random, rows: int) -> tuple[IdSets, list[set[int]]]:
    number = generator.randint(1, 6)
    sets = [set(generator.sample(range(8), generator.randint(0, 4))) for _ in range(number)]
    of_row = [generator.randrange(number) for _ in range(rows)]
    pairs = [(place, one) for place, ids in enumerate(sets) for one in [*ids, *ids]]
    generator.shuffle(pairs)
    made = IdSets.of(torch.tensor(of_row, dtype=torch.long), *torch.tensor(pairs, dtype=torch.long).view(-1, 2).T)
    return made, [sets[place] for place in of_row]


@pytest.mark.parametrize("at_a_time", [1, 3, 2**20])
def test_rows_share_what_their_sets_share(monkeypatch, at_a_time):
    monkeypatch.setattr(targets_module, "PAIRS_AT_A_TIME", at_a_time)
    generator = random.Random(0)
    for _ in range(100):
        (one, of_one), (other, of_other) = (some_sets(generator, generator.randint(0, 7)) for _ in range(2))
        rows = slice(generator.randint(0, 3), generator.randint(1, 7))
        expected = [[bool(a & b) for b in of_other] for a in of_one]
        assert one.shared(other).tolist() == expected
        assert one[rows].shared(other).tolist() == expected[rows]
        assert one.shared(other[rows]).tolist() == [row[rows] for row in expected]
        assert one.filled().tolist() == [bool(ids) for ids in of_one]
        assert [set(ids) for ids in one.tolist()] == of_one


def test_sets_of_a_tensor_are_its_rows():
    assert IdSets.of_tensor(torch.tensor([7, -1, 7, 0, -2])).tolist() == [[7], [], [7], [0], []]
    several = IdSets.of_tensor(torch.tensor([[7, -1], [3, 7], [-1, -1], [7, 3], [-1, 7]]))
    assert several.tolist() == [[7], [3, 7], [], [3, 7], [7]]
    assert IdSets.of_tensor(torch.empty(0, dtype=torch.long)).tolist() == []


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that anything made."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return output


def pair_ids(asked: torch.Tensor, groups: torch.Tensor) -> PairIds:
    rows = torch.arange(len(asked))
    batch = {"queries": rows, "asked_keys": asked, "query_keys": asked, "groups": groups, "sources": rows * 0 - 1}
    return PairIds.of(batch | {"restricted": rows < 0, "owners": rows, "document_keys": rows + 10**6})


def test_what_has_no_content_key_equals_nothing():
    rows = torch.arange(3)
    batch = {"queries": rows, "asked_keys": rows, "query_keys": rows * 0 - 1, "groups": torch.tensor([-1, 5, 5])}
    batch |= {"sources": rows * 0 - 1, "restricted": rows < 0, "owners": rows, "document_keys": rows * 0 - 1}
    masks = PairIds.of(batch).targets().masks(slice(0, 3))
    assert masks.positive.int().tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 1]]
    assert torch.equal(masks.negative, ~masks.positive) and not masks.duplicate.any()


@pytest.mark.parametrize("kind", ["distinct", "one query in many groups"])
def test_the_masks_of_some_rows_take_no_more_than_a_byte_for_every_content(kind):
    rows = torch.arange(4000)
    several = kind != "distinct"
    ids = pair_ids(torch.where(rows < 2000 * several, 0, rows), torch.where(rows < 2000 * several, rows, -1))
    with LargestTensor() as largest:
        masks = ids.targets().masks(slice(0, 64))
    assert masks.positive.sum() == 64 * (2000 if several else 1)
    contents, pairs = 2 * len(rows), 64 * int(masks.positive[0].sum())
    assert largest.bytes < 1.1 * max(64 * contents, 8 * pairs)
