"""The Parquet file between `coma embed` and `coma search`: rows with their embeddings, and what made them.

Columns: `row` (number in the input), `id`, `text`, `image` (path, where there is one) and `embedding`, a list of fixed
size in fp32. The metadata of the file has the key `coma`: a JSON object with the model and its settings.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch


__all__ = ["Hit", "index_metadata", "index_table", "join_parts", "nearest", "read_part_digest", "write_part"]

ROWS_AT_A_TIME = 8192
METADATA = b"coma"
DIGEST = b"digest"


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
        errors (`dict[int, str]`): what is wrong, by place.

    Returns:
        `pa.Table`
    """
    flat = pa.array(embeddings.numpy().reshape(-1), pa.float32())
    return pa.table(
        {
            "row": pa.array(range(first_row, first_row + len(rows)), pa.int64()),
            "id": pa.array([row["id"] for row in rows], pa.string()),
            "text": pa.array([row["text"] for row in rows], pa.string()),
            "image": pa.array([row["path"] for row in rows], pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1]),
            "error": pa.array([errors.get(place) for place in range(len(rows))], pa.string()),
        }
    )


def write_part(path: Path, table: pa.Table, digest: str) -> None:
    """Writes a part at once: a part that is there is whole. `digest` says what it was made of."""
    temporary = path.with_suffix(".writing")
    # Embeddings do not compress, and look-up tables of them would only take time.
    pq.write_table(
        table.replace_schema_metadata({DIGEST: digest}), temporary, compression="none", use_dictionary=False
    )
    temporary.replace(path)


def read_part_digest(path: Path) -> str | None:
    """What a part was made of; `None` if it is not there."""
    return pq.read_schema(path).metadata[DIGEST].decode() if path.exists() else None


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
    temporary, writer, errors, written = out.with_name(f".{out.name}.writing"), None, [], 0
    for part in parts:
        table = pq.read_table(part)
        bad = table["error"].is_valid()
        errors += table.filter(bad).select(["row", "id", "error"]).to_pylist()
        table = table.filter(table["error"].is_null()).drop_columns(["error"])
        if writer is None:
            schema = table.schema.with_metadata({METADATA: json.dumps(metadata)})
            writer = pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=False)
        writer.write_table(table.cast(schema))
        written += len(table)
    writer.close()
    if not written:
        temporary.unlink()
        raise ValueError(f"None of the {len(errors)} rows could be embedded. {errors[0]['error']}")
    if errors:
        skipped.write_text("".join(json.dumps(e, ensure_ascii=False) + "\n" for e in errors), encoding="utf-8")
    temporary.replace(out)
    return written, len(errors)


def index_metadata(path: Path) -> dict[str, Any]:
    """
    What made an index.

    Raises:
        ValueError: if the file was not written by `coma embed`.
    """
    metadata = pq.read_schema(path).metadata or {}
    if METADATA not in metadata:
        raise ValueError(f"{path} was not written by `coma embed`: its metadata has no key {METADATA.decode()!r}.")
    return json.loads(metadata[METADATA])


def nearest(path: Path, query: torch.Tensor, k: int) -> list[Hit]:
    """
    The rows whose embeddings have the largest products with the query: exact, a piece of the file at a time.

    Args:
        path (`Path`): an index.
        query (`torch.FloatTensor` of shape `(dim,)`): embedding of the query.
        k (`int`): how many; fewer if there are fewer rows.

    Returns:
        `list[Hit]`: best first; equal scores in the order of the rows.
    """
    file = pq.ParquetFile(path, memory_map=True)
    scores, places, first = torch.empty(0), torch.empty(0, dtype=torch.long), 0
    for batch in file.iter_batches(ROWS_AT_A_TIME, columns=["embedding"]):
        flat = batch.column(0).flatten().to_numpy(zero_copy_only=False)
        found = torch.from_numpy(np.array(flat, copy=not flat.flags.writeable)).view(len(batch), -1) @ query
        scores = torch.cat([scores, found])
        places = torch.cat([places, torch.arange(first, first + len(batch))])
        order = torch.sort(scores, descending=True, stable=True).indices[:k]
        scores, places, first = scores[order], places[order], first + len(batch)
    rows = _rows_at(file, places.tolist())
    return [Hit(score, row) for score, row in zip(scores.tolist(), rows, strict=True)]


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
