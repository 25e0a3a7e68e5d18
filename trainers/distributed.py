"""Rows of all processes on each of them, with gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist


__all__ = ["Gathered", "gather_rows", "gather_together"]


class Gathered(NamedTuple):
    r"""
    The rows of all processes.

    Args:
        rows (`torch.Tensor` of shape `(num_rows_everywhere, …)`):
            All rows in the order of the processes.
        first (`int`):
            Where those of this process begin.
        sizes (`list[int]`):
            How many rows each process has.
    """

    rows: torch.Tensor
    first: int
    sizes: list[int]


def gather_rows(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    r"""
    Concatenates the rows of all processes, which may have different numbers of them. The gradient of each row is the
    sum of what all processes send back to it.

    Args:
        rows (`torch.Tensor` of shape `(num_rows, …)`):
            The rows of this process; everything but their number is the same on all.

    Returns:
        `tuple[torch.Tensor, int]`: all rows in the order of the processes, and where those of this process begin.
    """
    (gathered,) = gather_together(rows)
    return gathered.rows, gathered.first


def gather_together(*tensors: torch.Tensor) -> list[Gathered]:
    r"""
    What [`gather_rows`] does, for several tensors of one dtype: two collectives, however many tensors there are.

    Args:
        tensors (`torch.Tensor` of shape `(num_rows, …)`):
            Rows of this process, of each tensor as many as it has.

    Returns:
        `list[Gathered]`: the rows of all processes, for each tensor.

    Raises:
        TypeError: for tensors of several dtypes, of which some would come back as another.
    """
    if len({tensor.dtype for tensor in tensors}) > 1:
        raise TypeError(f"gather_together takes one dtype, got {[str(tensor.dtype) for tensor in tensors]}.")
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [Gathered(tensor, 0, [len(tensor)]) for tensor in tensors]
    counts = torch.tensor([len(tensor) for tensor in tensors], device=tensors[0].device)
    everywhere = [torch.empty_like(counts) for _ in range(dist.get_world_size())]
    dist.all_gather(everywhere, counts)
    sizes = torch.stack(everywhere)  # (processes, tensors), in rows
    lengths = sizes * torch.tensor([tensor.shape[1:].numel() for tensor in tensors], device=sizes.device)
    vectors = _AllGather.apply(torch.cat([tensor.flatten() for tensor in tensors]), lengths.sum(dim=1).tolist())
    parts = [vector.split(of_process) for vector, of_process in zip(vectors, lengths.tolist(), strict=True)]
    gathered = []
    for tensor, of_tensor, rows in zip(tensors, zip(*parts, strict=True), sizes.T.tolist(), strict=True):
        whole = torch.cat(of_tensor).view(sum(rows), *tensor.shape[1:])
        gathered.append(Gathered(whole, sum(rows[: dist.get_rank()]), rows))
    return gathered


class _AllGather(torch.autograd.Function):
    """The vectors of all processes, which may have different lengths."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, vector: torch.Tensor, lengths: list[int]
    ) -> tuple[torch.Tensor, ...]:
        ctx.lengths = lengths
        padded = vector.new_zeros(max(1, *lengths))
        padded[: len(vector)] = vector
        gathered = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(gathered, padded)
        return tuple(part[:length] for part, length in zip(gathered, lengths, strict=True))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = torch.cat(gradients)
        dist.all_reduce(gradient)
        return gradient.split(ctx.lengths)[dist.get_rank()], None
