"""An index that is open for many queries, whatever made it: `coma embed`, a file or a folder, or `coma index`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hub_scripts.embedding.lance_index import is_lance_index, open_index
from hub_scripts.embedding.nearest import Hit, nearest, nearest_by_maxsim
from hub_scripts.embedding.store import count_rows, find_row, index_metadata, rows_at


if TYPE_CHECKING:
    from hub_scripts.embedding.lance_index import LanceIndex


__all__ = ["OpenStore", "open_any"]


class OpenStore:
    """
    What `coma embed` made, with the methods of [`~hub_scripts.embedding.lance_index.LanceIndex`].

    Args:
        path (`Path`): the file, or the folder of files.

    Raises:
        ValueError: if it is no index, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.metadata = path, index_metadata(path)

    def count(self, where: str | None = None) -> int:
        """How many rows there are; a condition is refused."""
        if where is not None:
            way_out = f"`coma index {self.path} OUT` makes one, to search in its place"
            raise ValueError(f"--where is for an index: {way_out}.")
        return count_rows(self.path)

    def nearest(self, query: torch.Tensor, k: int, where: str | None = None, *, is_exact: bool = False) -> list[Hit]:
        """
        The nearest rows; every row is compared, `is_exact` or not, and a condition is refused. A query of shape
        `(1 + num_vectors, dim)` is compared by MaxSim, with every row only if `is_exact`.
        """
        if where is not None:
            self.count(where)
        return nearest(self.path, query, k) if query.dim() == 1 else nearest_by_maxsim(self.path, query, k, is_exact)

    def find_row(self, number: int) -> tuple[dict[str, Any], torch.Tensor]:
        """A row by its number in the input, and its vector of shape `(dims,)`; `ValueError` if there is none."""
        return find_row(self.path, number)

    def vectors_at(self, places: np.ndarray) -> torch.Tensor:
        """The vectors, of shape `(len(places), dims)` in fp32, at rising places of the index, from 0."""
        return torch.cat([rows.vectors() for rows in rows_at(self.path, places, ["embedding"])])


def open_any(path: Path) -> "OpenStore | LanceIndex":
    """Opens what `coma embed` or `coma index` made; raises `ValueError` as these do."""
    return open_index(path) if is_lance_index(path) else OpenStore(path)
