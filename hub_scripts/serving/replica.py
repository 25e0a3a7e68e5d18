"""A model in a replica of Ray Serve: items of many requests share batches."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from ray import serve

from hub_scripts.embedding.model_settings import ModelSettings
from hub_scripts.serving.body import Item
from hub_scripts.serving.embedder import Embedder, Fault, Row
from hub_scripts.serving.loopback import listen_here_alone


__all__ = ["Replica", "Vectors"]

# How long a batch that is not full waits for more. A request with many items puts them there one by one.
WAIT_SECONDS = 0.005


class Vectors(NamedTuple):
    """Vectors of a request, of shape `(num_items, dims)` in fp32, and how many tokens its items had."""

    vectors: np.ndarray
    num_tokens: int


def _weight(rows: list[Row]) -> int:
    return sum(row.weight for row in rows)


class Replica:
    """
    A model that answers requests, a batch at a time, and reads the next ones meanwhile.

    Args:
        settings ([`ModelSettings`]), served_as (`str`), max_batch, batch_tokens (`int`), any_dims (`bool`):
            as in [`Embedder`].
    """

    def __init__(
        self, settings: ModelSettings, served_as: str, max_batch: int, batch_tokens: int, any_dims: bool
    ) -> None:
        listen_here_alone()
        self.embedder = Embedder(settings, served_as, max_batch, batch_tokens, any_dims)
        self._reads, self._computes = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._in_a_batch.set_max_batch_size(max_batch)

    async def embed(self, items: list[Item], dims: int | None) -> Vectors | Fault:
        """The vectors of a request, or what is wrong with the first of its items of which there is none."""
        read = asyncio.get_running_loop().run_in_executor
        if fault := await read(self._reads, self.embedder.cut_fault, dims):
            return fault
        rows = await read(self._reads, self.embedder.measure, items)
        found = next(([row] for row in rows if isinstance(row, Fault)), None)
        found = found or await asyncio.gather(*map(self._in_a_batch, rows))
        if fault := next((one for one in found if isinstance(one, Fault)), None):
            return fault
        return Vectors(self.embedder.cut(np.stack(found), dims), sum(row.num_tokens for row in rows))

    @serve.batch(batch_wait_timeout_s=WAIT_SECONDS, batch_size_fn=_weight)
    async def _in_a_batch(self, rows: list[Row]) -> list[np.ndarray | Fault]:
        return await asyncio.get_running_loop().run_in_executor(self._computes, self.embedder.embed, rows)
