"""Files of the sets of MMEB in a folder, and what they have."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, load_dataset

from trainers.data.image_folders import is_system_file
from trainers.data.schema import check_text
from trainers.data.tables import open_records


__all__ = ["files_of", "part_of", "rows_in", "table_in"]

KINDS = ("parquet", "jsonl")


def part_of(folder: Path, name: str) -> Path | None:
    """A folder with Parquet or JSON-lines files, or one such file."""
    there = [path for suffix in ("", ".parquet", ".jsonl") if (path := folder / f"{name}{suffix}").exists()]
    if len(there) > 1:  # a folder without tables has images
        there = [path for path in there if path.is_file() or any(any(path.glob(f"*.{kind}")) for kind in KINDS)]
    if len(there) > 1:
        raise ValueError(f"{folder} has the set {name} twice, {' and '.join(path.name for path in there)}: keep one.")
    return there[0] if there else None


def files_of(path: Path) -> list[Path]:
    """A file, or all files of a folder in the order of their names, which are of one kind."""
    if not path.is_dir():
        return [path]
    files = sorted(file for kind in KINDS for file in path.glob(f"*.{kind}") if not is_system_file(file.name))
    if len({file.suffix for file in files}) > 1:
        raise ValueError(f"{path} has .parquet and .jsonl files, and one of the two would not be read: keep one kind.")
    if not files:
        raise ValueError(f"{path} has no .parquet and no .jsonl file.")
    return files


def rows_in(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, or of all files of a folder, whose texts are texts."""
    rows = []
    for file in files_of(path):
        for row_idx, row in enumerate(open_records(file).rows()):
            try:
                if isinstance(row, ValueError):
                    raise row
                for column, value in row.items():
                    for text in value if isinstance(value, list) else [value]:
                        check_text(text if isinstance(text, str) else None, column)
            except ValueError as error:
                raise ValueError(f"Row {row_idx} of {file} is bad: {error}") from error
            rows.append(row)
    return rows


def table_in(path: Path, table: str) -> Dataset:
    """A table of a set of visual documents; its pages are too large to be read at once, and are mapped into memory."""
    folder = path / table
    if not folder.exists():
        raise ValueError(f"{path} has no folder {table}.")
    files = files_of(folder)
    if table == "corpus" and files[0].suffix == ".parquet":
        for file in files:
            open_records(file)  # which says what is wrong with a damaged one
        return load_dataset("parquet", data_files=list(map(str, files)), split="train")
    try:
        return Dataset.from_list(rows_in(folder))
    except pa.ArrowException as error:
        raise ValueError(f"{folder}: a column has values of several types: {error}") from error
