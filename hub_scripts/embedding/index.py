"""What `coma embed` makes: a Parquet file of rows with their embeddings and of what made them, or a folder of such.

Columns: `row` (number in the input), `id`, `text`, `image` (path, where there is one) and `embedding`; how that is
kept, and the column `bits` of ubinary, are in `precision.py`. The metadata of a file has the key `coma`: a JSON object
with the model and its settings, with `dim`, the numbers of an embedding of the model, `dims`, those of them that are
kept, `precision`, and `ranges` where vectors are in steps; with several vectors of a row `vectors`, their number,
`query_vectors`, of how many of a query the model was trained to compare with them, and `vector_ranges`; with the
memory of a row, in the columns of `stored_memory.py`, `memory`, the kind and the shapes of it. Files without
`dims` and `precision` are older, and have whole vectors in float32. Pages have checksums and the footer has a seal, so
that a file whose bytes have changed is refused and not searched.

A folder has files `part-00000.parquet` and so on, each complete in itself; `num_files` in their metadata, where it is,
says how many. Their ranges may differ: each file is read with its own.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hub_scripts.embedding.parquet_seal import seal
from hub_scripts.embedding.precision import SeveralVectors, VectorForm, cut_vectors
from hub_scripts.embedding.stored_memory import StoredMemory
from trainers.encoding.shards import open_shard
from trainers.files import whole_file, whole_folder


__all__ = ["METADATA", "SUFFIX", "file_name", "index_schema", "with_ranges", "write_file", "write_index"]

SUFFIX = ".parquet"
METADATA = b"coma"
# Embeddings do not compress, and look-up tables or the extremes of them would only take time and space.
HOW = {"compression": "none", "use_dictionary": False, "write_page_checksum": True, "write_statistics": ["row"]}
COLUMNS = {"row": pa.int64(), **dict.fromkeys(("id", "text", "image"), pa.string())}
SHARDS_OF_A_FILE = 32  # in a folder
# Of ubinary few rows are read of `embedding`, each with all rows of its group.
ROWS_OF_A_GROUP = {"ubinary": 256}
ROWS_WITH_SEVERAL = 64  # of a group: a search reads the several vectors of few rows
BYTES_OF_MEMORIES = 2**24  # of a group at most, if one is not more: an answer reads the memory of few rows


def write_index(out: Path, shards: Sequence[Path], skipped: Path, metadata: dict[str, Any]) -> tuple[int, int]:
    """
    Makes an index of shards, and lists the rows that have an error in a file beside it.

    Args:
        out (`Path`): the index: a file if its name ends with `.parquet`, else a folder.
        shards (`Sequence[Path]`): shards with the columns of an index, in order, and whole embeddings in fp32.
        skipped (`Path`): file with a JSON line for every row with an error; made if there are any.
        metadata (`dict[str, Any]`): what made the index, with `dim`, and maybe `dims`, `precision`, `vectors` and
            `memory`.

    Returns:
        `tuple[int, int]`: how many rows have an embedding, and how many do not.

    Raises:
        ValueError: if no row has an embedding, and for a shard that is damaged.
        OSError: if it cannot be written.
    """
    errors, num_rows = [], 0
    metadata = with_ranges(metadata, map(open_shard, shards))
    is_file = out.suffix.lower() == SUFFIX
    with (whole_file if is_file else whole_folder)(out) as temporary:
        files = {temporary: shards}
        if not is_file:
            some = [shards[start : start + SHARDS_OF_A_FILE] for start in range(0, len(shards), SHARDS_OF_A_FILE)]
            files = {temporary / file_name(number): shards for number, shards in enumerate(some)}
            metadata |= {"num_files": len(files)}
        for file, its_shards in files.items():
            written, failed = write_file(file, map(open_shard, its_shards), metadata)
            num_rows, errors = num_rows + written, errors + failed
        if not num_rows:
            why = f" {errors[0]['error']}" if errors else ""
            raise ValueError(f"None of the {len(errors)} rows could be embedded.{why}")
        if errors:
            with whole_file(skipped) as list_of_errors:
                lines = (json.dumps(error, ensure_ascii=False) + "\n" for error in errors)
                list_of_errors.write_text("".join(lines), encoding="utf-8")
        else:  # an earlier run may have had some
            skipped.unlink(missing_ok=True)
    return num_rows, len(errors)


def file_name(number: int) -> str:
    """What a file of a folder is called, from 0."""
    return f"part-{number:05d}{SUFFIX}"


def with_ranges(metadata: dict[str, Any], tables: Iterable[pa.Table]) -> dict[str, Any]:
    """
    Metadata that say how vectors are kept, with the ranges of tables where that is in steps and none are given.

    Args:
        metadata (`dict[str, Any]`): as in [`write_index`].
        tables (`Iterable[pa.Table]`): as in [`write_file`]; they are gone through only if ranges are looked for.

    Raises:
        ValueError: for a vector that cannot be cut.
    """
    form, several = VectorForm.of(metadata), SeveralVectors.of(metadata)
    metadata = {**metadata, "dims": form.dims, "precision": form.precision}
    forms = {"embedding": form} | ({"vectors": several.form} if several else {})
    forms = {column: form for column, form in forms.items() if form.needs_ranges and form.ranges is None}
    for table in tables if forms else ():
        rows = _good_rows(table)
        forms = {column: form.widened(_vectors(rows, column, form.dims)) for column, form in forms.items()}
    names = {"embedding": "ranges", "vectors": "vector_ranges"}
    return metadata | {names[column]: form.ranges.tolist() for column, form in forms.items()}


def write_file(path: Path, tables: Iterable[pa.Table], metadata: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """
    Writes one sealed file, which is an index, or one of the files of a folder. It is for the caller to write to a
    place of its own first, as [`~trainers.files.whole_file`] gives.

    Args:
        path (`Path`): the file.
        tables (`Iterable[pa.Table]`): rows with the columns of an index, their whole embeddings in fp32, and `error`,
            which is null or says why there is no embedding; `vectors`, where there are several, and the columns of
            memories where they are kept. A table is a row group; one of ubinary has 256 rows, one with several
            vectors or with memories 64, or as many as have 16 MiB of these.
        metadata (`dict[str, Any]`): of [`with_ranges`].

    Returns:
        `tuple[int, list[dict]]`: how many rows were written, and `row`, `id`, `image` and `error` of the others.

    Raises:
        ValueError: for a vector that cannot be cut.
        OSError: if it cannot be written.
    """
    form, several, memory = VectorForm.of(metadata), SeveralVectors.of(metadata), StoredMemory.of(metadata)
    errors, num_rows = [], 0
    schema = index_schema(form, several, memory).with_metadata({METADATA: json.dumps(metadata)})
    rows_of_a_group = ROWS_WITH_SEVERAL if several or memory else ROWS_OF_A_GROUP.get(form.precision)
    if memory:
        rows_of_a_group = max(1, min(rows_of_a_group, BYTES_OF_MEMORIES // memory.num_bytes))
    with pq.ParquetWriter(path, schema, **HOW) as writer:
        for table in tables:
            errors += table.filter(table["error"].is_valid()).select(["row", "id", "image", "error"]).to_pylist()
            rows = _good_rows(table)
            columns = [rows[name] for name in COLUMNS]
            columns += form.encode(_vectors(rows, "embedding", form.dims))
            if several:
                columns += several.form.encode(_vectors(rows, "vectors", several.form.dims))
            if memory:
                columns += [memory.encode(_numbers(rows, "memory")), rows["memory_position"]]
            encoded = pa.table(columns, names=schema.names).cast(schema)
            writer.write_table(encoded, row_group_size=rows_of_a_group or max(1, len(rows)))
            num_rows += len(rows)
    seal(path)
    return num_rows, errors


def index_schema(
    form: VectorForm, several: SeveralVectors | None = None, memory: StoredMemory | None = None
) -> pa.Schema:
    """The columns of a file whose vectors have this form, and maybe of several vectors and the memory of each row."""
    others = {name: kind for one in (several, memory) if one for name, kind in one.columns.items()}
    return pa.schema({**COLUMNS, **form.columns, **others})


def _good_rows(table: pa.Table) -> pa.Table:
    return table.filter(table["error"].is_null())


def _vectors(rows: pa.Table, name: str, dims: int) -> np.ndarray:
    """The vectors of rows in fp32, those of a column, cut to their first numbers."""
    vectors = cut_vectors(_numbers(rows, name), dims)
    if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
        row = rows["row"][int(bad[0])]
        raise ValueError(f"Row {row}: the first {dims} numbers of its embedding are all 0 and have no direction.")
    return vectors


def _numbers(rows: pa.Table, name: str) -> np.ndarray:
    """Those of a column of lists, a row for each."""
    column = rows[name].combine_chunks()
    return column.flatten().to_numpy().reshape(-1, column.type.list_size)
