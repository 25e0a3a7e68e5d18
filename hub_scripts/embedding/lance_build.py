"""How an index of LanceDB is made of what `coma embed` wrote, added to, and made smaller.

A new index is written beside its place and takes it at the end, whole or not at all. Adding and deleting are one
version of LanceDB each, which is there or not; what an interruption leaves out is only the index over new rows, which
are compared one by one until the next time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from hub_scripts.embedding.lance_index import (
    ANN_ROWS,
    FROM_LANCE,
    TABLE,
    LanceIndex,
    connect,
    reason,
    table_schema,
    whole_condition,
)
from hub_scripts.embedding.store import Vectors, count_rows, index_metadata, read_rows, read_vectors
from hub_scripts.hub.golden import ANY_PRECISION, same_embeddings
from trainers.files import differences, whole_folder


if TYPE_CHECKING:
    from lancedb.table import Table


__all__ = ["add_to_index", "create_index", "delete_from_index"]

Tell = Callable[[str], None]

# Chosen by benchmarks.index.
ROWS_OF_A_PARTITION = 4096
TRAINING = {"max_iterations": 20, "sample_rate": 128}
OF_ONE_INDEX = ("num_compression_tokens", "dim", "dims", "precision")  # and the model, by its probe
LENGTH_TOLERANCE = 0.01
# What was deleted or replaced is read by those who opened the index before; nobody does that for an hour.
KEPT_VERSIONS = timedelta(hours=1)


def create_index(store: Path, out: Path, tell: Tell, show_progress: bool) -> int:
    """
    Makes an index of a store.

    Args:
        store (`Path`): a file or folder of `coma embed`.
        out (`Path`): the folder, which is not there.
        tell (`Callable`): is given a line for a person before what takes long.
        show_progress (`bool`): whether a bar is drawn.

    Returns:
        `int`: how many rows it has.

    Raises:
        ValueError: for a store that is damaged.
        OSError: if it cannot be written.
    """
    metadata = index_metadata(store)
    schema = table_schema(metadata)
    with whole_folder(out) as temporary:
        pieces = _Pieces(store, schema, show_progress)
        with _writing(pieces):
            database = connect(temporary)
            table = database.create_table(TABLE, data=pieces.reader(), schema=schema)
            num_rows = table.count_rows()
            _cover(table, num_rows, tell)
    return num_rows


def add_to_index(store: Path, index: LanceIndex, replace: bool, tell: Tell, show_progress: bool) -> tuple[int, int]:
    """
    Adds the rows of a store to an index.

    Args:
        store (`Path`): a file or folder of `coma embed`, of the same model.
        index ([`LanceIndex`]): the index.
        replace (`bool`): whether rows of the store take the place of those with the same `id`.
        tell, show_progress: as of [`create_index`].

    Returns:
        `tuple[int, int]`: how many rows were added, and how many replaced.

    Raises:
        ValueError: for a store of another model, an id that is there already, or twice where it is to be replaced.
        OSError: if it cannot be written.
    """
    _check_same(store, index)
    there, new = _ids_of_index(index), _ids_of_store(store)
    both = there.filter(pc.is_in(there, value_set=new))
    if len(both) and not replace:
        raise ValueError(
            f"The id {both[0].as_py()!r} of {store} is in {index.path} already, and so are {len(both) - 1} others: "
            "replace them (--replace), or embed with ids that differ (--id-column)."
        )
    if replace:
        _refuse_twice(both, index.path)
        _refuse_twice(new, store)
    pieces = _Pieces(store, index.table.schema, show_progress)
    with _writing(pieces, index.path):
        if len(both):
            merge = index.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(pieces.reader())
        else:
            index.table.add(pieces.reader())
        _cover(index.table, index.table.count_rows(), tell)
    return pieces.num_rows - len(both), len(both)


def delete_from_index(index: LanceIndex, where: str, tell: Tell) -> int:
    """
    Deletes the rows that fit a condition in SQL, `id = 'a.png'` for instance.

    Returns:
        `int`: how many there were.

    Raises:
        ValueError: for a condition that LanceDB does not understand.
        OSError: if it cannot be written.
    """
    number = index.count(where)
    if number:
        with _writing(None, index.path):
            index.table.delete(whole_condition(where))
            _cover(index.table, index.table.count_rows(), tell)
    return number


class _Pieces:
    """The rows of a store as LanceDB takes them, a piece at a time; `error` is what went wrong in reading them."""

    def __init__(self, store: Path, schema: pa.Schema, show_progress: bool) -> None:
        self.store, self.schema, self.show_progress = store, schema, show_progress
        self.num_rows = count_rows(store)
        self.error: Exception | None = None

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self.schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        vectors = self.schema.field("embedding").type
        number = vectors.value_type.to_pandas_dtype()
        with tqdm(total=self.num_rows, unit=" rows", disable=not self.show_progress) as bar:
            try:
                for piece in read_vectors(self.store):
                    _check_lengths(piece, self.store)
                    flat = pa.array(piece.embeddings.astype(number, copy=False).reshape(-1))
                    embeddings = pa.FixedSizeListArray.from_arrays(flat, type=vectors)
                    rows = piece.rows.select(self.schema.names[:-1]).append_column("embedding", embeddings)
                    yield from rows.cast(self.schema).to_batches()
                    bar.update(len(rows))
            except (ValueError, OSError) as error:
                self.error = error
                raise


def _check_lengths(piece: Vectors, store: Path) -> None:
    """Partitions are told apart by cosines, which are no products where vectors have other lengths than 1."""
    lengths = np.linalg.norm(piece.embeddings, axis=1)
    if len(bad := np.flatnonzero(abs(lengths - 1) > LENGTH_TOLERANCE)):
        raise ValueError(
            f"Row {piece.numbers[bad[0]]} of {store} has an embedding of length {lengths[bad[0]]:.3g}, and an index "
            "is for those of length 1 (`normalize` of the model): search the store itself."
        )


def _check_same(store: Path, index: LanceIndex) -> None:
    """Raises `ValueError` for a store of another model or form than the index."""
    before, now = index.metadata, index_metadata(store)
    differing = differences(before, now, OF_ONE_INDEX)
    if not same_embeddings(now["probe"], before["probe"], ANY_PRECISION):
        differing.insert(0, f"model ({before['model']!r}, and another one, {now['model']!r})")
    if differing:
        raise ValueError(f"{index.path} and {store} do not fit together: {'; '.join(differing)}.")


def _ids_of_index(index: LanceIndex) -> pa.ChunkedArray:
    with _writing(None, index.path):
        return index.table.search().select(["id"]).to_arrow()["id"].drop_null()


def _ids_of_store(store: Path) -> pa.ChunkedArray:
    pieces = [rows.table["id"].cast(pa.string()) for rows in read_rows(store, ["id"])]
    return pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], pa.string()).drop_null()


def _refuse_twice(ids: pa.ChunkedArray, place: Path) -> None:
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise ValueError(
            f"The id {twice[0]['values'].as_py()!r} is in {place} more than once, and it is not clear what would take "
            "the place of what: delete it first (--delete), or embed with ids that differ (--id-column)."
        )


@contextmanager
def _writing(pieces: _Pieces | None = None, path: Path | None = None) -> Iterator[None]:
    """
    What LanceDB cannot write is an `OSError`; what could not be read of the store, the error of that.

    Args:
        pieces (`_Pieces`, *optional*): what is written.
        path (`Path`, *optional*): the folder, for the message; without, whoever made it has that.
    """
    try:
        yield
    except FROM_LANCE as error:
        if pieces is not None and pieces.error is not None:
            raise pieces.error from None
        where = "" if path is None else f"{path} cannot be written, and is as it was: "
        raise OSError(f"{where}{reason(error)}") from error


def _cover(table: "Table", num_rows: int, tell: Tell) -> None:
    """Has the index over the vectors know of all rows; makes it where there is none and should be."""
    if table.list_indices() or num_rows < ANN_ROWS:
        table.optimize(cleanup_older_than=KEPT_VERSIONS)
        return
    tell(f"{num_rows} rows are written; the index over them is made, which takes minutes for a million")
    from lancedb.index import IvfRq

    num_partitions = max(1, num_rows // ROWS_OF_A_PARTITION)
    table.create_index("embedding", config=IvfRq(distance_type="cosine", num_partitions=num_partitions, **TRAINING))
