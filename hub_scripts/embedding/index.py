"""The Parquet file between `coma embed` and `coma search`: rows with their embeddings, and what made them.

Columns: `row` (number in the input), `id`, `text`, `image` (path, where there is one) and `embedding`, a list of fixed
size in fp32. The metadata of the file has the key `coma`: a JSON object with the model and its settings. Its pages
have checksums and its footer has a seal, so that a file whose bytes have changed is refused and not searched.
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hub_scripts.embedding.parquet_seal import check_seal, seal
from trainers.encoding.nearest import nearest_documents
from trainers.encoding.shards import open_shard
from trainers.files import whole_file
from trainers.ranges import COUNT


__all__ = ["Hit", "count_rows", "embeddings_at", "find_row", "index_metadata", "nearest", "write_index"]

ROWS_AT_A_TIME = 8192
METADATA = b"coma"
# Embeddings do not compress, and look-up tables of them would only take time.
HOW = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
AGAIN = "make it again by `coma embed`"


class Hit(NamedTuple):
    """A row of an index and its cosine to the query."""

    score: float
    row: dict[str, Any]


def write_index(out: Path, shards: Iterable[Path], skipped: Path, metadata: dict[str, Any]) -> tuple[int, int]:
    """
    Copies shards to an index, a row group each, and lists the rows that have an error in a file beside it.

    Args:
        out (`Path`): the index.
        shards (`Iterable[Path]`): shards with the columns of an index, in order.
        skipped (`Path`): file with a JSON line for every row with an error; made if there are any.
        metadata (`dict[str, Any]`): what made the index, with `dim`.

    Returns:
        `tuple[int, int]`: how many rows have an embedding, and how many do not.

    Raises:
        ValueError: if no row has an embedding, and for a shard that is damaged.
        OSError: if it cannot be written.
    """
    schema = _schema(metadata["dim"]).with_metadata({METADATA: json.dumps(metadata)})
    errors, num_rows = [], 0
    with whole_file(out) as temporary:
        with pq.ParquetWriter(temporary, schema, **HOW) as writer:
            for shard in map(open_shard, shards):
                errors += shard.filter(shard["error"].is_valid()).select(["row", "id", "image", "error"]).to_pylist()
                rows = shard.filter(shard["error"].is_null()).select(schema.names)
                writer.write_table(rows.cast(schema))
                num_rows += len(rows)
        if not num_rows:
            why = f" {errors[0]['error']}" if errors else ""
            raise ValueError(f"None of the {len(errors)} rows could be embedded.{why}")
        seal(temporary)
        if errors:
            with whole_file(skipped) as list_of_errors:
                lines = (json.dumps(error, ensure_ascii=False) + "\n" for error in errors)
                list_of_errors.write_text("".join(lines), encoding="utf-8")
        else:  # an earlier run may have had some
            skipped.unlink(missing_ok=True)
    return num_rows, len(errors)


def index_metadata(path: Path) -> dict[str, Any]:
    """
    What made an index.

    Raises:
        ValueError: if the file was not written by `coma embed`, or is damaged.
    """
    with _open(path) as file:
        metadata = file.schema_arrow.metadata or {}
    if METADATA not in metadata:
        raise ValueError(f"{path} was not written by `coma embed`: its metadata has no key {METADATA.decode()!r}.")
    try:
        made = json.loads(metadata[METADATA])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The metadata of {path} are damaged ({error}): {AGAIN}.") from error
    for name, fits in METADATA_OF_INDEX.items():
        found = made.get(name) if isinstance(made, dict) else None
        if not fits(found):
            raise ValueError(f"The metadata of {path} are damaged: {name!r} is {found!r:.99}. {AGAIN.capitalize()}.")
    return made


def _is_probe(found: Any) -> bool:
    numbers = found if isinstance(found, list) else []
    return bool(numbers) and all(isinstance(number, float) and math.isfinite(number) for number in numbers)


# What the metadata of an index must have.
METADATA_OF_INDEX = {
    "model": lambda found: isinstance(found, str),
    "num_compression_tokens": COUNT.holds,
    "dim": COUNT.holds,
    "probe": _is_probe,
}


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    """
    A Parquet file, opened. What goes wrong in the context is said with the name of the file.

    Raises:
        ValueError: if it is no file, no Parquet, or damaged.
    """
    if not path.is_file():
        what = "is no file" if path.exists() else "is not there"
        raise ValueError(f"{path} {what}: give the Parquet file that `coma embed` made.")
    try:
        check_seal(path)
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            yield file
    except PermissionError:  # it names the file, which need not be damaged
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as Parquet; it is of another kind or damaged: {error}") from error


def nearest(path: Path, query: torch.Tensor, k: int) -> list[Hit]:
    """
    The rows whose embeddings have the largest products with the query: exact, a piece of the file at a time.

    Args:
        path (`Path`): an index.
        query (`torch.FloatTensor` of shape `(dim,)`): embedding of the query.
        k (`int`): how many; fewer if there are fewer rows.

    Returns:
        `list[Hit]`: best first; equal scores in the order of the rows.

    Raises:
        ValueError: if the file is damaged or has no rows, or if numbers in it or in the query are not finite.
    """
    if not torch.isfinite(query).all():
        raise ValueError("The embedding of the query has numbers that are not finite; try --dtype float32.")
    with _open(path) as file:
        _check_columns(path, file, len(query))
        scores, numbers = nearest_documents(query[None], _blocks(path, file), k)
        rows = _rows_at(file, numbers[0].tolist())
    return [Hit(score, row) for score, row in zip(scores[0].tolist(), rows, strict=True)]


def _schema(dim: int) -> pa.Schema:
    texts = dict.fromkeys(("id", "text", "image"), pa.string())
    return pa.schema({"row": pa.int64(), **texts, "embedding": pa.list_(pa.float32(), dim)})


def _check_columns(path: Path, file: pq.ParquetFile, dim: int) -> None:
    found = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
    for column in _schema(dim):
        if column.name not in found:
            raise ValueError(f"{path} has no column {column.name!r}, only {', '.join(found)}: {AGAIN}.")
        if not _is_like(found[column.name], column.type):
            kind = f"{found[column.name]} and not {column.type}"
            raise ValueError(f"The column {column.name!r} of {path} is {kind}: {AGAIN}.")
    if file.metadata.num_rows == 0:
        raise ValueError(f"{path} has no rows.")


def _is_like(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether a type is one by which other programs write the same."""
    if pa.types.is_fixed_size_list(expected) and pa.types.is_fixed_size_list(found):
        return (found.value_type, found.list_size) == (expected.value_type, expected.list_size)
    if pa.types.is_string(expected):
        return found in (pa.string(), pa.large_string(), pa.null())
    return pa.types.is_integer(expected) and pa.types.is_integer(found)


def _blocks(path: Path, file: pq.ParquetFile) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Numbers of rows and their embeddings as they lie in the file, some at a time."""
    first = 0
    for batch in file.iter_batches(ROWS_AT_A_TIME, columns=["embedding"]):
        column = batch.column(0)
        if column.null_count:  # a missing one would move all that follow
            _refuse_row(path, first + column.is_null().index(True).as_py(), "no embedding")
        flat = column.flatten().to_numpy(zero_copy_only=False)  # a missing number becomes NaN
        embeddings = torch.from_numpy(np.array(flat, copy=not flat.flags.writeable)).view(len(column), -1)
        if len(bad := (~embeddings.isfinite()).nonzero()):
            _refuse_row(path, first + int(bad[0, 0]), "numbers that are not finite")
        yield np.arange(first, first + len(batch)), embeddings
        first += len(batch)
    if first != file.metadata.num_rows:
        raise OSError(f"it has {first} embeddings of {file.metadata.num_rows} rows")


def _refuse_row(path: Path, row: int, what: str) -> NoReturn:
    raise ValueError(f"Row {row} of {path} has {what}: {AGAIN}.")


def _rows_at(file: pq.ParquetFile, numbers: list[int]) -> list[dict[str, Any]]:
    """What stands in some rows, read from the row groups that have one of them."""
    found, first = {}, 0
    for group in range(file.num_row_groups):
        stop = first + file.metadata.row_group(group).num_rows
        here = [number for number in numbers if first <= number < stop]
        if here:
            table = file.read_row_group(group, columns=["row", "id", "text", "image"])
            rows = table.take([number - first for number in here]).to_pylist()
            found |= dict(zip(here, rows, strict=True))
        first = stop
    return [found[number] for number in numbers]


def count_rows(path: Path) -> int:
    """
    How many rows an index has.

    Raises:
        ValueError: if the file is damaged.
    """
    with _open(path) as file:
        return file.metadata.num_rows


def embeddings_at(path: Path, places: np.ndarray) -> torch.Tensor:
    """
    Some embeddings of an index, in one pass over the file that holds no more than a piece of it.

    Args:
        path (`Path`): an index.
        places (`np.ndarray` of shape `(num_places,)`): places of rows in the file, in rising order.

    Returns:
        `torch.FloatTensor` of shape `(num_places, dim)`.

    Raises:
        ValueError: if the file is damaged.
    """
    found = []
    with _open(path) as file:
        for numbers, embeddings in _blocks(path, file):
            start, stop = np.searchsorted(places, (numbers[0], numbers[-1] + 1))
            found.append(embeddings[torch.from_numpy(places[start:stop] - numbers[0])])
    return torch.cat(found)


def find_row(path: Path, number: int) -> tuple[dict[str, Any], torch.Tensor]:
    """
    A row of an index and its embedding, by the number that it had in the input.

    Args:
        path (`Path`): an index.
        number (`int`): what stands in its column `row`.

    Returns:
        `tuple[dict, torch.FloatTensor]`: the row, as [`Hit`] has it, and the embedding of shape `(dim,)`.

    Raises:
        ValueError: if there is no such row, or the file is damaged.
    """
    with _open(path) as file:
        for group in range(file.num_row_groups):
            numbers = file.read_row_group(group, columns=["row"])["row"].to_numpy()
            if len(places := np.flatnonzero(numbers == number)):
                row = file.read_row_group(group).slice(int(places[0]), 1).to_pylist()[0]
                return row, torch.tensor(row.pop("embedding"))
    raise ValueError(f"{path} has no row {number}.")
