"""The memory of a row as numbers in a line, and back: what a store can keep of it, from which answers are read."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch

from modeling_coma import ComaForEmbedding, ComaProcessor, CompressionMemory


__all__ = ["MemoryForm", "MemoryRows"]


class MemoryRows(NamedTuple):
    """
    The memories of some rows, on the CPU.

    Args:
        numbers (`torch.HalfTensor` of shape `(num_rows, size)`): of each row, in the order of [`MemoryForm`].
        positions (`torch.LongTensor` of shape `(num_rows,)`): where a dialogue begins; behind an image with positions
            of several axes that is not the number of tokens.
    """

    numbers: torch.Tensor
    positions: torch.Tensor


class MemoryForm(NamedTuple):
    """
    What the memory of a row is.

    Args:
        kind (`str`): `"cache"`, keys and values of each layer in turn, or `"states"`, the last hidden states.
        shapes (`list[list[int]]`): of each tensor of a row: heads, K and numbers of a head; of states K and width.
    """

    kind: Literal["cache", "states"]
    shapes: list[list[int]]

    @classmethod
    def of(cls, model: ComaForEmbedding, processor: ComaProcessor) -> MemoryForm:
        """The form of the memories of a model, seen by one; `ValueError` for a model that can have none."""
        with torch.no_grad():
            memory = model.compress(**processor.process(["memory"]).to(model.device))
        kind = "cache" if memory.layers else "states"
        return cls(kind, [list(tensor.shape[1:]) for tensor in _tensors(memory)])

    @property
    def size(self) -> int:
        """Numbers of a row."""
        return sum(map(math.prod, self.shapes))

    def nothing(self) -> MemoryRows:
        """Of no rows."""
        return MemoryRows(torch.empty(0, self.size, dtype=torch.half), torch.empty(0, dtype=torch.long))

    def pack(self, memory: CompressionMemory) -> MemoryRows:
        """
        Numbers of a memory in fp16.

        Args:
            memory ([`CompressionMemory`]): of this form.

        Raises:
            ValueError: for a row with a number beyond fp16, or that is not finite.
        """
        numbers = torch.cat([tensor.flatten(1).half() for tensor in _tensors(memory)], dim=1).cpu()
        if (bad := ~numbers.isfinite().all(dim=1)).any():
            row = int(bad.nonzero()[0])
            raise ValueError(f"Row {row}: its memory has numbers beyond float16, so that it cannot be kept.")
        return MemoryRows(numbers, memory.next_position.cpu())

    def unpack(self, rows: MemoryRows, device: torch.device, dtype: torch.dtype) -> CompressionMemory:
        """
        The memory again, to answer from.

        Args:
            rows ([`MemoryRows`]): of this form; numbers may be in another precision.
            device (`torch.device`), dtype (`torch.dtype`): those of the model.
        """
        parts = rows.numbers.to(device, dtype).split([math.prod(shape) for shape in self.shapes], dim=1)
        tensors = [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        positions = rows.positions.to(device)
        if self.kind == "states":
            return CompressionMemory([], positions, tensors[0])
        layers = list(zip(tensors[::2], tensors[1::2], strict=True))
        return CompressionMemory(layers, positions, tensors[0].new_empty(len(positions), 0, 0))


def _tensors(memory: CompressionMemory) -> list[torch.Tensor]:
    return [tensor for layer in memory.layers for tensor in layer] or [memory.compression_states]
