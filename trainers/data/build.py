"""Records to a data set on disk: converted and checked one by one, written in batches, made once.

What is made lies in the cache of `datasets`, named after source and settings, so that the next run and the other
processes of this one find it, the reasons for rows that were left out included. It is read by memory mapping: a data
set of a million rows takes as little memory as one of a thousand.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features
from transformers.utils import logging

from trainers.data.column_names import misnamed, tell_unread
from trainers.data.rows import BadRows
from trainers.data.tables import Records


__all__ = ["Policy", "build_dataset"]

LAYOUT = 4  # another number when other rows are made of the same records
BATCH_ROWS, BATCH_BYTES = 1000, 2**25

Policy = str | BadRows


def build_dataset(
    records: Records,
    convert: partial,
    features: Features,
    on_bad_row: Policy = "raise",
    columns: Iterable[str] = (),
    known: Iterable[str] | None = None,
) -> Dataset:
    r"""
    Makes a data set of records.

    Args:
        records ([`Records`]):
            The source.
        convert (`functools.partial`):
            Record -> row with these features, or a `ValueError`. Its keywords are its settings, and part of the name
            under which the data set is kept.
        features (`Features`):
            Of the rows.
        on_bad_row (`str` or [`BadRows`], *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave bad rows out; a [`BadRows`] afterwards knows how many, and why.
        columns (`Iterable[str]`, *optional*):
            Columns that at least one record must have.
        known (`Iterable[str]`, *optional*):
            Columns that are read: the others are named in the log, and not read where that is cheaper.

    Returns:
        `Dataset`: read from a file by memory mapping.

    Raises:
        ValueError: for a bad row with its number, if no row is good, and for columns that are not there.
    """
    policy = on_bad_row.policy if isinstance(on_bad_row, BadRows) else on_bad_row
    bad_rows = BadRows(policy, records.name)
    _need_columns(records.name, records.columns, columns)
    function = f"{convert.func.__module__}.{convert.func.__qualname__}"
    key = repr((LAYOUT, function, convert.keywords, records.identity, features, policy)).encode()
    folder = Path(datasets.config.HF_DATASETS_CACHE, "coma")
    file = folder / f"{hashlib.blake2b(key, digest_size=16).hexdigest()}.arrow"
    skipped = file.with_suffix(".skipped.json")
    if file.exists():
        for number, reason in json.loads(skipped.read_text(encoding="utf-8")):
            bad_rows.report(number, reason)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        # There as a whole, or not at all; processes that make the same one do not meet.
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as temporary:
            new_file, new_skipped = Path(temporary, file.name), Path(temporary, skipped.name)
            seen = _write(new_file, records, convert, features, bad_rows, known)
            _need_columns(records.name, seen, columns)
            if known is not None:
                tell_unread(records.name, seen, known)
            new_skipped.write_text(json.dumps(list(bad_rows.reasons.items())), encoding="utf-8")
            new_skipped.replace(skipped)
            new_file.replace(file)
    if isinstance(on_bad_row, BadRows):
        on_bad_row.take(bad_rows.reasons)
    return Dataset.from_file(str(file))


def _need_columns(name: str, columns: Iterable[str] | None, needed: Iterable[str]) -> None:
    """Raises `ValueError` if columns are not there; they may also be unknown as yet (`None`)."""
    if columns is not None and (missing := sorted(set(needed) - set(columns))):
        raise ValueError(f"{name} has no columns {missing}; it has {sorted(columns)}.")


def _write(
    file: Path,
    records: Records,
    convert: partial,
    features: Features,
    bad_rows: BadRows,
    known: Iterable[str] | None,
) -> set[str]:
    """Writes what `Dataset.from_file` reads; gives the columns that were seen."""
    seen, wanted = set(records.columns or ()), None
    if known is not None and records.columns is not None:
        read = {*known, *misnamed(records.columns, known)}
        wanted = [name for name in records.columns if name in read]

    def watched() -> Iterator[Any]:
        for record in records.rows(wanted):
            if records.columns is None and isinstance(record, dict):
                seen.update(record)
            yield record

    schema, num_rows = features.arrow_schema, 0
    files = [field.name for field in schema if _has_bytes(field.type)]
    with logging.tqdm(desc=f"Reading {records.name}", unit="row") as progress, pa.OSFile(str(file), "wb") as sink:
        with pa.ipc.new_stream(sink, schema) as writer:
            rows = (row for _, row in bad_rows.convert(watched(), convert))
            for batch in _batches(rows, files):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                num_rows += len(batch)
                progress.update(len(batch))
    if not num_rows:
        reason = next(iter(bad_rows.reasons.values()), "It is empty.")
        raise ValueError(f"{records.name} has no row that can be used. {reason}")
    return seen


def _has_bytes(of: pa.DataType) -> bool:
    """Whether there are bytes of files, such as images and videos, in values of a type, however nested."""
    return pa.types.is_binary(of) or any(_has_bytes(of.field(place).type) for place in range(of.num_fields))


def _batches(rows: Iterable[dict[str, Any]], files: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows in batches of which no one is large; what is large are the files in these columns."""
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        size += sum(_bytes_of(row[name]) for name in files)
        if len(batch) == BATCH_ROWS or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _bytes_of(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_bytes_of, value.values()))
    if isinstance(value, list):
        return sum(map(_bytes_of, value))
    return len(value) if isinstance(value, bytes) else 0
