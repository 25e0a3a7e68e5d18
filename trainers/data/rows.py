"""Rows of a data set that know their number, and what happens to a row that is bad."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import Value
from typing import Any, TypeVar

from datasets import Dataset
from transformers.utils import logging

from modeling_coma.inputs_coma import to_rgb
from trainers.data.faults import describe, fault
from trainers.data.images import images_of, without_decoding


__all__ = ["ROW", "BadRows", "NumberedRows"]

logger = logging.get_logger(__name__)

T = TypeVar("T")
ROW = "row"  # the column that says where in the data set a row stands
MOST_LOGGED = 20  # skipped rows that are named in the log; all of them are in `reasons`


class NumberedRows:
    """A data set whose rows know their number, and whose images are decoded by the processor, not by the data set."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = without_decoding(dataset) if isinstance(dataset, Dataset) else dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], ROW: index}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        fetch = getattr(self.dataset, "__getitems__", None)  # of a `Dataset`: all rows at once
        rows = fetch(indices) if fetch is not None else [self.dataset[index] for index in indices]
        return [{**row, ROW: index} for row, index in zip(rows, indices, strict=True)]


class BadRows:
    r"""
    What becomes of a row that cannot be used: `"raise"` names it, `"skip"` leaves it out and counts it, over all data
    loader workers.

    Args:
        policy (`str`):
            `"raise"` or `"skip"`.
        where (`str`, *optional*, defaults to `"the data set"`):
            What the rows are rows of, for the messages.

    Attributes:
        reasons (`dict`):
            What is wrong with each row left out by this process.
    """

    def __init__(self, policy: str, where: str = "the data set") -> None:
        if policy not in ("raise", "skip"):
            raise ValueError(f"on_bad_row={policy!r} does not exist; choose 'raise' or 'skip'.")
        self.policy, self.where = policy, where
        self.reasons: dict[Any, str] = {}
        self._skipped, self._cut = Value("q", 0), Value("q", 0)

    @property
    def skipped(self) -> int:
        """Rows left out so far."""
        return self._skipped.value

    @property
    def cut(self) -> int:
        """Turns of dialogues left out so far."""
        return self._cut.value

    def count_cut(self, turns: int) -> None:
        """Counts turns that a length limit leaves out."""
        with self._cut.get_lock():
            self._cut.value += turns

    def report(self, number: Any, reason: str) -> None:
        """
        Leaves a row out: counts it, keeps the reason, and logs it, if it is among the first.

        Raises:
            ValueError: instead, where that is the policy.
        """
        if self.policy == "raise":
            raise ValueError(f"Row {number} of {self.where} is bad: {reason}")
        with self._skipped.get_lock():
            self._skipped.value += 1
        self.reasons[number] = reason
        if self.skipped <= MOST_LOGGED:
            logger.warning(f"Row {number} of {self.where} is skipped: {reason}")
        elif self.skipped == MOST_LOGGED + 1:
            logger.warning(f"More rows of {self.where} are skipped, which are counted and not named here.")

    def convert(self, records: Iterable[Any], convert: Callable[[Any], T]) -> Iterator[tuple[int, T]]:
        """
        Converts records one by one, and reports the bad ones.

        Args:
            records (`Iterable[Any]`): each of them, or the `ValueError` by which it cannot be read.
            convert (`Callable`): raises `ValueError` for a bad one.

        Yields:
            `tuple[int, Any]`: the number of a record, and what was made of it.
        """
        for number, record in enumerate(records):
            try:
                if isinstance(record, ValueError):
                    raise record
                row = convert(record)
            except ValueError as error:
                self.report(number, str(error))
            else:
                yield number, row

    def take(self, reasons: dict[Any, str]) -> None:
        """Counts and keeps rows that another has left out and logged."""
        with self._skipped.get_lock():
            self._skipped.value += len(reasons)
        self.reasons |= reasons

    def apply(
        self, collate: Callable[[list[dict]], T], rows: list[dict[str, Any]], nothing: Callable[[], T] | None = None
    ) -> T:
        """
        Collates rows; if that fails, finds out which of them are to blame.

        Args:
            collate (`Callable`): rows to a batch.
            rows (`list[dict]`): the rows.
            nothing (`Callable`, *optional*): makes the batch that there is where all rows are left out, or where a
                process has none; without it, that is an error.

        Returns:
            What `collate` makes of the good rows.
        """
        if not rows and nothing is not None:
            return nothing()
        try:
            return collate(rows)
        except ValueError as error:
            good, bad = self._sift(collate, rows)
            if not bad:  # each is good alone
                raise
            if not good and nothing is None and self.policy == "skip":
                number, reason = bad[0]
                raise ValueError(f"All {len(rows)} rows of a batch are bad; row {number}: {reason}") from error
            for number, reason in bad:
                self.report(number, reason)
        return collate(good) if good else nothing()

    @staticmethod
    def _sift(collate: Callable, rows: list[dict]) -> tuple[list[dict], list[tuple[Any, str]]]:
        good, bad = [], []
        for place, row in enumerate(rows):
            try:
                collate([row])
                good.append(row)
            except ValueError as error:
                bad.append((row.get(ROW, place), _reason(row, error)))
        return good, bad


def _reason(row: dict[str, Any], error: ValueError) -> str:
    """The image that is to blame, by its column; else what the error says, without the place in a batch of one."""
    for column, image in images_of(row):
        try:
            to_rgb(image)
        except ValueError as why:
            if "max_image_pixels" in str(why) and "max_image_pixels" not in str(error):
                continue  # the limit of the processor is higher
            why = re.sub(r"^Row 0: ", "", str(why))
            return str(fault(column, describe(image), f"an image that can be used, but: {why}"))
    return re.sub(r"^Row \d+(:?) ", lambda found: "" if found[1] else "it ", str(error))
