"""InfoNCE of normalised embeddings, finished one block of queries at a time.

The loss of a query needs its similarities to all documents and nothing of the other queries. So value, gradients and
statistics of a block come out of the forward pass together, and the backward pass only scales the stored gradients:
three matrix products per block, no recomputation, and no `N x M` matrix. The equations are those of
[`~trainers.contrastive.loss.info_nce`].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import FunctionCtx, once_differentiable

from trainers.contrastive.targets import ContrastiveTargets, TargetMasks


__all__ = ["BlockSettings", "BlockwiseInfoNCE"]


class BlockSettings(NamedTuple):
    """
    Args:
        margin (`float` or `None`): Negatives above the best positive by more than this are left out.
        hardness (`float`): Weight of the similarity in the logits of negatives.
        pairs_per_block (`int`): Similarities that are alive at one time.
        differentiate (`bool`): Whether to compute gradients, which a function is not told by autograd.
    """

    margin: float | None
    hardness: float
    pairs_per_block: int
    differentiate: bool


class BlockwiseInfoNCE(torch.autograd.Function):
    """
    `apply(queries, documents, temperature, targets, settings)` gives the summed loss of the queries and the sums of
    [`~trainers.contrastive.loss.InfoNCEStatistics`]. The embeddings must be normalised and all queries must have a
    positive.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        queries: torch.Tensor,  # (N, dim)
        documents: torch.Tensor,  # (M, dim)
        temperature: torch.Tensor,  # (N,)
        targets: ContrastiveTargets,
        settings: BlockSettings,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gradients = [torch.zeros_like(tensor) for tensor in (queries, documents, temperature)]
        loss, sums = queries.new_zeros(()), queries.new_zeros(7, dtype=torch.float64)
        rows = max(1, settings.pairs_per_block // max(1, len(documents)))
        for start in range(0, len(queries), rows):
            block = slice(start, start + rows)
            scores = queries[block] @ documents.T  # (rows, M)
            block_loss, slopes, block_sums = _finish(scores, temperature[block], targets.masks(block), settings)
            loss += block_loss
            sums += block_sums
            if settings.differentiate:
                slopes /= temperature[block, None]
                gradients[0][block] = slopes @ documents
                gradients[1].addmm_(slopes.T, queries[block])
                gradients[2][block] = torch.einsum("nm,nm->n", slopes, scores) / -temperature[block]
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(sums)
        return loss, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_loss: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*(gradient * grad_loss for gradient in ctx.saved_tensors), None, None)


def _finish(
    scores: torch.Tensor, temperature: torch.Tensor, masks: TargetMasks, settings: BlockSettings
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Summed loss, its slopes with respect to `scores / temperature`, `(rows, M)`, and the sums of the statistics."""
    rows, columns = masks.positive.nonzero(as_tuple=True)  # one entry per positive pair
    positive_scores = scores[rows, columns]
    share = 1 / torch.bincount(rows, minlength=len(scores)).to(scores.dtype)[rows]
    best = scores.new_full(temperature.shape, -torch.inf).scatter_reduce(0, rows, positive_scores, "amax")

    negative, masked = masks.negative, masks.duplicate.count_nonzero()
    if settings.margin is not None:
        suspect = negative & (scores > (best + settings.margin)[:, None])
        negative, masked = negative & ~suspect, masked + suspect.count_nonzero()

    scale = 1 / temperature + settings.hardness
    weights = (scores * scale[:, None]).masked_fill_(~negative, -torch.inf)
    highest = weights.amax(1)
    contested = highest > -torch.inf  # queries that have negatives
    shift = torch.where(contested, highest, 0)
    weights = weights.sub_(shift[:, None]).exp_()
    total = weights.sum(1)

    gaps = (shift + total.log())[rows] - positive_scores / temperature[rows]  # log Z - logit of the positive
    pull = F.sigmoid(gaps) * share
    loss = -(F.logsigmoid(-gaps) * share).sum()
    push = torch.zeros_like(total).index_add(0, rows, pull)
    slopes = weights.mul_((push / total.clamp(min=1))[:, None])  # the highest weight is 1: the clamp is for none
    slopes[rows, columns] = -pull

    # Compared as logits: dividing `highest` by the scale could turn a tie into a win.
    correct = contested & (best * scale > highest)
    hardest = torch.where(contested, highest / scale, 0)
    found = (torch.ones_like(total), contested, correct, positive_scores * share, hardest)
    sums = [values.sum(dtype=torch.float64) for values in found]
    return loss, slopes, torch.stack([*sums, negative.count_nonzero().double(), masked.double()])
