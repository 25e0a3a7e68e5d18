"""Tables and lists of any kind as records, one after the other, so that a bad one is known by its number.

A file that is read as a whole by a library fails as a whole, without a row. So tables of text are read here line by
line; Parquet and data sets, whose columns have types, in batches. Memory does not grow with the number of rows.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, load_from_disk

from trainers.rows import describe, without_decoding


__all__ = ["Record", "Records", "open_records", "saved_dataset"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
BATCH = 256  # rows of a batch, which may have pictures in them
SURROGATES = "surrogateescape"  # bytes that are not UTF-8 are carried to the check of their row

Record = dict[str, Any] | ValueError  # a row, or why it cannot be read


class Records(NamedTuple):
    """
    What a source has.

    Args:
        name (`str`): what it is called in messages.
        columns (`list[str]`, *optional*): its columns, where all rows have the same.
        rows (`Callable[[], Iterator[Record]]`): gives its rows from the first.
        identity (`Any`): differs when the content does.
    """

    name: str
    columns: list[str] | None
    rows: Callable[[], Iterator[Record]]
    identity: Any


def saved_dataset(source: str | Path | Dataset) -> Dataset | None:
    """The data set that a source is, or that was saved in the folder that it names."""
    if isinstance(source, Dataset):
        return source
    return load_from_disk(str(source)) if Path(source, "state.json").exists() else None


def open_records(source: str | Path | Dataset) -> Records:
    """
    Opens a source of records.

    Args:
        source (`str`, `Path` or `Dataset`): a .csv, .tsv, .jsonl, .json (a list) or .parquet file, a folder made by
            `Dataset.save_to_disk`, or a data set.

    Returns:
        [`Records`]

    Raises:
        ValueError: for what is no such thing, or cannot be read at all.
    """
    if (dataset := saved_dataset(source)) is not None:
        return _of_dataset(dataset, "the data set" if isinstance(source, Dataset) else Path(source).name)
    path = Path(source).absolute()
    if not path.is_file() or path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must be a folder of `save_to_disk`, or a file that ends with {', '.join(SUFFIXES)}.")
    state = path.stat()
    identity = (str(path), state.st_size, state.st_mtime_ns)
    if path.suffix == ".parquet":
        return _of_parquet(path, identity)
    if path.suffix in (".csv", ".tsv"):
        separator = "\t" if path.suffix == ".tsv" else ","
        with path.open(encoding="utf-8-sig", errors=SURROGATES, newline="") as file:
            header = next(csv.reader(file, delimiter=separator), [])
        if len(set(header)) < len(header) or "" in header:
            raise ValueError(f"{path}: its first line, {header}, must name every column, each in another way.")
        return Records(path.name, header, lambda: _csv_rows(path, separator), identity)
    read = _jsonl_rows if path.suffix == ".jsonl" else _json_rows
    return Records(path.name, None, lambda: read(path), identity)


def _of_dataset(dataset: Dataset, name: str) -> Records:
    rows = without_decoding(dataset).with_format("arrow")

    def read() -> Iterator[Record]:
        for table in rows.iter(BATCH):
            yield from table.to_pylist()

    return Records(name, dataset.column_names, read, dataset._fingerprint)


def _of_parquet(path: Path, identity: Any) -> Records:
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except pa.ArrowException as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error

    def read() -> Iterator[Record]:
        for batch in file.iter_batches(BATCH):
            yield from batch.to_pylist()

    return Records(path.name, file.schema_arrow.names, read, identity)


def _csv_rows(path: Path, separator: str) -> Iterator[Record]:
    """Whatever it looks like, a text is a text."""
    with path.open(encoding="utf-8-sig", errors=SURROGATES, newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        header = next(reader)
        while True:
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield ValueError(f"line {reader.line_num}: found no row ({error}), expected quotes in pairs")
                continue
            if len(values) == len(header):
                yield dict(zip(header, values, strict=True))
            elif values:  # a blank line is no row
                found = f"{len(values)} values, expected {len(header)}, one for each of {header}"
                yield ValueError(f"line {reader.line_num}: found {found}")


def _jsonl_rows(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parse(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, f"line {number}")


def _parse(line: bytes, place: str) -> Record:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"
        return ValueError(f"{place}: found {ascii(line[:60])}, which is {what} ({error}), expected a JSON object")
    return _object(row, f"{place}: ")


def _object(row: Any, place: str) -> Record:
    if isinstance(row, dict):
        return row
    return ValueError(f"{place}found {describe(row)}, expected a JSON object with the columns as its keys")


def _json_rows(path: Path) -> Iterator[Record]:
    """A list of objects, parsed one at a time; after a syntax error nobody knows where the next would begin."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: {error}. As .jsonl, its good rows could be told from the bad."
        ) from error
    parse, place = json.JSONDecoder().raw_decode, _skip(text, 0)
    if text[place : place + 1] != "[":
        raise ValueError(f"{path} must hold a list, [{{…}}, …]; rows one below the other belong into a .jsonl file.")
    place, number = _skip(text, place + 1), 0
    while text[place : place + 1] != "]":
        try:
            row, place = parse(text, place)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: its row {number} is not JSON: {error}") from error
        yield _object(row, "")
        number, place = number + 1, _skip(text, place)
        if text[place : place + 1] not in (",", "]"):
            raise ValueError(
                f"{path}: after its row {number - 1}, found {text[place : place + 20]!r}, expected , or ]"
            )
        place = _skip(text, place + 1) if text[place] == "," else place


def _skip(text: str, place: int) -> int:
    while text[place : place + 1].isspace():
        place += 1
    return place
