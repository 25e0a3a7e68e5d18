"""Which rows a batch of an evaluation has: every row of the data counts once, and those left out as bad are known."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from trainers.data.rows import ROW, BadRows, NumberedRows
from trainers.distributed import gather_rows


__all__ = ["EVALUATION", "EvaluationCollator", "NumberedStream", "RowsOnce", "numbered"]

EVALUATION = "the evaluation data"
PLACE = "place in the stream"  # the name of a row of a stream may be a text, `row`; this is a number


class NumberedStream(IterableDataset):
    """A stream whose rows know their place in it."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()  # each has a part of the stream, and counts for itself
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number, row in enumerate(self.dataset):
            place = first + number * step
            yield {ROW: place, **row, PLACE: place}


def numbered(dataset: Any) -> Any:
    """The same data, or each of several sets, with rows that know their number."""
    if isinstance(dataset, dict):
        return {name: numbered(part) for name, part in dataset.items()}
    if dataset is None or isinstance(dataset, NumberedRows | NumberedStream):
        return dataset
    return NumberedStream(dataset) if isinstance(dataset, IterableDataset) else NumberedRows(dataset)


class EvaluationCollator:
    r"""
    What collates for training, and says of which rows a batch is: `rows` are the numbers of those that are in it,
    `skipped` of those left out as bad, of shape `(num_rows,)`. It counts bad rows for itself.

    Args:
        collator (`Callable`):
            Rows to a batch; one with `bad_rows` may leave some of them out.
    """

    def __init__(self, collator: Callable[[list[dict]], dict[str, Any]]) -> None:
        self.collator, self.bad_rows = collator, None
        if (bad_rows := getattr(collator, "bad_rows", None)) is not None:
            self.collator = copy.copy(collator)
            self.collator.bad_rows = self.bad_rows = BadRows(bad_rows.policy, EVALUATION)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        numbers = torch.tensor([row.get(PLACE, row[ROW]) for row in rows])
        if self.bad_rows is not None:
            self.bad_rows.reasons.clear()  # another set may have had a bad row of the same number
        batch = self.collator([{name: value for name, value in row.items() if name != PLACE} for row in rows])
        bad = () if self.bad_rows is None else self.bad_rows.reasons
        left_out = torch.tensor([row[ROW] in bad for row in rows])
        return {**batch, "rows": numbers[~left_out], "skipped": numbers[left_out]}


class RowsOnce:
    """
    Tells which rows of the batches of all processes are new: at its end accelerate fills the batches of an evaluation
    with rows from its beginning.

    Attributes:
        rows, skipped (`set[int]`):
            Numbers of the rows seen so far, and of those left out as bad, on all processes.
    """

    def __init__(self) -> None:
        self.rows: set[int] = set()
        self.skipped: set[int] = set()

    def add(self, rows: torch.Tensor, skipped: torch.Tensor) -> tuple[torch.Tensor, slice]:
        """
        Args:
            rows, skipped (`torch.LongTensor` of shape `(num_rows,)`):
                Numbers of the rows in the batch of this process, and of those left out of it.

        Returns:
            `tuple`: of all rows of all processes whether they are new, `(num_rows_everywhere,)`, and where those of
            this process are.
        """
        everywhere, first = gather_rows(rows)
        new = []
        for number in everywhere.tolist():
            new.append(number not in self.rows)
            self.rows.add(number)
        self.skipped.update(gather_rows(skipped)[0].tolist())
        return torch.tensor(new, dtype=torch.bool, device=rows.device), slice(first, first + len(rows))

    def check(self) -> None:
        """
        Raises:
            ValueError: if all rows were left out.
        """
        if not self.rows and self.skipped:
            raise ValueError(
                f"All {len(self.skipped)} rows of {EVALUATION} are bad, so there is nothing to evaluate: the log says "
                "what is wrong with the first of them."
            )
