"""Rows of all processes on each of them, with gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist


__all__ = ["average_gradients", "gather_rows"]


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
    if not _several_processes():
        return rows, 0
    numbers = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(numbers, torch.tensor([len(rows)], device=rows.device))
    sizes = [int(number) for number in numbers]
    if not sum(sizes):
        return rows, 0
    return _GatherRows.apply(rows, sizes), sum(sizes[: dist.get_rank()])


def average_gradients(parameter: torch.Tensor) -> torch.Tensor:
    """The same tensor, whose gradient is the mean of those of all processes, for what is outside the DDP model."""
    return _AverageGradients.apply(parameter) if _several_processes() else parameter


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _AverageGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, parameter: torch.Tensor) -> torch.Tensor:
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient / dist.get_world_size()


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        ctx.sizes = sizes
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradient.clone()  # autograd may hand the same tensor to others
        dist.all_reduce(gradient)
        return gradient.split(ctx.sizes)[dist.get_rank()], None
