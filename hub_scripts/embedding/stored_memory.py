"""How an index keeps the memory of a row, from which questions are answered without its image.

| precision of the index | column `memory` | bytes of a row with N numbers in vectors of D |
|---|---|---|
| `float32`, `float16` | list of fp16 | 2 · N |
| `int8`, `ubinary` | bytes, int8, and behind them a scale in fp32 for each vector | N + 4 · N / D |

A vector is what one head keeps of one token in one layer as a key or a value, or a state. In int8 its largest number
is 127, so that no range of the corpus is needed. `memory_position` says where a dialogue begins behind the memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from hub_scripts.embedding.precision import IN_STEPS, bytes_of
from trainers.encoding.memory_rows import MemoryForm, MemoryRows
from trainers.ranges import COUNT


__all__ = ["StoredMemory", "is_memory_record"]

DIMS = {"cache": 3, "states": 2}  # of the tensors of a row


class StoredMemory(NamedTuple):
    """
    How memories are kept.

    Args:
        form ([`MemoryForm`]): what the memory of a row is.
        precision (`str`): `"float16"` or `"int8"`.
    """

    form: MemoryForm
    precision: Literal["float16", "int8"]

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> StoredMemory | None:
        """What the metadata of an index state; none if it keeps no memory."""
        if (record := metadata.get("memory")) is None:
            return None
        return cls(MemoryForm(**record), "int8" if metadata.get("precision") in IN_STEPS else "float16")

    @property
    def columns(self) -> dict[str, pa.DataType]:
        numbers = pa.list_(pa.float16(), self.form.size) if self.precision == "float16" else pa.binary(self.num_bytes)
        return {"memory": numbers, "memory_position": pa.int64()}

    @property
    def num_bytes(self) -> int:
        """Of a row, without its position."""
        size = self.form.size
        return 2 * size if self.precision == "float16" else size + 4 * sum(count for count, _ in self._vectors)

    @property
    def _vectors(self) -> list[tuple[int, int]]:
        """How many vectors each tensor of a row has, and their numbers."""
        return [(math.prod(shape[:-1]), shape[-1]) for shape in self.form.shapes]

    def encode(self, numbers: np.ndarray) -> pa.Array:
        """Numbers of [`MemoryRows`], `(num_rows, size)` in fp16, as the column `memory`."""
        if self.precision == "float16":
            return pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), self.form.size)
        codes, scales, start = [], [], 0
        for count, dim in self._vectors:
            vectors = numbers[:, start : start + count * dim].astype(np.float32).reshape(-1, count, dim)
            scale = np.abs(vectors).max(axis=2, initial=0) / 127
            steps = np.divide(vectors, scale[..., None], out=np.zeros_like(vectors), where=scale[..., None] > 0)
            codes.append(np.rint(steps).astype(np.int8).reshape(-1, count * dim))
            scales.append(scale.view(np.int8))
            start += count * dim
        content = pa.py_buffer(np.ascontiguousarray(np.concatenate([*codes, *scales], axis=1)))
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(self.num_bytes), len(numbers), [None, content])

    def decode(self, column: pa.Array, positions: pa.Array) -> MemoryRows:
        """The rows of `memory`, without nulls, and of `memory_position`."""
        places = torch.from_numpy(np.array(positions.to_numpy()))
        if self.precision == "float16":
            numbers = np.array(column.flatten().to_numpy(zero_copy_only=False)).reshape(len(column), -1)
            return MemoryRows(torch.from_numpy(numbers), places)
        content, size = bytes_of(column), self.form.size
        codes = content[:, :size].view(np.int8).astype(np.float32)
        scales = np.ascontiguousarray(content[:, size:]).view(np.float32)
        repeats = [dim for count, dim in self._vectors for _ in range(count)]
        return MemoryRows(torch.from_numpy(codes * np.repeat(scales, repeats, axis=1)), places)


def is_memory_record(found: Any) -> bool:
    """Whether the metadata of an index say what the memory of a row is."""
    if not isinstance(found, dict) or found.keys() != {"kind", "shapes"} or found["kind"] not in DIMS:
        return False
    shapes = found["shapes"] if isinstance(found["shapes"], list) else []
    dims = DIMS[found["kind"]]
    fits = [isinstance(shape, list) and len(shape) == dims and all(map(COUNT.holds, shape)) for shape in shapes]
    return bool(fits) and all(fits) and (len(fits) == 1 if found["kind"] == "states" else len(fits) % 2 == 0)
