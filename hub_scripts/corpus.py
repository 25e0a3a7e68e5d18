"""What `coma embed` reads: a folder of pictures, a text with a row per line, or a table; a piece at a time.

Every source becomes rows of three columns: `id`, `text` and `image`, where a picture is the path of a file or the
bytes of one. Nothing is decoded here.
"""

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv


__all__ = ["Columns", "Corpus", "open_corpus"]

PICTURES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
NAMES = ("id", "text", "image")

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
        read (`Callable[[int, int], list[dict]]`): rows from one number up to, and without, another; each has `id`
            (`str`), `text` (`str` or `None`), `image` (`str`, `bytes` or `None`) and `path` (`str` or `None`).
        left_alone (`int`): files of a folder that are no pictures.
    """

    num_rows: int
    read: Callable[[int, int], list[Row]]
    left_alone: int = 0


def open_corpus(path: Path, columns: Columns, image_root: Path | None = None) -> Corpus:
    """
    Opens a source by its kind, which is that of its name.

    Args:
        path (`Path`): a folder, which is searched for pictures at any depth, or a file that ends with .txt, .csv,
            .tsv, .jsonl or .parquet.
        columns (`Columns`): columns of a table.
        image_root (`Path`, *optional*): folder that relative paths of a table begin at, by default that of the table.

    Returns:
        `Corpus`

    Raises:
        ValueError: if it is of no such kind, has no rows, or has no column with texts or pictures.
    """
    image_root = path.parent if image_root is None else image_root
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise ValueError(f"{path} is not there; give a folder of pictures or a .txt, .csv, .tsv, .jsonl or .parquet.")
    if path.suffix == ".txt":
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        corpus = _from_table(pa.table({"text": lines}), Columns(), image_root)
    elif path.suffix in (".csv", ".tsv"):
        corpus = _from_table(_read_csv(path, columns), columns, image_root)
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as lines:
            corpus = _from_table(_read_jsonl(path, lines, columns), columns, image_root)
    elif path.suffix == ".parquet":
        corpus = _from_parquet(path, columns, image_root)
    else:
        raise ValueError(f"{path} must be a folder of pictures or end with .txt, .csv, .tsv, .jsonl or .parquet.")
    if corpus.num_rows == 0:
        raise ValueError(f"{path} has no rows.")
    return corpus


def _folder(folder: Path) -> Corpus:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    pictures = [str(file.relative_to(folder)) for file in files if file.suffix.lower() in PICTURES]
    if not pictures:
        raise ValueError(f"{folder} has no pictures ({', '.join(PICTURES)}) among its {len(files)} files.")
    table = pa.table({"id": pictures, "image": pictures})
    return _from_table(table, Columns(), folder)._replace(left_alone=len(files) - len(pictures))


def _read_csv(path: Path, columns: Columns) -> pa.Table:
    # Whatever it looks like, a text is a text; only an empty field is none.
    types = {name: pa.string() for name in (*NAMES, *filter(None, columns))}
    convert = csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
    parse = csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",", newlines_in_values=True)
    return csv.read_csv(path, parse_options=parse, convert_options=convert)


def _read_jsonl(path: Path, lines: Iterable[str], columns: Columns) -> pa.Table:
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"Line {number + 1} of {path} is not JSON: {error}") from error
        if not isinstance(rows[-1], dict):
            raise ValueError(f"Line {number + 1} of {path} is not an object: {line[:80]!r}")
    wanted = {*NAMES, *filter(None, columns)}
    found = {name: None for row in rows for name in row if name in wanted}
    try:
        return pa.table({name: [row.get(name) for row in rows] for name in found})
    except pa.ArrowException as error:
        raise ValueError(f"A column of {path} has values of several types: {error}") from error


def _from_table(table: pa.Table, columns: Columns, image_root: Path) -> Corpus:
    names = _choose(table.schema, columns)

    def read(start: int, stop: int) -> list[Row]:
        return _rows(table.slice(start, stop - start), names, start, image_root)

    return Corpus(len(table), read)


def _from_parquet(path: Path, columns: Columns, image_root: Path) -> Corpus:
    file = pq.ParquetFile(path, memory_map=True)
    names = _choose(file.schema_arrow, columns)
    groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]

    @functools.lru_cache(maxsize=1)  # the next piece often begins in the group in which this one ends
    def read_group(number: int) -> pa.Table:
        return file.read_row_group(number, columns=[name for name in names.values() if name])

    def read(start: int, stop: int) -> list[Row]:
        rows, first = [], 0
        for number, length in enumerate(groups):
            begin, end = max(start, first), min(stop, first + length)
            if begin < end:
                rows += _rows(read_group(number).slice(begin - first, end - begin), names, begin, image_root)
            first += length
        return rows

    return Corpus(file.metadata.num_rows, read)


def _choose(schema: pa.Schema, columns: Columns) -> dict[str, str | None]:
    names = {}
    for default, name in columns._asdict().items():
        if name is not None and name not in schema.names:
            raise ValueError(f"There is no column {name!r}; there are {', '.join(schema.names)}.")
        names[default] = name or (default if default in schema.names else None)
    if names["text"] is None and names["image"] is None:
        raise ValueError(f"No column is called text or image; name one of {', '.join(schema.names)}.")
    for kind, allowed in (("text", _is_text), ("image", _is_image)):
        if names[kind] is not None and not allowed(schema.field(names[kind]).type):
            raise ValueError(f"Column {names[kind]!r} is {schema.field(names[kind]).type} and not {kind}.")
    return names


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return {"bytes", "path"} == {field.name for field in kind}
    return _is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _rows(table: pa.Table, names: dict[str, str | None], first: int, image_root: Path) -> list[Row]:
    empty = [None] * len(table)
    columns = {kind: table[name].to_pylist() if name else empty for kind, name in names.items()}
    rows = []
    for number, (row_id, text, image) in enumerate(zip(*columns.values(), strict=True), first):
        path = image
        if isinstance(image, dict):
            image, path = image["bytes"] or image["path"], image["path"]
        if isinstance(image, str):
            image = str(image_root / image)
        path = path if isinstance(path, str) else None
        rows.append({"id": str(number if row_id is None else row_id), "text": text, "image": image, "path": path})
    return rows
