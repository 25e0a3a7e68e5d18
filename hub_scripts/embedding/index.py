"""The Parquet file between `coma embed` and `coma search`: rows with their embeddings, and what made them.

Columns: `row` (number in the input), `id`, `text`, `image` (path, where there is one) and `embedding`, a list of fixed
size in fp32. The metadata of the file has the key `coma`: a JSON object with the model and its settings. Its pages
have checksums and its footer a seal, so that a file whose bytes have changed is refused and not searched.
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hub_scripts.embedding.parquet_seal import check_seal, seal


__all__ = ["Hit", "index_metadata", "index_table", "join_parts", "nearest", "part_is_good", "write_part"]

ROWS_AT_A_TIME = 8192
METADATA = b"coma"
DIGEST = b"digest"
# Embeddings do not compress, and look-up tables of them would only take time.
HOW = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
TEXTS = ("id", "text", "image")
# What the metadata of an index must have, and of which type.
KNOWN_BY = {"model": str, "num_compression_tokens": int, "dim": int, "probe": list}
AGAIN = "make it again by `coma embed`"


class Hit(NamedTuple):
    """A row of an index and its cosine to the query."""

    score: float
    row: dict[str, Any]


def index_table(first_row: int, rows: list[dict], embeddings: torch.Tensor, errors: dict[int, str]) -> pa.Table:
    """
    A part of an index, with one more column: `error`, for rows that have no embedding.

    Args:
        first_row (`int`): number of the first row.
        rows (`list[dict]`): rows of a [`Corpus`].
        embeddings (`torch.FloatTensor` of shape `(len(rows), dim)`): what is in the rows with errors does not matter.
        errors (`dict[int, str]`): what is wrong, by place. Names that are not UTF-8 stand in such rows alone, and are
            stored with escapes.

    Returns:
        `pa.Table`
    """
    flat = pa.array(embeddings.numpy().reshape(-1), pa.float32())

    def texts(column: str) -> pa.Array:
        values = [_escaped(row[column]) if place in errors else row[column] for place, row in enumerate(rows)]
        return pa.array(values, pa.string())

    return pa.table(
        {
            "row": pa.array(range(first_row, first_row + len(rows)), pa.int64()),
            "id": texts("id"),
            "text": texts("text"),
            "image": texts("path"),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1]),
            "error": pa.array([_escaped(errors.get(place)) for place in range(len(rows))], pa.string()),
        }
    )


def _escaped(text: str | None) -> str | None:
    return text if text is None else text.encode("utf-8", "backslashreplace").decode()


def write_part(path: Path, table: pa.Table, digest: str) -> None:
    """Writes a part at once: a part that is there is whole. `digest` says what it was made of."""
    with _written(path) as temporary:
        pq.write_table(table.replace_schema_metadata({DIGEST: digest}), temporary, **HOW)
        seal(temporary)


def part_is_good(path: Path, digest: str, with_errors: bool) -> bool:
    """
    Whether a part is there, was made of this, and can be read. One that cannot is made again.

    Args:
        path (`Path`): the part.
        digest (`str`): what it is to be made of.
        with_errors (`bool`): whether there may be rows without an embedding in it.
    """
    if not path.is_file():
        return False
    try:
        check_seal(path)
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return False
    if (table.schema.metadata or {}).get(DIGEST) != digest.encode():
        return False
    return with_errors or table["error"].null_count == len(table)


def join_parts(parts: Iterable[Path], out: Path, skipped: Path, metadata: dict[str, Any]) -> tuple[int, int]:
    """
    Puts parts together, a row group each, and lists the rows that have an error in a file beside it.

    Args:
        parts (`Iterable[Path]`): parts in order.
        out (`Path`): the index.
        skipped (`Path`): file with a JSON line for every row with an error; made if there are any.
        metadata (`dict[str, Any]`): what made the index.

    Returns:
        `tuple[int, int]`: how many rows have an embedding, and how many do not.

    Raises:
        ValueError: if no row has an embedding.
    """
    errors: list[dict[str, Any]] = []
    with _written(out) as temporary:
        written = _write_index(temporary, parts, metadata, errors)
        if not written:
            why = f" {errors[0]['error']}" if errors else ""
            raise ValueError(f"None of the {len(errors)} rows could be embedded.{why}")
        seal(temporary)
        if errors:
            with _written(skipped) as list_of_errors:
                lines = (json.dumps(error, ensure_ascii=False) + "\n" for error in errors)
                list_of_errors.write_text("".join(lines), encoding="utf-8")
        else:  # an earlier run may have had some
            skipped.unlink(missing_ok=True)
    return written, len(errors)


def _write_index(path: Path, parts: Iterable[Path], metadata: dict[str, Any], errors: list[dict[str, Any]]) -> int:
    """Writes the rows that have an embedding, and returns how many; those that have none are appended to `errors`."""
    written, writer = 0, None
    try:
        for part in parts:
            table = pq.read_table(part, page_checksum_verification=True)
            bad = table["error"].is_valid()
            errors += table.filter(bad).select(["row", "id", "image", "error"]).to_pylist()
            table = table.filter(table["error"].is_null()).drop_columns(["error"])
            if writer is None:
                schema = table.schema.with_metadata({METADATA: json.dumps(metadata)})
                writer = pq.ParquetWriter(path, schema, **HOW)
            writer.write_table(table.cast(schema))
            written += len(table)
    finally:
        if writer is not None:
            writer.close()
    return written


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A file beside it to write to, which takes its place if all went well, and is gone otherwise."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        what = error.strerror or error
        raise OSError(f"{path} cannot be written: {what}. Mend that and go on by the same command.") from error
    finally:
        temporary.unlink(missing_ok=True)


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
    for name, kind in KNOWN_BY.items():
        found = made.get(name) if isinstance(made, dict) else None
        if not isinstance(found, kind) or isinstance(found, bool):
            raise ValueError(f"The metadata of {path} are damaged: {name!r} is {found!r}. {AGAIN.capitalize()}.")
    if not made["probe"] or not all(isinstance(number, float) and math.isfinite(number) for number in made["probe"]):
        raise ValueError(f"The metadata of {path} are damaged: 'probe' is no list of numbers. {AGAIN.capitalize()}.")
    return made


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    """
    A Parquet file, opened. What goes wrong in the context is said with the name of the file.

    Raises:
        ValueError: if it is no file, no Parquet, or damaged.
    """
    if not path.exists():
        raise ValueError(f"{path} is not there: give the Parquet file that `coma embed` made.")
    if not path.is_file():
        raise ValueError(f"{path} is no file: give the Parquet file that `coma embed` made.")
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
        scores, places, first = torch.empty(0), torch.empty(0, dtype=torch.long), 0
        for batch in file.iter_batches(ROWS_AT_A_TIME, columns=["embedding"]):
            found = _matrix(batch.column(0), path, first) @ query
            if not torch.isfinite(found).all():
                _refuse_row(path, first + int((~torch.isfinite(found)).nonzero()[0]), "numbers that are not finite")
            scores = torch.cat([scores, found])
            places = torch.cat([places, torch.arange(first, first + len(batch))])
            order = torch.sort(scores, descending=True, stable=True).indices[:k]
            scores, places, first = scores[order], places[order], first + len(batch)
        if first != file.metadata.num_rows:
            raise OSError(f"it has {first} embeddings of {file.metadata.num_rows} rows")
        rows = _rows_at(file, places.tolist())
    return [Hit(score, row) for score, row in zip(scores.tolist(), rows, strict=True)]


def _check_columns(path: Path, file: pq.ParquetFile, dim: int) -> None:
    kinds = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
    if missing := {"row", *TEXTS, "embedding"} - kinds.keys():
        raise ValueError(f"{path} has no column {min(missing)!r}, only {', '.join(kinds)}: {AGAIN}.")
    kind, is_text = kinds["embedding"], (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    expected = pa.list_(pa.float32(), dim)
    if not pa.types.is_fixed_size_list(kind) or (kind.value_type, kind.list_size) != (pa.float32(), dim):
        raise ValueError(f"The column 'embedding' of {path} is {kind} and not {expected}: {AGAIN}.")
    wrong = [name for name in TEXTS if not any(fits(kinds[name]) for fits in is_text)]
    if wrong or not pa.types.is_integer(kinds["row"]):
        name = wrong[0] if wrong else "row"
        raise ValueError(
            f"The column {name!r} of {path} is {kinds[name]}, which `coma embed` does not write: {AGAIN}."
        )
    if file.metadata.num_rows == 0:
        raise ValueError(f"{path} has no rows.")


def _matrix(column: pa.FixedSizeListArray, path: Path, first: int) -> torch.Tensor:
    """Embeddings as they lie in the file. Missing ones would move all that follow."""
    if column.null_count:
        _refuse_row(path, first + column.is_null().index(True).as_py(), "no embedding")
    flat = column.flatten().to_numpy(zero_copy_only=False)  # a missing number becomes NaN
    return torch.from_numpy(np.array(flat, copy=not flat.flags.writeable)).view(len(column), -1)


def _refuse_row(path: Path, place: int, what: str) -> None:
    raise ValueError(f"Row {place} of {path} has {what}: {AGAIN}.")


def _rows_at(file: pq.ParquetFile, places: list[int]) -> list[dict[str, Any]]:
    """What stands at some places, read from the row groups that have one of them."""
    found, first = {}, 0
    for number in range(file.num_row_groups):
        length = file.metadata.row_group(number).num_rows
        here = [place for place in places if first <= place < first + length]
        if here:
            table = file.read_row_group(number, columns=["row", "id", "text", "image"])
            rows = table.take([place - first for place in here]).to_pylist()
            found |= dict(zip(here, rows, strict=True))
        first += length
    return [found[place] for place in places]
