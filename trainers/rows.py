"""From the rows of a data set to what the processor takes, and what happens to a row that is bad."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from multiprocessing import Value
from typing import Any, TypeVar

import PIL.Image
from datasets import Dataset, Features, Image, LargeList, List
from datasets.fingerprint import Hasher
from transformers.utils import logging

from modeling_coma.inputs_coma import to_rgb


__all__ = [
    "ROW",
    "BadRows",
    "NumberedRows",
    "as_image",
    "describe",
    "fault",
    "pictures_of",
    "undecoded",
    "without_decoding",
]

logger = logging.get_logger(__name__)

T = TypeVar("T")
ROW = "row"  # the column that says where in the data set a row stands
MOST_LOGGED = 20  # skipped rows that are named in the log; all of them are in `reasons`


def fault(column: str, found: str, expected: str) -> ValueError:
    """What is wrong with a value of a row; whoever knows the number of the row puts it before."""
    return ValueError(f"column {column}: found {found}, expected {expected}")


def describe(value: Any) -> str:
    """A value in an error message: its type and its beginning."""
    if value is None:
        return "nothing"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, PIL.Image.Image):  # whose own description is an address in memory
        return f"the picture {getattr(value, 'filename', '') or value.size}"
    # A path is of no use without its end.
    try:
        return _cut(repr(value), 400) if isinstance(value, str) else f"{type(value).__name__} {_cut(repr(value), 80)}"
    except RecursionError:
        return f"{type(value).__name__} that is nested too deep to be shown"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


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
            nothing (`Callable`, *optional*): makes the batch that there is where all rows are left out; without it,
                that is an error.

        Returns:
            What `collate` makes of the good rows.
        """
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
    """The picture that is to blame, by its column; else what the error says, without the place in a batch of one."""
    for column, picture in pictures_of(row):
        try:
            to_rgb(picture)
        except ValueError as why:
            why = re.sub(r"^Row 0: ", "", str(why))
            return str(fault(column, describe(picture), f"a picture that can be used, but: {why}"))
    return re.sub(r"^Row \d+(:?) ", lambda found: "" if found[1] else "it ", str(error))


def pictures_of(value: Any, column: str = "") -> Iterator[tuple[str, Any]]:
    """The pictures of a row, however nested, and the columns they stand in: what is called `image` or `images`."""
    if isinstance(value, dict) and value.keys() != {"bytes", "path"}:
        for name, inner in value.items():
            yield from pictures_of(inner, f"{column}.{name}" if column else str(name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from pictures_of(inner, f"{column}[{place}]")
    elif re.search(r"\b(image|images?\[\d+\])$", column) and as_image(value) is not None:
        yield column, as_image(value)


def as_image(value: Any) -> Any:
    """A picture as the processor takes it, from what `datasets` returns where it does not decode: bytes or a path."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return value["bytes"] if value["bytes"] is not None else value["path"]
    return value


def without_decoding(dataset: Dataset) -> Dataset:
    """
    The same data set with every image, however nested, left as the bytes or the path that it is stored as.

    What is stored is the same either way, so no row is read or written; only the twin's description differs.
    """
    features = Features({name: undecoded(feature) for name, feature in dataset.features.items()})
    if features == dataset.features:
        return dataset
    twin = copy.deepcopy(dataset)  # tables are shared
    twin.info.features = features
    twin._fingerprint = Hasher.hash((dataset._fingerprint, "undecoded"))  # what `map` makes of the two is not the same
    return twin


def undecoded(feature: Any) -> Any:
    """A feature with every image in it left as it is stored."""
    if isinstance(feature, Image):
        return Image(mode=feature.mode, decode=False)
    if isinstance(feature, dict):
        return {name: undecoded(inner) for name, inner in feature.items()}
    if isinstance(feature, List | LargeList):
        inner = undecoded(feature.feature)
        return List(inner, length=feature.length) if isinstance(feature, List) else LargeList(inner)
    if isinstance(feature, list):
        return [undecoded(inner) for inner in feature]
    return feature
