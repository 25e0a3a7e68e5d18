"""What `coma embed` reads: a folder of images, a text with a row per line, or a table; a piece at a time.

Every source becomes rows of three columns: `id`, `text` and `image`, where an image is the path of a file or the
bytes of one. Nothing is decoded here. Tables are read by the reader that the trainings have, too.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from trainers.data.column_names import refuse_misnamed, tell_unread
from trainers.data.faults import describe, fault
from trainers.data.image_folders import walk_images
from trainers.data.images import IMAGE_SUFFIXES, ImageRoot, as_stored, root_of
from trainers.data.schema import as_text, check_text
from trainers.data.tables import TABLE_SUFFIXES, Record, Records, open_records, saved_dataset
from trainers.data.text_files import open_text, printable


__all__ = ["Columns", "Corpus", "open_corpus"]

KINDS = f"a folder of images or end with .txt, {', '.join(TABLE_SUFFIXES)} (or be a folder of `save_to_disk`)"

Row = dict[str, Any]


class Columns(NamedTuple):
    """Names of the columns of a table; where one is `None`, its default is read if the table has it."""

    id: str | None = None
    text: str | None = None
    image: str | None = None


class Corpus(NamedTuple):
    """
    Rows on disk.

    Args:
        num_rows (`int`): how many there are.
        read (`Callable[[int, int], list[dict]]`): rows from one number up to, and without, another; fastest in order.
            Each has `id` (`str`), `text` (`str` or `None`), `image` (`str`, `bytes` or `None`), `path` (`str` or
            `None`), and `error`: why it cannot be read, or `None`.
        left_alone (`int`): files of a folder that are no images.
    """

    num_rows: int
    read: Callable[[int, int], list[Row]]
    left_alone: int = 0


def open_corpus(path: Path, columns: Columns, image_root: Path | None = None) -> Corpus:
    """
    Opens a source by its kind, which is that of its name.

    Args:
        path (`Path`): a folder, which is searched for images at any depth, one of `Dataset.save_to_disk`, or a file
            that ends with .txt, .csv, .tsv, .jsonl, .json or .parquet.
        columns (`Columns`): columns of a table.
        image_root (`Path`, *optional*): folder that relative paths of a table begin at, by default that of the table.
            Paths may not leave it.

    Returns:
        `Corpus`

    Raises:
        ValueError: if it is of no such kind, has no rows, or has no column with texts or images; and for a file in
            which nobody knows where rows begin. A row that is bad is known by its `error`.
    """
    if not os.path.lexists(path):
        raise ValueError(f"{printable(path)} is not there; it must be {KINDS}.")
    if saved_dataset(path) is not None or (path.suffix.lower() in TABLE_SUFFIXES and not os.path.isdir(path)):
        corpus = _table(open_records(path), columns, root_of(path, image_root))
    elif os.path.isdir(path):
        corpus = _folder(path)
    elif path.suffix.lower() == ".txt":
        records = Records(path.name, ["text"], lambda columns=None: _lines(path), None)
        corpus = _table(records, Columns(), root_of(path, image_root), empty="")
    else:
        raise ValueError(f"{printable(path)} must be {KINDS}.")
    if corpus.num_rows == 0:
        raise ValueError(f"{path} has no rows.")
    return corpus


def _folder(folder: Path) -> Corpus:
    images, left_alone = walk_images(folder)
    if not images:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise ValueError(f"{folder} has no images ({kinds}) among its {left_alone} files.")
    table = pa.table({"name": [image.name for image in images], "error": [image.error for image in images]})
    root = os.path.abspath(folder)

    def row(number: int, name: str, error: str | None) -> Row:
        if error is not None:
            return _bad_row(number, folder.name, f"{name}: {error}", name)
        return {"id": name, "text": None, "image": os.path.join(root, name), "path": name, "error": None}

    def read(start: int, stop: int) -> list[Row]:
        rows = table.slice(start, stop - start).to_pylist()
        return [row(number, **values) for number, values in enumerate(rows, start)]

    return Corpus(len(table), read, left_alone)


def _lines(path: Path) -> Iterator[Record]:
    with open_text(path) as lines:
        for line in lines:
            yield {"text": line.removesuffix("\n")}


def _table(records: Records, columns: Columns, root: ImageRoot, empty: str | None = None) -> Corpus:
    """A table is gone through once to count its rows and to see its columns, where neither is known."""
    seen, num_rows = set(records.columns or ()), records.num_rows
    if records.columns is None or num_rows is None:
        num_rows, first = 0, None
        for record in records.rows():
            num_rows += 1
            if isinstance(record, ValueError):
                first = first or record
            elif records.columns is None:
                seen.update(record)
        if not seen and first is not None:
            raise ValueError(f"No row of {records.name} can be read: {first}")
    if not num_rows:
        return Corpus(0, lambda start, stop: [])
    table = _Table(records, _choose(records.columns or sorted(seen), columns), root, empty)
    return Corpus(num_rows, table.read)


def _choose(there: list[str], columns: Columns) -> Columns:
    """The names of the columns that are read."""
    for name in filter(None, columns):
        if name not in there:
            raise ValueError(f"There is no column {name!r}; there are {', '.join(there)}.")
    defaults = {kind: name or kind for kind, name in columns._asdict().items()}
    chosen = Columns(*(name if name in there else None for name in defaults.values()))
    if chosen.text is None and chosen.image is None:
        raise ValueError(f"No column is called text or image; name one of {', '.join(there)}.")
    return chosen


class _Table:
    """Rows by their numbers; those that follow the last ones are read on, for others it begins anew."""

    def __init__(self, records: Records, names: Columns, root: ImageRoot, empty: str | None) -> None:
        self.records, self.names, self.root, self.empty = records, names, root, empty
        self.known = [name or kind for kind, name in names._asdict().items()]
        self.wanted: Iterable[str] | None = None
        if records.columns is not None:
            refuse_misnamed(records.columns, self.known)
            tell_unread(records.name, records.columns, self.known)
            self.wanted = [name for name in records.columns if name in self.known]
        self.rows: Iterator[Record] = iter(())
        self.next = -1

    def read(self, start: int, stop: int) -> list[Row]:
        if start != self.next:
            self.rows = islice(self.records.rows(self.wanted), start, None)
        read = [self._row(number, record) for number, record in zip(range(start, stop), self.rows, strict=False)]
        self.next = stop
        if len(read) < stop - start:
            raise ValueError(f"{self.records.name} has changed while it was read: it ends at row {start + len(read)}.")
        return read

    def _row(self, number: int, record: Record) -> Row:
        row_id = str(number)
        try:
            if isinstance(record, ValueError):
                raise record
            refuse_misnamed(record, self.known)
            row_id = _id_of(record, self.names.id) or row_id
            text = as_text(self._value(record, self.names.text), str(self.names.text)) or self.empty
            given = self._value(record, self.names.image)
            image = as_stored(given, str(self.names.image), self.root)
        except ValueError as error:
            return _bad_row(number, self.records.name, str(error), row_id)
        stored = None if image is None else image["path"] if image["bytes"] is None else image["bytes"]
        return {"id": row_id, "text": text, "image": stored, "path": _path_of(given, image), "error": None}

    @staticmethod
    def _value(record: dict[str, Any], name: str | None) -> Any:
        return None if name is None else record.get(name)


def _bad_row(number: int, where: str, reason: str, row_id: str) -> Row:
    error = f"Row {number} of {where}: {reason}"
    return {"id": row_id, "text": None, "image": None, "path": None, "error": error}


def _id_of(record: dict[str, Any], column: str | None) -> str | None:
    value = None if column is None else record.get(column)
    if isinstance(value, bytes | list | dict):
        raise fault(str(column), describe(value), "a name")
    check_text(None if value is None else str(value), str(column))
    return None if value is None else str(value)


def _path_of(given: Any, image: dict[str, Any] | None) -> str | None:
    """A path as the table has it, by which people know the image."""
    path = given.get("path") if isinstance(given, dict) else given
    if not isinstance(path, str) or (image is not None and image["bytes"] is not None and not isinstance(given, dict)):
        return None  # a data: URI is no path
    return (path if path.isascii() else printable(path)) or None
