"""How an index is read: a file of `coma embed`, or a folder of files, which are one after another like one file.

Nothing is held but what is asked for: files are mapped into memory, and opened one at a time.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hub_scripts.common.arguments import PRECISIONS
from hub_scripts.embedding.index import METADATA, file_name, index_schema
from hub_scripts.embedding.parquet_seal import check_seal
from hub_scripts.embedding.precision import SeveralVectors, VectorForm
from hub_scripts.embedding.stored_memory import StoredMemory, is_memory_record
from hub_scripts.hub.golden import ANY_PRECISION, same_embeddings
from trainers.encoding.memory_rows import MemoryRows
from trainers.files import differences
from trainers.ranges import COUNT


__all__ = ["Rows", "Vectors", "count_rows", "find_row", "index_metadata", "memory_at", "read_rows", "read_vectors"]
__all__ += ["rows_at"]

ROWS_AT_A_TIME = 2048  # much larger pieces would be new memory each time, which is slow
AGAIN = "make it again by `coma embed`"
# And the model, by its probe.
OF_ONE_INDEX = ("num_compression_tokens", "dim", "dims", "precision", "num_files", "vectors", "query_vectors")
OF_ONE_INDEX += ("memory",)


class Rows(NamedTuple):
    """
    Rows of an index, as they lie in it.

    Args:
        file (`Path`): the file that they lie in.
        form ([`VectorForm`]): how vectors are kept in that file.
        numbers (`np.ndarray` of shape `(num_rows,)`): of the rows, in the order of the index, from 0.
        first_of_file (`int`): the number of the first row of that file.
        table (`pa.Table`): the columns that were asked for.
        several ([`SeveralVectors`], *optional*): how several vectors of a row are kept.
        stored ([`StoredMemory`], *optional*): how the memory of a row is kept.
    """

    file: Path
    form: VectorForm
    numbers: np.ndarray
    first_of_file: int
    table: pa.Table
    several: SeveralVectors | None = None
    stored: StoredMemory | None = None

    def vectors(self) -> torch.Tensor:
        """
        The column `embedding` as numbers.

        Returns:
            `torch.FloatTensor` of shape `(num_rows, dims)`

        Raises:
            ValueError: for a row without a vector, or with one that is not finite.
        """
        return self._finite(self.form.decode(self.whole_column("embedding")))

    def several_vectors(self) -> torch.Tensor:
        """The column `vectors` as numbers, `(num_rows, num_vectors, dim)` in fp32; raises as [`vectors`]."""
        return self._finite(self.several.decode(self.whole_column("vectors")))

    def memories(self) -> MemoryRows:
        """The columns `memory` and `memory_position`; raises as [`vectors`]."""
        made = self.stored.decode(self.whole_column("memory"), self.whole_column("memory_position"))
        return made._replace(numbers=self._finite(made.numbers))

    def _finite(self, vectors: torch.Tensor) -> torch.Tensor:
        # A sum is one pass; it is not finite if one number is not.
        if not vectors.sum().isfinite() and len(bad := (~vectors.isfinite()).nonzero()):
            self._refuse(int(bad[0, 0]), "numbers that are not finite")
        return vectors

    def whole_column(self, name: str) -> pa.Array:
        """A column in which no row may be missing, which would move all that follow; else raises `ValueError`."""
        column = self.table[name].combine_chunks()
        if column.null_count:
            self._refuse(column.is_null().index(True).as_py(), f"no {name}")
        return column

    def _refuse(self, place: int, what: str) -> NoReturn:
        raise ValueError(f"Row {self.numbers[place] - self.first_of_file} of {self.file} has {what}: {AGAIN}.")


class Vectors(NamedTuple):
    """
    Rows of an index with their vectors as numbers.

    Args:
        numbers (`np.ndarray` of shape `(num_rows,)`): of the rows, in the order of the index, from 0.
        embeddings (`np.ndarray` of shape `(num_rows, dims)` in fp32): of length 1; in float32 as they were embedded.
        rows (`pa.Table`): `row`, `id`, `text` and `image`.
    """

    numbers: np.ndarray
    embeddings: np.ndarray
    rows: pa.Table


def read_vectors(path: Path, rows_at_a_time: int = ROWS_AT_A_TIME) -> Iterator[Vectors]:
    """
    Goes through an index, whatever the precision that it is kept in.

    Args:
        path (`Path`): a file of `coma embed`, or a folder of such.
        rows_at_a_time (`int`, *optional*, defaults to 2048): most rows of a piece.

    Yields:
        [`Vectors`]

    Raises:
        ValueError: if it is no index, or damaged, or of files that do not belong together.
    """
    for rows in read_rows(path, ["row", "id", "text", "image", "embedding"], rows_at_a_time):
        yield Vectors(rows.numbers, rows.vectors().numpy(), rows.table.drop_columns("embedding"))


def index_metadata(path: Path) -> dict[str, Any]:
    """
    What made an index, with `dims` and `precision`; of a folder, what its first file says and the others, too.

    Raises:
        ValueError: if it was not written by `coma embed`, is damaged, or is of files that do not belong together.
    """
    files = _files(path)
    first, *others = map(_metadata_of, files)
    for file, other in zip(files[1:], others, strict=True):
        differing = differences(first, other, OF_ONE_INDEX)
        if not same_embeddings(other["probe"], first["probe"], ANY_PRECISION):
            differing.insert(0, f"model ({first['model']!r}, now {other['model']!r})")
        if differing:
            raise ValueError(f"{files[0]} and {file} are of two indexes: {'; '.join(differing)}. Keep those of one.")
    if first.get("num_files", len(files)) != len(files):
        raise ValueError(f"{path} has {len(files)} files and was made of {first['num_files']}: {AGAIN}.")
    return first


def read_rows(path: Path, columns: Sequence[str], rows_at_a_time: int = ROWS_AT_A_TIME) -> Iterator[Rows]:
    """Goes through some columns of an index, some rows at a time; raises `ValueError` as [`read_vectors`]."""
    first = 0
    for file in _files(path):
        with _open(file) as parquet:
            forms = _forms(file, parquet)
            _check_columns(file, parquet, index_schema(*forms))
            start = first
            for batch in parquet.iter_batches(rows_at_a_time, columns=list(columns)):
                numbers = np.arange(start, start + len(batch))
                yield Rows(file, forms[0], numbers, first, pa.Table.from_batches([batch]), *forms[1:])
                start += len(batch)
            first += parquet.metadata.num_rows
            if start != first:
                raise OSError(f"it has {start} rows and not {first}")
    if not first:
        raise ValueError(f"{path} has no rows.")


def rows_at(path: Path, numbers: np.ndarray, columns: Sequence[str]) -> Iterator[Rows]:
    """
    Some rows of an index, read from the row groups that have one of them.

    Args:
        path (`Path`): the index, which has been looked at by [`read_rows`].
        numbers (`np.ndarray` of shape `(num_rows,)`): of the rows, rising.
        columns (`Sequence[str]`): what is read.

    Yields:
        [`Rows`], in the order of the numbers.
    """
    first = 0
    for file in _files(path):
        first_of_file = first
        with _open(file) as parquet:
            forms = _forms(file, parquet)
            for group in range(parquet.num_row_groups):
                stop = first + parquet.metadata.row_group(group).num_rows
                here = numbers[np.searchsorted(numbers, first) : np.searchsorted(numbers, stop)]
                if len(here):
                    table = parquet.read_row_group(group, columns=list(columns)).take(here - first)
                    yield Rows(file, forms[0], here, first_of_file, table, *forms[1:])
                first = stop


def memory_at(path: Path, numbers: np.ndarray) -> MemoryRows:
    """
    The memories of some rows of an index that keeps them.

    Args:
        path (`Path`): the index, which has been looked at by [`read_rows`].
        numbers (`np.ndarray` of shape `(num_rows,)`): of the rows, in any order, which that of the memories is.

    Raises:
        ValueError: for a row without a memory, or with one that is not finite.
    """
    order = np.argsort(numbers)
    pieces = [rows.memories() for rows in rows_at(path, numbers[order], ["memory", "memory_position"])]
    places = torch.from_numpy(np.argsort(order))
    return MemoryRows(*(torch.cat(parts)[places] for parts in zip(*pieces, strict=True)))


def count_rows(path: Path) -> int:
    """How many rows an index has; raises `ValueError` as [`read_vectors`]."""
    num_rows = 0
    for file in _files(path):
        with _open(file) as parquet:
            num_rows += parquet.metadata.num_rows
    return num_rows


def find_row(path: Path, number: int) -> tuple[dict[str, Any], torch.Tensor]:
    """
    A row of an index and its vector, by the number that it had in the input.

    Args:
        path (`Path`): the index.
        number (`int`): what stands in its column `row`.

    Returns:
        `tuple[dict, torch.FloatTensor]`: `row`, `id`, `text` and `image`, and the vector of shape `(dims,)`.

    Raises:
        ValueError: if there is no such row, or as [`read_vectors`].
    """
    for rows in read_rows(path, ["row"]):
        places = np.flatnonzero(rows.table["row"].to_numpy() == number)
        if len(places):
            columns = ["row", "id", "text", "image", "embedding"]
            (found,) = rows_at(path, rows.numbers[places[:1]], columns)
            return found.table.drop_columns("embedding").to_pylist()[0], found.vectors()[0]
    raise ValueError(f"{path} has no row {number}.")


def _files(path: Path) -> list[Path]:
    """The files of an index, in order."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        what = "is no file" if path.exists() else "is not there"
        raise ValueError(f"{path} {what}: give the Parquet file, or the folder, that `coma embed` made.")
    number = len(list(path.glob("part-*.parquet")))
    files = [path / file_name(place) for place in range(max(1, number))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ValueError(f"{path} is no file, and as a folder it has no {missing[0]}: give what `coma embed` made.")
    return files


def _forms(path: Path, file: pq.ParquetFile) -> tuple[VectorForm, SeveralVectors | None, StoredMemory | None]:
    """How one file keeps the vectors, and the memory, of its rows."""
    metadata = _metadata(path, file)
    return VectorForm.of(metadata), SeveralVectors.of(metadata), StoredMemory.of(metadata)


def _metadata_of(path: Path) -> dict[str, Any]:
    with _open(path) as file:
        return _metadata(path, file)


def _metadata(path: Path, file: pq.ParquetFile) -> dict[str, Any]:
    """What the metadata of one file say, of an older one as well."""
    metadata = file.schema_arrow.metadata or {}
    if METADATA not in metadata:
        raise ValueError(f"{path} was not written by `coma embed`: its metadata has no key {METADATA.decode()!r}.")
    try:
        made = json.loads(metadata[METADATA])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The metadata of {path} are damaged ({error}): {AGAIN}.") from error
    made = {"precision": "float32", "dims": made.get("dim"), **made} if isinstance(made, dict) else {}
    for name, fits in METADATA_OF_INDEX.items():
        if not fits(found := made.get(name), made):
            raise ValueError(f"The metadata of {path} are damaged: {name!r} is {found!r:.99}. {AGAIN.capitalize()}.")
    return made


def _is_vector(found: Any) -> bool:
    numbers = found if isinstance(found, list) else []
    return bool(numbers) and all(isinstance(number, float) and math.isfinite(number) for number in numbers)


def _are_ranges(found: Any, form: VectorForm | None) -> bool:
    """Whether the least and the largest of each number are there and in this order; none where none are used."""
    if form is None or not form.needs_ranges:
        return found is None
    if not (isinstance(found, list) and len(found) == 2 and all(map(_is_vector, found))):
        return False
    low, high = found
    return len(low) == len(high) == form.dims and all(map(float.__le__, low, high))


def _is_budget(found: Any, made: Mapping[str, Any]) -> bool:
    return COUNT.holds(found) and found <= made["num_compression_tokens"]


def _form_of_several(made: Mapping[str, Any]) -> VectorForm | None:
    several = SeveralVectors.of({**made, "vector_ranges": None})
    return several and several.form


# What the metadata of an index must have, in the order in which it is looked at.
METADATA_OF_INDEX = {
    "model": lambda found, _: isinstance(found, str),
    "num_compression_tokens": lambda found, _: COUNT.holds(found),
    "dim": lambda found, _: COUNT.holds(found),
    "probe": lambda found, _: _is_vector(found),
    "dims": lambda found, made: COUNT.holds(found) and found <= made["dim"],
    "precision": lambda found, _: found in PRECISIONS,
    "ranges": lambda found, made: _are_ranges(found, VectorForm(made["dims"], made["precision"])),
    "vectors": lambda found, made: found is None or _is_budget(found, made),
    "query_vectors": lambda found, made: (found is None) if made.get("vectors") is None else _is_budget(found, made),
    "vector_ranges": lambda found, made: _are_ranges(found, _form_of_several(made)),
    "memory": lambda found, _: found is None or is_memory_record(found),
    "num_files": lambda found, _: found is None or COUNT.holds(found),
}


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    """
    A Parquet file, opened. What goes wrong in the context is said with the name of the file.

    Raises:
        ValueError: if it is no Parquet, or damaged.
    """
    try:
        check_seal(path)
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            yield file
    except PermissionError:  # it names the file, which need not be damaged
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as Parquet; it is of another kind or damaged: {error}") from error


def _check_columns(path: Path, file: pq.ParquetFile, schema: pa.Schema) -> None:
    found = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
    for column in schema:
        if column.name not in found:
            raise ValueError(f"{path} has no column {column.name!r}, only {', '.join(found)}: {AGAIN}.")
        if not _is_like(found[column.name], column.type):
            kind = f"{found[column.name]} and not {column.type}"
            raise ValueError(f"The column {column.name!r} of {path} is {kind}: {AGAIN}.")


def _is_like(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether a type is one by which other programs write the same."""
    if pa.types.is_fixed_size_list(expected) and pa.types.is_fixed_size_list(found):
        return (found.value_type, found.list_size) == (expected.value_type, expected.list_size)
    if pa.types.is_string(expected):
        return found in (pa.string(), pa.large_string(), pa.null())
    return found == expected or (pa.types.is_integer(expected) and pa.types.is_integer(found))
