"""Reads tables of any kind: CSV, TSV, TXT, JSON, JSONL, Parquet, and data sets; rows come one after the other.

This is the one reader of tables, for all commands. A file that is read as a whole by a library fails as a whole,
without a row. So tables of text are read here line by line; Parquet and data sets, whose columns have types, in
batches. Memory does not grow with the number of rows, but of .json, which is parsed from a text.

Texts in columns of any type of Arrow (strings, large, views, categories) are texts, and a `ClassLabel` is its name.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, List, load_from_disk

from trainers.data.csv_rows import csv_header, csv_rows
from trainers.data.faults import fault
from trainers.data.images import without_decoding
from trainers.data.json_rows import json_rows, jsonl_rows
from trainers.data.text_files import open_file, text_rows
from trainers.data.text_format import SEPARATED, TextFormat, complete_format


__all__ = ["TABLE_SUFFIXES", "Record", "Records", "open_records", "refuse_format", "saved_dataset"]

TEXT_ROWS = {".txt": text_rows, ".jsonl": jsonl_rows, ".json": json_rows}
TABLE_SUFFIXES = (*SEPARATED, *TEXT_ROWS, ".parquet")
BATCH = 256  # rows of a batch, which may have images in them
# What a damaged file, or a value that Python has no type for, raises when it is read.
UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError)

Record = dict[str, Any] | ValueError  # a row, or why it cannot be read


class Records(NamedTuple):
    """
    What a source has.

    Args:
        name (`str`): what it is called in messages.
        columns (`list[str]`, *optional*): its columns, where all rows have the same.
        rows (`Callable[..., Iterator[Record]]`): gives its rows from the first; with names of columns, it may leave
            out the others.
        identity (`Any`): differs when the content does.
        num_rows (`int`, *optional*): how many there are, where that is known without reading them.
        rows_from (`Callable[..., Iterator[Record]]`, *optional*): gives, by a number and names of columns, the rows
            from that number on, without reading those before; where it is `None`, that takes reading them.
    """

    name: str
    columns: list[str] | None
    rows: Callable[..., Iterator[Record]]
    identity: Any
    num_rows: int | None = None
    rows_from: Callable[..., Iterator[Record]] | None = None


def saved_dataset(source: str | Path | Dataset) -> Dataset | None:
    """
    The data set that a source is, or that was saved in the folder that it names; `None` for anything else.

    Raises:
        ValueError: for a folder with several data sets, or with a damaged one.
    """
    if isinstance(source, Dataset):
        return source
    if not isinstance(source, str | Path):
        raise ValueError(f"A {type(source).__name__} is no source of rows: give a `Dataset`, a file or a folder.")
    if os.path.isfile(os.path.join(source, "dataset_dict.json")):
        splits = sorted(file.parent.name for file in Path(source).glob("*/state.json"))
        raise ValueError(f"{source} has several data sets: give the folder of one of them, {', '.join(splits)}.")
    if not os.path.isfile(os.path.join(source, "state.json")):
        return None
    try:
        return load_from_disk(str(source))
    except (*UNREADABLE, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source} cannot be read as a data set of `save_to_disk`: {error}") from error


def open_records(source: str | Path | Dataset, text_format: TextFormat | None = None) -> Records:
    """
    Opens a source of records.

    Args:
        source (`str`, `Path` or `Dataset`): a .csv, .tsv, .txt (a row per line, with the one column `text`), .jsonl,
            .json (a list) or .parquet file, a folder made by `Dataset.save_to_disk`, or a data set.
        text_format ([`TextFormat`], *optional*): encoding and separator of a file of text; by default what is found
            by looking.

    Returns:
        [`Records`]

    Raises:
        ValueError: for what is no such thing, or cannot be read at all, and for a `text_format` of what has none.

    Example:

        >>> records = open_records("pairs.csv")
        >>> for number, row in enumerate(records.rows()):
        ...     if isinstance(row, ValueError):
        ...         logger.warning(f"Row {number} of {records.name} cannot be read: {row}")
    """
    text_format = text_format or TextFormat()
    if (dataset := saved_dataset(source)) is not None:
        refuse_format(text_format, "a data set")
        return _of_dataset(dataset, "the data set" if isinstance(source, Dataset) else Path(source).name)
    path = Path(source).absolute()
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES or os.path.isdir(path):
        kinds = ", ".join(TABLE_SUFFIXES)
        raise ValueError(f"{path} must be a folder of `save_to_disk`, or a file that ends with {kinds}.")
    with open_file(path) as file:
        state = os.fstat(file.fileno())
    identity = (str(path), state.st_size, state.st_mtime_ns)
    if suffix == ".parquet":
        refuse_format(text_format, str(path))
        return _of_parquet(path, identity)
    encoding, separator = complete_format(path, text_format)
    identity = (*identity, encoding, separator)
    if suffix in SEPARATED:
        columns = csv_header(path, separator, encoding)
        return Records(path.name, columns, lambda columns=None: csv_rows(path, separator, encoding), identity)
    columns = ["text"] if suffix == ".txt" else None
    return Records(path.name, columns, lambda columns=None: TEXT_ROWS[suffix](path, encoding), identity)


def refuse_format(text_format: TextFormat | None, what: str) -> None:
    """Raises `ValueError` where somebody says how something is written that is no file of text."""
    if text_format not in (None, TextFormat()):
        raise ValueError(f"{what} is no file of text: an encoding and a separator cannot act, leave them out.")


def _of_dataset(dataset: Dataset, name: str) -> Records:
    rows = without_decoding(dataset)

    def read_from(start: int, columns: Iterable[str] | None = None) -> Iterator[Record]:
        kept = rows if columns is None else rows.select_columns(list(columns))
        batches = kept.select(range(start, len(rows))).with_format("arrow").iter(BATCH)
        return _rows_of(batches, dataset.features, name, start)

    read = partial(read_from, 0)
    return Records(name, dataset.column_names, read, dataset._fingerprint, len(dataset), read_from)


def _of_parquet(path: Path, identity: Any) -> Records:
    try:
        with _open_parquet(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
    if len(set(schema.names)) < len(schema.names):
        raise ValueError(f"{path}: its columns, {schema.names}, must each have another name.")
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    stops = list(accumulate(sizes))

    def read_from(start: int, columns: Iterable[str] | None = None) -> Iterator[Record]:
        group = bisect_right(stops, start)
        first = stops[group - 1] if group else 0
        batches = _batches(path, range(group, len(stops)), columns)
        return islice(_rows_of(batches, _features_of(schema), str(path), first), start - first, None)

    return Records(path.name, schema.names, partial(read_from, 0), identity, metadata.num_rows, read_from)


def _open_parquet(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)


def _batches(path: Path, groups: Iterable[int], columns: Iterable[str] | None) -> Iterator[pa.RecordBatch]:
    with _open_parquet(path) as file:
        wanted = None if columns is None else list(columns)
        yield from file.iter_batches(BATCH, row_groups=list(groups), columns=wanted)


def _features_of(schema: pa.Schema) -> dict[str, Any]:
    """What `datasets` has written down about the columns, if it has made the file."""
    if not schema.metadata or b"huggingface" not in schema.metadata:
        return {}
    try:
        return Features.from_arrow_schema(schema)
    except (ValueError, KeyError, TypeError, AttributeError):  # from another version: the columns are as they are
        return {}


def _rows_of(batches: Iterable[Any], features: dict[str, Any], where: str, number: int = 0) -> Iterator[Record]:
    """Rows of Arrow tables; the first of them has a number."""
    batches = iter(batches)
    while True:
        try:
            batch = next(batches, None)
        except UNREADABLE as error:
            raise ValueError(f"{where}: from its row {number} on it cannot be read: {error}") from error
        if batch is None:
            return
        labels = {name: features[name] for name in batch.schema.names if _is_label(features.get(name))}
        try:
            rows: list[Record] = batch.to_pylist()
        except UNREADABLE:  # somewhere in the batch: the rows one by one tell where
            rows = [_row_at(batch, place) for place in range(len(batch))]
        yield from (_named(row, labels) for row in rows) if labels else rows
        number += len(batch)


def _row_at(batch: Any, place: int) -> Record:
    row = {}
    for name in batch.schema.names:
        try:
            row[name] = batch[name][place].as_py()
        except UNREADABLE as error:
            return fault(name, f"a value that cannot be read ({error})", "one that can")
    return row


def _is_label(feature: Any) -> bool:
    return isinstance(feature.feature if isinstance(feature, List) else feature, ClassLabel)


def _named(row: Record, labels: dict[str, Any]) -> Record:
    """A row with the names of its labels in place of their numbers."""
    if isinstance(row, ValueError):
        return row
    try:
        return row | {name: _label(row[name], feature, name) for name, feature in labels.items()}
    except ValueError as error:
        return error


def _label(value: Any, feature: Any, column: str) -> Any:
    if isinstance(value, list):
        return [_label(number, feature.feature, column) for number in value]
    if value is None or value == -1:  # by which `datasets` says that there is none
        return None
    if not 0 <= value < feature.num_classes:
        raise fault(column, f"the label {value}", f"one of the {feature.num_classes} that the data set names")
    return feature.names[value]
