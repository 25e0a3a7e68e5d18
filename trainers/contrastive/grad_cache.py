r"""
The gradient cache: a contrastive batch of any size in the memory of one mini-batch (Gao et al. 2021, "Scaling Deep
Contrastive Learning Batch Size under Memory Limited Setup").

The loss needs all embeddings at once, but its gradient with respect to the parameters needs only one mini-batch at a
time, once the gradient with respect to the embeddings is known. So: embed all mini-batches without gradients, take
the gradient of the loss with respect to the embeddings, embed each mini-batch again, with gradients, and push its
share through. Random states are replayed, so that dropout makes the same choices both times.

What is saved here: mini-batches hold inputs of similar length, whichever side of a pair they come from; a frozen
vision tower runs once, its features serve both passes; the last mini-batch keeps its graph and is embedded once, and
so is a batch that fits into one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch.utils.checkpoint import get_device_states, set_device_states

from trainers.samplers import halve_largest, pack


__all__ = ["cached_embeddings", "plan_mini_batches"]

Embed = Callable[[torch.LongTensor], torch.Tensor]  # numbers of inputs (n,) -> embeddings (n, hidden_size)


def plan_mini_batches(lengths: torch.LongTensor, max_tokens: int) -> list[torch.LongTensor]:
    r"""
    Cuts inputs into mini-batches of similar length within a budget of tokens, padding counted.

    Every process gets as many mini-batches as the one that needs most, because engines that gather parameters (FSDP,
    ZeRO-3) or buffers (DDP) wait for each other in every forward. Some may be empty where inputs are few.

    Args:
        lengths (`torch.LongTensor` of shape `(num_inputs,)`):
            Tokens of each input; on the device by which processes talk to each other.
        max_tokens (`int`):
            Most tokens of a mini-batch, padding included.

    Returns:
        `list[torch.LongTensor]`: numbers of the inputs of each mini-batch, the longest inputs first, so that a budget
        that is too large fails at once.

    Raises:
        ValueError: if one input alone exceeds the budget.
    """
    if int(lengths.max()) > max_tokens:
        number = int(lengths.argmax())
        raise ValueError(
            f"Input {number} has {int(lengths[number])} tokens, more than mini_batch_tokens={max_tokens}."
        )
    batches = pack(lengths.cpu(), max_tokens, longest_first=True)
    needed = torch.tensor(len(batches), device=lengths.device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(needed, op=dist.ReduceOp.MAX)
    batches = halve_largest(batches, int(needed))
    return [torch.tensor(batch, dtype=torch.long, device=lengths.device) for batch in batches]


def cached_embeddings(
    embed: Embed,
    mini_batches: Sequence[torch.LongTensor],
    no_sync: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> torch.Tensor:
    r"""
    Embeddings of all inputs, whose backward embeds them again, mini-batch by mini-batch, all but the last.

    Args:
        embed (`Callable`):
            Numbers of inputs `(n,)` -> embeddings `(n, hidden_size)`. Called with and without gradients.
        mini_batches (`Sequence[torch.LongTensor]`):
            A partition of the numbers of all inputs, on the device of the model. For an empty part the first input is
            embedded in vain.
        no_sync (`Callable`, *optional*):
            Context in which gradients are not reduced across processes, for all mini-batches but one.

    Returns:
        `torch.Tensor` of shape `(num_inputs, hidden_size)`, in the order of the numbers, in fp32.
    """
    if len(mini_batches) == 1 or not torch.is_grad_enabled():
        parts = [_embed_any(embed, rows) for rows in mini_batches]
        return torch.cat(parts)[torch.cat(list(mini_batches)).argsort()]
    # Connects the embeddings to the graph. A parameter would do, but DDP would see it used twice.
    anchor = torch.zeros((), device=mini_batches[0].device, requires_grad=True)
    return _Cached.apply(anchor, embed, mini_batches, no_sync)


class _Cached(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        anchor: torch.Tensor,
        embed: Embed,
        mini_batches: Sequence[torch.LongTensor],
        no_sync: Callable,
    ) -> torch.Tensor:
        ctx.embed, ctx.mini_batches, ctx.no_sync, ctx.states, parts = embed, mini_batches, no_sync, [], []
        for rows in mini_batches[:-1]:  # autograd is off in here
            ctx.states.append((torch.get_rng_state(), *get_device_states(anchor)))
            parts.append(_embed_any(embed, rows))
        with no_sync(), torch.enable_grad():
            ctx.last = _embed_any(embed, mini_batches[-1])
        return torch.cat([*parts, ctx.last.detach()])[torch.cat(list(mini_batches)).argsort()]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> tuple[None, None, None, None]:
        *others, last = ctx.mini_batches
        with ctx.no_sync():
            ctx.last.backward(gradient[last])
        ctx.last = None  # its graph goes before the next one comes
        for number, (rows, states) in enumerate(zip(others, ctx.states, strict=True), 1):
            sync = contextlib.nullcontext() if number == len(others) else ctx.no_sync()
            with sync, torch.enable_grad(), _replayed(states):
                _embed_any(ctx.embed, rows).backward(gradient[rows])
        return None, None, None, None


def _embed_any(embed: Embed, rows: torch.LongTensor) -> torch.Tensor:
    """Embeddings in fp32; also of no rows, connected to every parameter that any row would use."""
    return embed(rows if len(rows) else rows.new_zeros(1))[: len(rows)].float()


@contextlib.contextmanager
def _replayed(states: tuple) -> Iterator[None]:
    """Random numbers as they were at `states`; afterwards as they would have been."""
    cpu, devices, device_states = states
    with torch.random.fork_rng(devices):
        torch.set_rng_state(cpu)
        set_device_states(devices, device_states)
        yield
