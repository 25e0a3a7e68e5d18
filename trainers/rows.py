"""From the rows of a data set to what the processor takes, and what happens to a row that is bad."""

from __future__ import annotations

import re
from collections.abc import Callable
from multiprocessing import Value
from typing import Any, TypeVar

from datasets import Dataset, Features, Image, List
from transformers.utils import logging


__all__ = ["BadRows", "NumberedRows", "as_image", "without_decoding"]

logger = logging.get_logger(__name__)

T = TypeVar("T")
ROW = "row"  # the column that says where in the data set a row stands


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
    What a collator does with a row that cannot be used: `"raise"` names it, `"skip"` leaves it out and counts it, over
    all data loader workers.

    Args:
        policy (`str`):
            `"raise"` or `"skip"`.
    """

    def __init__(self, policy: str) -> None:
        if policy not in ("raise", "skip"):
            raise ValueError(f"on_bad_row={policy!r} does not exist; choose 'raise' or 'skip'.")
        self.policy = policy
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

    def apply(self, collate: Callable[[list[dict]], T], rows: list[dict[str, Any]]) -> T:
        """Collates rows; if that fails, finds out which of them are to blame."""
        try:
            return collate(rows)
        except ValueError as error:
            good, bad = self._sift(collate, rows)
            if not bad:  # each is good alone
                raise
            number, reason = bad[0]
            if self.policy == "raise":
                raise ValueError(f"Row {number} of the data set is bad: {reason}") from error
            if not good:
                raise ValueError(f"All {len(rows)} rows of a batch are bad; row {number}: {reason}") from error
        for number, reason in bad:
            logger.warning(f"Row {number} of the data set is skipped: {reason}")
        with self._skipped.get_lock():
            self._skipped.value += len(bad)
        return collate(good)

    @staticmethod
    def _sift(collate: Callable, rows: list[dict]) -> tuple[list[dict], list[tuple[Any, str]]]:
        good, bad = [], []
        for place, row in enumerate(rows):
            try:
                collate([row])
                good.append(row)
            except ValueError as error:
                reason = re.sub(r"^Row 0(:?) ", lambda found: "" if found[1] else "it ", str(error))
                bad.append((row.get(ROW, place), reason))
        return good, bad


def as_image(value: Any) -> Any:
    """A picture as the processor takes it, from what `datasets` returns where it does not decode: bytes or a path."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return value["bytes"] if value["bytes"] is not None else value["path"]
    return value


def without_decoding(dataset: Dataset) -> Dataset:
    """The same data set with every image, however nested, left as the bytes or the path that it is stored as."""
    features = Features({name: _undecoded(feature) for name, feature in dataset.features.items()})
    return dataset if features == dataset.features else dataset.cast(features)


def _undecoded(feature: Any) -> Any:
    if isinstance(feature, Image):
        return Image(mode=feature.mode, decode=False)
    if isinstance(feature, dict):
        return {name: _undecoded(inner) for name, inner in feature.items()}
    if isinstance(feature, List):
        return List(_undecoded(feature.feature), length=feature.length)
    if isinstance(feature, list):
        return [_undecoded(inner) for inner in feature]
    return feature
