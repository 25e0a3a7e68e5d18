"""An index of LanceDB: a folder with the rows of what `coma embed` made, which finds the nearest without a full scan.

The folder has one table, `rows`: the columns `row`, `id`, `text`, `image` and `embedding`, in fp32 where the store has
that and in fp16 otherwise. The metadata of its schema have the key `coma`, the JSON object of the store. LanceDB
writes versions: whoever reads sees the one that was the last when it was opened, whatever is written meanwhile.

From `ANN_ROWS` rows on there is an IVF_RQ index: partitions by k-means, and in them the sign of each number of a
rotated vector (RaBitQ). A query looks at the nearest partitions, and the best candidates are compared by their
vectors as they are kept. With fewer rows, with few that fit a filter, and where that does not give `k` rows, the query
is compared with every row.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from hub_scripts.embedding.index import METADATA
from hub_scripts.embedding.nearest import Hit
from hub_scripts.embedding.precision import cut_vectors


if TYPE_CHECKING:
    from lancedb.db import DBConnection
    from lancedb.table import Table


__all__ = [
    "ANN_ROWS",
    "LanceIndex",
    "connect",
    "is_lance_index",
    "open_index",
    "reason",
    "spoken",
    "table_schema",
    "whole_condition",
]

TABLE = "rows"
COLUMNS = ["row", "id", "text", "image"]
# What a store says of vectors and memories that are not here.
OF_SEVERAL = ("vectors", "query_vectors", "vector_ranges", "memory")
FORMAT = 1  # of the folder; another one is refused
# Below, a scan takes tens of milliseconds, and an index would only lose some of what it finds.
ANN_ROWS = 10_000
# What is looked at for a query: partitions, and candidates by their vectors for each row that is looked for.
PARTITIONS_LOOKED_AT = 20
# Of short vectors, whose few signs say less, more candidates: as many numbers are read as of ten with 1,024.
CANDIDATES_OF_A_HIT = 10
NUMBERS_OF_CANDIDATES = 10 * 1024
AGAIN = "make it again by `coma index`"
# What LanceDB raises: of files and of its own arguments all of them.
FROM_LANCE = (OSError, RuntimeError, ValueError, pa.ArrowException)


class LanceIndex:
    """
    An index that is open, for many queries.

    Args:
        path (`Path`): the folder, for messages.
        table (`lancedb.table.Table`): its table.
        metadata (`dict[str, Any]`): what made it, as of the store.
    """

    def __init__(self, path: Path, table: "Table", metadata: dict[str, Any]) -> None:
        self.path, self.table, self.metadata = path, table, metadata

    @property
    def has_ann(self) -> bool:
        """Whether there is an index over the vectors, and not only their table."""
        with spoken(self.path):
            return bool(self.table.list_indices())

    def count(self, where: str | None = None) -> int:
        """
        How many rows there are, or fit a condition.

        Args:
            where (`str`, *optional*): a condition in SQL.

        Raises:
            ValueError: for a condition that LanceDB does not understand.
        """
        if where is None:
            with spoken(self.path):
                return self.table.count_rows()
        try:
            return self.table.count_rows(whole_condition(where))
        except FROM_LANCE as error:
            raise ValueError(f"The condition {where!r} cannot be used: {reason(error)}") from error

    def nearest(self, query: torch.Tensor, k: int, where: str | None = None, *, is_exact: bool = False) -> list[Hit]:
        """
        The rows whose vectors have the largest cosines with the query.

        Args:
            query (`torch.FloatTensor` of shape `(dim,)`): the whole embedding of the query, on the CPU.
            k (`int`): how many; fewer if there are fewer rows.
            where (`str`, *optional*): a condition in SQL on `row`, `id`, `text` and `image` that rows must fit.
            is_exact (`bool`, *optional*, defaults to `False`): compares the query with every row.

        Returns:
            `list[Hit]`: best first; equal scores by their `row`.

        Raises:
            ValueError: for a condition that LanceDB does not understand, a query that does not fit, and an index that
                is damaged.
        """
        vector, num_rows = self._cut(query), self.count(where)
        if not num_rows:
            if where is None:
                raise ValueError(f"{self.path} has no rows.")
            return []
        with spoken(self.path):
            found = self._search(vector, k, where, is_exact or num_rows < ANN_ROWS)
            if len(found) < min(k, num_rows):
                found = self._search(vector, k, where, is_exact=True)
        hits = [Hit(1 - row.pop("_distance"), row) for row in found.to_pylist()]
        return sorted(hits, key=lambda hit: (-hit.score, hit.row["row"]))

    def find_row(self, number: int) -> tuple[dict[str, Any], torch.Tensor]:
        """
        A row by its number in the input, and its vector.

        Args:
            number (`int`): what stands in its column `row`.

        Returns:
            `tuple[dict, torch.FloatTensor]`: `row`, `id`, `text` and `image`, and the vector of shape `(dims,)`.

        Raises:
            ValueError: if there is no such row, or the index is damaged.
        """
        found = []
        if abs(number) < 2**63:
            with spoken(self.path):
                found = self.table.search().where(f"row = {number}").limit(1).to_arrow().to_pylist()
        if not found:
            raise ValueError(f"{self.path} has no row {number}.")
        vector = torch.tensor(found[0].pop("embedding"), dtype=torch.float32)
        return {name: found[0][name] for name in COLUMNS}, vector

    def vectors_at(self, places: np.ndarray) -> torch.Tensor:
        """The vectors, of shape `(len(places), dims)` in fp32, at rising places of the table, from 0."""
        with spoken(self.path):
            taken = self.table.take_offsets(places.tolist()).select(["embedding"]).to_arrow()
        column = taken["embedding"].combine_chunks()
        return torch.from_numpy(column.flatten().to_numpy().astype(np.float32)).view(len(places), -1)

    def _cut(self, query: torch.Tensor) -> np.ndarray:
        if not torch.isfinite(query).all():
            raise ValueError("The embedding of the query has numbers that are not finite; try --dtype float32.")
        made = self.metadata
        if len(query) != made["dim"]:
            raise ValueError(f"The query has {len(query)} dimensions, and the model of {self.path} {made['dim']}.")
        vector = cut_vectors(query[None].numpy(), made["dims"])[0]
        if not np.isfinite(vector).all():
            raise ValueError(f"The first {made['dims']} numbers of the query, to which {self.path} is cut, are all 0.")
        return vector

    def _search(self, vector: np.ndarray, k: int, where: str | None, is_exact: bool) -> pa.Table:
        search = self.table.search(vector, vector_column_name="embedding").distance_type("cosine").limit(k)
        search = search.select([*COLUMNS, "_distance"])
        if where is not None:
            search = search.where(
                whole_condition(where)
            )  # before the search, so that there are k rows of those that fit
        if is_exact:
            return search.bypass_vector_index().to_arrow()
        candidates = max(CANDIDATES_OF_A_HIT, NUMBERS_OF_CANDIDATES // self.metadata["dims"])
        return search.nprobes(PARTITIONS_LOOKED_AT).refine_factor(candidates).to_arrow()


def is_lance_index(path: Path) -> bool:
    """Whether something is a folder of `coma index`, and not a file or a folder of `coma embed`."""
    return (path / f"{TABLE}.lance").is_dir()


def open_index(path: Path) -> LanceIndex:
    """
    Opens an index, as it was written last.

    Raises:
        ImportError: without LanceDB.
        ValueError: for a folder that `coma index` did not make, of another version, or damaged.
    """
    if not is_lance_index(path):
        raise ValueError(f"{path} is no index: give a folder that `coma index` made.")
    with spoken(path):
        table = connect(path).open_table(TABLE)
        schema = table.schema
    try:
        made = json.loads((schema.metadata or {})[METADATA])
        version = made.pop("format")
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} was not made by `coma index`, or its metadata are damaged: {AGAIN}.") from error
    if version != FORMAT:
        raise ValueError(f"{path} is of version {version!r}, and this `coma` reads {FORMAT}: {AGAIN}.")
    if not schema.equals(table_schema(made)):
        names = ", ".join(f"{field.name} {field.type}" for field in schema)
        raise ValueError(f"{path} has the columns {names}, and not those of {made['model']}: {AGAIN}.")
    return LanceIndex(path, table, made)


def table_schema(metadata: dict[str, Any]) -> pa.Schema:
    """The columns of an index of a store with these metadata: one vector of each row, if the store has several."""
    metadata = {name: value for name, value in metadata.items() if name not in OF_SEVERAL}
    number = pa.float32() if metadata["precision"] == "float32" else pa.float16()
    texts = dict.fromkeys(COLUMNS[1:], pa.string())
    return pa.schema(
        {"row": pa.int64(), **texts, "embedding": pa.list_(number, metadata["dims"])},
        metadata={METADATA: json.dumps({**metadata, "format": FORMAT})},
    )


def connect(path: Path) -> "DBConnection":
    """A folder as LanceDB takes it; raises `ImportError` where that is not installed."""
    try:
        import lancedb
    except ImportError as error:
        raise ImportError('An index needs LanceDB: pip install "coma-embedding[index]"') from error
    return lancedb.connect(path)


@contextmanager
def spoken(path: Path) -> Iterator[None]:
    """What LanceDB cannot read is a `ValueError` in one line, with the folder and the way out."""
    try:
        yield
    except FROM_LANCE as error:
        raise ValueError(f"{path} cannot be read, it is damaged or of another version: {reason(error)}") from error


def whole_condition(where: str) -> str:
    """A condition in parentheses, beyond which nothing of it can go: LanceDB takes no notice of what follows one."""
    return f"({where}\n)"


def reason(error: BaseException) -> str:
    """What an error of LanceDB says, without the places in its source that it names."""
    text = re.sub(r",? *\S+\.rs:\d+(:\d+)?", "", str(error))
    return " ".join(text.split()) or type(error).__name__
