"""What an index keeps of a vector: its first `dims` numbers, in one of four precisions, and how they are read again.

| precision | column `embedding` | bytes of a vector | column `bits` |
|---|---|---|---|
| `float32` | list of fp32 | 4 · dims | |
| `float16` | list of fp16 | 2 · dims | |
| `int8` | bytes, int8 | dims | |
| `ubinary` | bytes, int8 | dims + dims / 8 | signs, eight in a byte |

The codes of int8 and the signs are those of sentence-transformers' `quantize_embeddings`: the range of each number
among all vectors has 256 steps, and a vector is read as the middles of its steps. Bytes are no lists, because Parquet
writes a list of int8 in 32 bits each. What is read of any precision but float32 is normalised again, so that a product
of two vectors is a cosine.

Where a row has several vectors as well, they are in `vectors`, one after another and with all their numbers, in the
same precision; of ubinary in int8. In steps each number of each of them has its own range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from hub_scripts.common.arguments import Precision


__all__ = ["SeveralVectors", "VectorForm", "bytes_of", "cut_vectors"]

IN_STEPS = ("int8", "ubinary")  # which need ranges
LISTS = {"float32": pa.float32(), "float16": pa.float16()}
BYTES = {"float32": 4, "float16": 2, "int8": 1}


class VectorForm(NamedTuple):
    """
    How vectors are kept.

    Args:
        dims (`int`): numbers of a vector.
        precision (`str`, *optional*, defaults to `"float32"`): a key of the table above.
        ranges (`np.ndarray` of shape `(2, dims)`, *optional*): the least and the largest of each number among all
            vectors, for int8 and ubinary.
    """

    dims: int
    precision: Precision = "float32"
    ranges: np.ndarray | None = None

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> VectorForm:
        """The form that the metadata of an index state."""
        ranges = metadata.get("ranges")
        ranges = None if ranges is None else np.array(ranges, dtype=np.float32)
        return cls(metadata.get("dims", metadata["dim"]), metadata.get("precision", "float32"), ranges)

    @property
    def needs_ranges(self) -> bool:
        return self.precision in IN_STEPS

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """The columns of vectors in a file of this form."""
        if self.precision in LISTS:
            return {"embedding": pa.list_(LISTS[self.precision], self.dims)}
        signs = {"bits": pa.binary(-(-self.dims // 8))} if self.precision == "ubinary" else {}
        return {"embedding": pa.binary(self.dims), **signs}

    def widened(self, vectors: np.ndarray) -> VectorForm:
        """This form with ranges that vectors, of shape `(num_rows, dims)` in fp32, are within as well."""
        low, high = vectors.min(0, initial=np.inf), vectors.max(0, initial=-np.inf)
        if self.ranges is not None:
            low, high = np.minimum(low, self.ranges[0]), np.maximum(high, self.ranges[1])
        return self._replace(ranges=np.stack([low, high]))

    def encode(self, vectors: np.ndarray) -> list[pa.Array]:
        """
        Vectors as the columns of a file.

        Args:
            vectors (`np.ndarray` of shape `(num_rows, dims)` in fp32): of length 1.

        Returns:
            `list[pa.Array]`, one for each of `columns`.
        """
        if self.precision in LISTS:
            numbers = np.ascontiguousarray(vectors, dtype=self.precision).reshape(-1)
            return [pa.FixedSizeListArray.from_arrays(pa.array(numbers), self.dims)]
        from sentence_transformers.util import quantize_embeddings

        codes = [quantize_embeddings(vectors, "int8", ranges=self.ranges)]
        if self.precision == "ubinary":
            codes.append(quantize_embeddings(vectors, "ubinary"))
        return [_column_of(code) for code in codes]

    def decode(self, column: pa.Array) -> torch.Tensor:
        """
        Vectors of a file.

        Args:
            column (`pa.Array`): of `embedding`, without nulls.

        Returns:
            `torch.FloatTensor` of shape `(num_rows, dims)`: as they were written in float32, else of length 1; a
            number that is missing is NaN.
        """
        if self.precision in LISTS:
            numbers = column.flatten().to_numpy(zero_copy_only=False)
            numbers = torch.from_numpy(np.array(numbers, copy=not numbers.flags.writeable)).view(len(column), -1)
            return numbers if self.precision == "float32" else torch.nn.functional.normalize(numbers.float())
        steps = (self.ranges[1] - self.ranges[0]) / 255
        middles = torch.from_numpy(self.ranges[0] + 128.5 * steps)
        codes = torch.from_numpy(bytes_of(column).view(np.int8))
        return torch.nn.functional.normalize(torch.addcmul(middles, codes.float(), torch.from_numpy(steps)))


class SeveralVectors(NamedTuple):
    """
    How the several vectors of a row are kept.

    Args:
        number (`int`): how many there are.
        form ([`VectorForm`]): of all their numbers, one vector after another.
    """

    number: int
    form: VectorForm

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> SeveralVectors | None:
        """What the metadata of an index state; none if rows have but the one vector."""
        if metadata.get("vectors") is None:
            return None
        precision, ranges = metadata.get("precision", "float32"), metadata.get("vector_ranges")
        ranges = None if ranges is None else np.array(ranges, dtype=np.float32)
        form = VectorForm(
            metadata["vectors"] * metadata["dim"], "int8" if precision == "ubinary" else precision, ranges
        )
        return cls(metadata["vectors"], form)

    @property
    def columns(self) -> dict[str, pa.DataType]:
        return {"vectors": self.form.columns["embedding"]}

    @property
    def num_bytes(self) -> int:
        """Of a row."""
        return self.form.dims * BYTES[self.form.precision]

    def decode(self, column: pa.Array) -> torch.Tensor:
        """The vectors in the column `vectors` of a file, `(num_rows, number, dim)` in fp32."""
        numbers = self.form.decode(column).view(len(column), self.number, -1)
        return numbers if self.form.precision == "float32" else torch.nn.functional.normalize(numbers, dim=-1)


def cut_vectors(vectors: np.ndarray, dims: int) -> np.ndarray:
    """
    The first numbers of vectors, of length 1 again; whole vectors stay as they are.

    Args:
        vectors (`np.ndarray` of shape `(num_rows, dim)` in fp32): the vectors.
        dims (`int`): how many numbers; at most `dim`.

    Returns:
        `np.ndarray` of shape `(num_rows, dims)`; NaN where all of the first numbers are 0.
    """
    if dims == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dims]
    with np.errstate(invalid="ignore"):
        return cut / np.linalg.norm(cut, axis=1, keepdims=True)


def bytes_of(column: pa.Array) -> np.ndarray:
    """The bytes of a column of fixed size without nulls, `(num_rows, size)` in uint8, which nobody may write to."""
    size = column.type.byte_width
    start = column.offset * size
    return np.frombuffer(column.buffers()[1], np.uint8)[start : start + len(column) * size].reshape(-1, size)


def _column_of(codes: np.ndarray) -> pa.Array:
    content = pa.py_buffer(np.ascontiguousarray(codes))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(codes.shape[1]), len(codes), [None, content])
