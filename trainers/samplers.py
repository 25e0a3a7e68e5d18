"""How rows are cut into batches by a token budget (`pack`), and the order of training: by length, or by source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


__all__ = ["LengthGroupedBatches", "SubBatchSampler", "halve_largest", "pack"]


def pack(
    lengths: Sequence[int] | Sequence[Sequence[int]] | np.ndarray,
    max_tokens: int | None = None,
    max_rows: int | None = None,
    *,
    longest_first: bool = False,
    padded: bool = True,
) -> list[list[int]]:
    r"""
    Cuts rows into batches within a budget of tokens. A row that alone exceeds it is a batch of its own.

    Args:
        lengths (`Sequence` of shape `(num_rows,)` or `(num_rows, num_parts)`):
            Tokens of each row; of parts that are padded apart, as inputs and dialogues are, each for itself.
        max_tokens (`int`, *optional*):
            Most tokens of a batch.
        max_rows (`int`, *optional*):
            Most rows of a batch.
        longest_first (`bool`, *optional*, defaults to `False`):
            Sorts the rows by length, so that a budget that is too large for the memory fails at once. By default they
            stay in the order in which they are given.
        padded (`bool`, *optional*, defaults to `True`):
            Whether all rows of a batch take as many tokens as the longest of them, or each its own.

    Returns:
        `list[list[int]]`: the numbers of the rows of each batch; none is empty.

    Example:

        >>> pack([3, 9, 4, 8], max_tokens=20, longest_first=True)
        [[1, 3], [2, 0]]
    """
    lengths = np.asarray(lengths)
    if lengths.ndim == 1:
        lengths = lengths[:, None]
    rows = np.argsort(-lengths.sum(axis=1), kind="stable") if longest_first else np.arange(len(lengths))
    batches: list[list[int]] = []
    size, taken = 0, [0] * lengths.shape[1]  # rows of the last batch, and the tokens of its parts
    for row, parts in zip(rows.tolist(), lengths[rows].tolist(), strict=True):
        if padded:
            together = [max(pair) for pair in zip(parts, taken, strict=True)]
            tokens = (size + 1) * max(1, sum(together))
        else:
            together = [sum(pair) for pair in zip(parts, taken, strict=True)]
            tokens = sum(together)
        if not batches or size == max_rows or (max_tokens is not None and tokens > max_tokens):
            batches.append([])
            size, together = 0, parts
        batches[-1].append(row)
        size, taken = size + 1, together
    return batches


def halve_largest(batches: Sequence[list[int]], number: int) -> list[list[int]]:
    """Halves the largest batch again and again until there are `number` of them; some are empty if rows are few."""
    batches = list(batches)
    while len(batches) < number:
        sizes = [len(batch) for batch in batches]
        largest = sizes.index(max(sizes))
        batch = batches[largest]
        batches[largest : largest + 1] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    return batches


class LengthGroupedBatches(Sampler[list[int]]):
    r"""
    Batches of rows of similar length, so that little of them is padding.

    Rows are sorted by length in steps of `granularity`, in random order within a step, cut into batches by number of
    rows or by a budget of tokens, padding counted, and the batches are shuffled. The order is a function of seed and
    epoch alone, and every epoch has the same number of batches, a multiple of `num_processes`: the largest batches are
    halved until it is. So every row comes exactly once and no process waits for another.

    Args:
        lengths (`Sequence` of shape `(num_rows,)` or `(num_rows, num_parts)`):
            Tokens of each row; of parts that are padded apart, as inputs and dialogues are, each for itself.
        batch_size (`int`):
            Most rows of a batch.
        max_tokens (`int`, *optional*):
            Most tokens of a batch, padding included.
        num_processes (`int`, *optional*, defaults to 1):
            Processes that share the batches.
        seed (`int`, *optional*, defaults to 0):
            Seed of the order.
        granularity (`int`, *optional*, defaults to 32):
            Lengths up to the same multiple of it are mixed. More of it mixes more and pads more.

    Raises:
        ValueError: if a row alone exceeds `max_tokens`, or there are fewer rows than processes.
    """

    batch_size = None  # accelerate asks; it varies
    drop_last = False

    def __init__(
        self,
        lengths: Sequence[int] | Sequence[Sequence[int]],
        batch_size: int,
        max_tokens: int | None = None,
        num_processes: int = 1,
        seed: int = 0,
        granularity: int = 32,
    ) -> None:
        lengths = np.asarray(lengths).reshape(len(lengths), -1)
        if len(lengths) < num_processes:
            raise ValueError(f"{len(lengths)} rows cannot be shared by {num_processes} processes.")
        if max_tokens is not None and (totals := lengths.sum(axis=1)).max() > max_tokens:
            row = int(totals.argmax())
            raise ValueError(
                f"Row {row} has {totals[row]} tokens, a batch may have {max_tokens}: raise max_tokens_per_batch, "
                "or lower the pixel budget or the length limits."
            )
        self.steps = -(-lengths // granularity)
        order = np.lexsort(self.steps.T[::-1])  # by the first part, then by the next
        runs = np.split(order, np.flatnonzero(np.diff(self.steps[order], axis=0).any(axis=1)) + 1)
        # What any row may need that comes to stand in a place of its step.
        widths = np.repeat([lengths[run].max(axis=0) for run in runs], [len(run) for run in runs], axis=0)
        batches = pack(widths, max_tokens, batch_size)
        multiple = math.ceil(len(batches) / num_processes) * num_processes
        self.sizes = [len(batch) for batch in halve_largest(batches, multiple)]
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Fixes the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = np.lexsort((random.random(len(self.steps)), *self.steps.T[::-1]))
        batches = np.split(order, np.cumsum(self.sizes)[:-1])
        return (batches[i].tolist() for i in random.permutation(len(batches)))


class SubBatchSampler(Sampler[int]):
    r"""
    An order of rows in which every `sub_batch_size` neighbours come from one source (official recipe of stage 2: 64),
    so that a batch cut from it has in-batch negatives of the same kind.

    Each source is shuffled on its own and gives whole sub-batches; what is left of each in the end is mixed into the
    last ones. The order is a function of seed and epoch alone.

    Args:
        sources (`Sequence[str]`):
            The source of each row.
        sub_batch_size (`int`, *optional*, defaults to 64):
            Neighbours from one source.
        seed (`int`, *optional*, defaults to 0):
            Seed of the order.
        caps (`dict[str, int]`, *optional*):
            Most rows of a source in an epoch, others of them in every epoch.
        weights (`dict[str, float]`, *optional*):
            How many times a source is gone through in an epoch (1 by default; a fraction is a part of it).

    Raises:
        ValueError: if caps or weights name a source that no row has.
    """

    def __init__(
        self,
        sources: Sequence[str],
        sub_batch_size: int = 64,
        seed: int = 0,
        caps: dict[str, int] | None = None,
        weights: dict[str, float] | None = None,
    ) -> None:
        names, codes = np.unique(np.asarray(sources), return_inverse=True)
        self.rows = {str(name): np.flatnonzero(codes == code) for code, name in enumerate(names)}
        unknown = ({*(caps or {})} | {*(weights or {})}) - self.rows.keys()
        if unknown:
            raise ValueError(f"No row has the sources {sorted(unknown)}; there are {sorted(self.rows)}.")
        self.sub_batch_size, self.seed, self.epoch = sub_batch_size, seed, 0
        self.caps, self.weights = caps or {}, weights or {}

    def set_epoch(self, epoch: int) -> None:
        """Fixes the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(self._number(source) for source in self.rows)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        whole, rest = [], []
        for source, rows in self.rows.items():
            number = self._number(source)
            rounds = math.ceil(number / len(rows))
            drawn = np.concatenate([random.permutation(rows) for _ in range(rounds)])[:number]
            cut = number - number % self.sub_batch_size
            whole += np.split(drawn[:cut], cut // self.sub_batch_size) if cut else []
            rest.append(drawn[cut:])
        order = [whole[i] for i in random.permutation(len(whole))] + rest
        yield from np.concatenate(order).tolist()

    def _number(self, source: str) -> int:
        number = round(self.weights.get(source, 1.0) * len(self.rows[source]))
        return min(number, self.caps.get(source, number))
