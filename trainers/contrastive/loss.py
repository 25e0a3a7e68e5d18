"""InfoNCE, the loss of stage 2: over similarities, always in fp32, one block of queries at a time.

The loss of a query needs its similarities to all documents and nothing of the other queries. So value, gradients and
statistics of a block come out of the forward pass together, and the backward pass only scales the stored gradients:
three matrix products per block, no recomputation, and no `N x M` matrix. The similarity is the cosine of two vectors,
or MaxSim where rows have several states each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import FunctionCtx, once_differentiable

from trainers.contrastive.similarities import similarities_of
from trainers.contrastive.targets import ContrastiveTargets, TargetMasks
from trainers.encoding.maxsim import check_states
from trainers.ranges import AT_LEAST_0, COUNT, check_ranges


__all__ = ["InfoNCEOptions", "InfoNCEOutput", "info_nce"]


@dataclass(frozen=True)
class InfoNCEOptions:
    """
    What may be changed about the loss, fixed for a whole training.

    Args:
        false_negative_margin (`float`, *optional*):
            Leaves negatives out whose similarity exceeds that of the query's (most similar) positive by more than
            this; 0.1 in Qwen3-VL-Embedding. By default none is left out.
        hardness (`float`, *optional*, defaults to 0.0):
            alpha: adds `alpha * stop_gradient(similarity)` to the logits of negatives; 9 in LLaVE.
        matryoshka (`Mapping[int, float]`, *optional*):
            Dimension -> weight. The loss becomes the weighted sum of the losses of the embeddings cut to their first
            dimensions and normalised again. By default all dimensions with weight 1.
        pairs_per_block (`int`, *optional*, defaults to 8,388,608):
            Similarities that are alive at one time, at about 20 bytes each; of MaxSim, cosines of states. Changes
            memory, not results.
    """

    false_negative_margin: float | None = None
    hardness: float = 0.0
    matryoshka: Mapping[int, float] | None = None
    pairs_per_block: int = 2**23

    def __post_init__(self) -> None:
        check_ranges(self, {"false_negative_margin": AT_LEAST_0, "hardness": AT_LEAST_0, "pairs_per_block": COUNT})
        if self.matryoshka is not None and (not self.matryoshka or min(self.matryoshka) < 1):
            raise ValueError(f"matryoshka must map dimensions >= 1 to weights, got {dict(self.matryoshka)}.")


class InfoNCEOutput(NamedTuple):
    """
    The loss and what explains its value, as sums, so that adding those of several steps or processes is exact.

    Args:
        loss (`torch.Tensor`):
            Scalar, fp32 (fp64 if the embeddings are).
        sums (`torch.DoubleTensor` of shape `(7,)`):
            Detached, of the embeddings with all their dimensions: queries; queries that have negatives; of these, the
            ones whose best positive beats every negative (ties are lost); mean similarity of each query's positives;
            similarity of its hardest negative; negatives; pairs left out as false negatives (equal content, or above
            the margin).
        parts (`Mapping[str, InfoNCEOutput]`, *optional*):
            Where the loss is a sum of several, those of one vector and of each budget of late interaction, by name,
            without their weights.
    """

    loss: torch.Tensor
    sums: torch.Tensor
    parts: Mapping[str, InfoNCEOutput] = MappingProxyType({})

    @classmethod
    def total(cls, outputs: Sequence[InfoNCEOutput]) -> InfoNCEOutput:
        """The sum of several, which have the same parts."""
        parts = {name: cls.total([output.parts[name] for output in outputs]) for name in outputs[0].parts}
        loss, sums = (torch.stack(values).double().sum(dim=0) for values in list(zip(*outputs, strict=True))[:2])
        return cls(loss, sums, parts)

    def fractions(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """
        The sum and the count behind each mean per query, to be added up over steps and processes.

        Returns:
            `dict[str, tuple[torch.Tensor, torch.Tensor]]`: `in_batch_accuracy` and `hardest_negative_similarity` (over
            queries that have negatives), `positive_similarity`, `negatives`, `masked_false_negatives`; of the part
            NAME of a summed loss, `loss/NAME` and `in_batch_accuracy/NAME`.
        """
        queries, contested, correct, positive, hardest, negatives, masked = self.sums.unbind()
        of_parts = {f"loss/{name}": (part.loss.detach(), part.sums[0]) for name, part in self.parts.items()}
        of_parts |= {f"in_batch_accuracy/{name}": (part.sums[2], part.sums[1]) for name, part in self.parts.items()}
        return of_parts | {
            "in_batch_accuracy": (correct, contested),
            "positive_similarity": (positive, queries),
            "hardest_negative_similarity": (hardest, contested),
            "negatives": (negatives, queries),
            "masked_false_negatives": (masked, queries),
        }


def info_nce(
    queries: torch.Tensor,
    documents: torch.Tensor,
    targets: ContrastiveTargets | None = None,
    temperature: float | torch.Tensor = 0.03,
    options: InfoNCEOptions = InfoNCEOptions(),
    num_items_in_batch: int | torch.Tensor | None = None,
) -> InfoNCEOutput:
    r"""
    InfoNCE (paper, stage 2; van den Oord et al. 2018) with similarities $s_{ij}$, cosines or MaxSim as in
    [`~trainers.encoding.maxsim.maxsim`], temperature $\tau_i$, positives $P_i$, negatives $N_i$ and hardness $\alpha$
    (LLaVE; sg = stop gradient):

    $$L_i = \frac{1}{|P_i|} \sum_{p \in P_i} -\log \frac{e^{s_{ip}/\tau_i}}{e^{s_{ip}/\tau_i} + Z_i}, \qquad
    Z_i = \sum_{n \in N_i} e^{s_{in}/\tau_i + \alpha\, \mathrm{sg}(s_{in})}$$

    Several positives are averaged outside the logarithm as in SupCon's $L_{out}$ (Khosla et al. 2020, eq. 2), but each
    competes with the negatives alone, so that positives of one query do not push each other away. With the false
    negative margin $m$ (Qwen3-VL-Embedding), $N_i$ loses the $n$ with $s_{in} > \max_p s_{ip} + m$. A query without
    negatives contributes zero.

    Across processes, pass the queries of this process, the documents of all (gathered with their gradients) and the
    number of all queries; the losses of the processes then add up to the loss of the whole batch. For the direction
    from documents to queries call again with local documents, all queries and `targets.transposed()`.

    Args:
        queries (`torch.Tensor` of shape `(num_queries, dim)`, or `(num_queries, q, dim)` for MaxSim):
            Embeddings, normalised here.
        documents (`torch.Tensor` of shape `(num_documents, dim)`, or `(num_documents, t, dim)` for MaxSim):
            Embeddings, normalised here: positives and, with no query of their own, hard negatives.
        targets (`ContrastiveTargets`, *optional*):
            Who is positive and who may be negative; document i is the positive of query i by default.
        temperature (`float` or `torch.Tensor` of shape `()` or `(num_queries,)`, *optional*, defaults to 0.03):
            Receives a gradient if it asks for one.
        options (`InfoNCEOptions`, *optional*):
            Everything that is fixed for a training.
        num_items_in_batch (`int` or scalar `torch.Tensor`, *optional*):
            What the summed loss is divided by; by default the queries with a positive id. 1 gives the sum.

    Returns:
        `InfoNCEOutput`: `loss` and `sums`.

    Raises:
        `ValueError`: shapes that do not fit, a query without its positive, an embedding that has no direction (zero,
            NaN or infinite), a temperature that is not positive.
    """
    _check_shapes(queries, documents, temperature)
    if targets is None:
        targets = ContrastiveTargets.paired(len(queries), len(documents), device=queries.device)
    targets.check_shapes(len(queries), len(documents))
    dtype = torch.promote_types(queries.dtype, torch.float32)
    temperature = torch.as_tensor(temperature, dtype=dtype, device=queries.device).expand(len(queries))
    if not (temperature > 0).all():
        raise ValueError(f"The temperature must be positive, got {temperature.min().item()}.")
    rows = targets.positive.queries.filled().nonzero()[:, 0]  # the queries that take part
    if num_items_in_batch is None:
        num_items_in_batch = max(len(rows), 1)
    weights = options.matryoshka or {queries.shape[-1]: 1.0}
    loss = torch.zeros((), dtype=dtype, device=queries.device)
    with torch.autocast(queries.device.type, enabled=False):
        for dim, weight in sorted(weights.items()):
            summed, sums = _BlockwiseInfoNCE.apply(
                _normalised(queries, "query", dim)[rows],
                _normalised(documents, "document", dim),
                temperature[rows],
                targets,
                rows,
                options,
                torch.is_grad_enabled(),
            )
            loss = loss + weight * summed
    return InfoNCEOutput(loss / num_items_in_batch, sums)


class _BlockwiseInfoNCE(torch.autograd.Function):
    """The summed loss of normalised queries, and the sums of [`InfoNCEOutput`]."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        queries: torch.Tensor,  # (N, dim) or (N, q, dim)
        documents: torch.Tensor,  # (M, dim) or (M, t, dim)
        temperature: torch.Tensor,  # (N,)
        targets: ContrastiveTargets,
        rows: torch.Tensor,  # (N,): which queries of the targets these are
        options: InfoNCEOptions,
        differentiate: bool,  # a function is not told by autograd
    ) -> tuple[torch.Tensor, torch.Tensor]:
        similarities = similarities_of(queries, documents, options.pairs_per_block)
        for_temperature = torch.zeros_like(temperature)
        loss = queries.new_zeros(())
        sums = queries.new_zeros(7, dtype=torch.float64)
        for start in range(0, len(queries), similarities.block_size):
            block = slice(start, start + similarities.block_size)
            scores = similarities.scores(block)  # (block_size, M)
            masks = targets.masks(rows[block])
            _check_positives(masks, rows[block], targets)
            block_loss, slopes, block_sums = _loss_of_scores(scores, temperature[block], masks, options)
            loss += block_loss
            sums += block_sums
            if differentiate:
                slopes /= temperature[block, None]
                similarities.add_gradients(block, slopes)
                for_temperature[block] = torch.einsum("nm,nm->n", slopes, scores) / -temperature[block]
        for_queries, for_documents = similarities.for_queries, similarities.for_documents
        ctx.save_for_backward(for_queries, for_documents, for_temperature)
        ctx.mark_non_differentiable(sums)
        return loss, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_loss: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        for_queries, for_documents, for_temperature = ctx.saved_tensors
        return for_queries * grad_loss, for_documents * grad_loss, for_temperature * grad_loss, None, None, None, None


def _loss_of_scores(
    scores: torch.Tensor, temperature: torch.Tensor, masks: TargetMasks, options: InfoNCEOptions
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Summed loss, its slopes with respect to `scores / temperature`, `(rows, M)`, and the sums of the statistics."""
    rows, columns = masks.positive.nonzero(as_tuple=True)  # one entry per positive pair
    positive_scores = scores[rows, columns]
    share = 1 / torch.bincount(rows, minlength=len(scores)).to(scores.dtype)[rows]
    best = scores.new_full(temperature.shape, -torch.inf).scatter_reduce(0, rows, positive_scores, "amax")

    negative, masked = masks.negative, masks.duplicate.count_nonzero()
    if options.false_negative_margin is not None:
        suspect = negative & (scores > (best + options.false_negative_margin)[:, None])
        negative, masked = negative & ~suspect, masked + suspect.count_nonzero()

    scale = 1 / temperature + options.hardness
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
    per_query = (torch.ones_like(total), contested, correct, positive_scores * share, hardest)
    sums = [values.sum(dtype=torch.float64) for values in per_query]
    return loss, slopes, torch.stack([*sums, negative.count_nonzero().double(), masked.double()])


def _check_shapes(queries: torch.Tensor, documents: torch.Tensor, temperature: float | torch.Tensor) -> None:
    if queries.dim() == 3:
        check_states(queries, documents)
    elif queries.dim() != 2 or documents.dim() != 2 or queries.shape[1] != documents.shape[1]:
        raise ValueError(
            "Queries and documents must be (rows, dim) with one dim, "
            f"got {tuple(queries.shape)} and {tuple(documents.shape)}."
        )
    shape = tuple(torch.as_tensor(temperature).shape)
    if shape not in ((), (1,), (len(queries),)):
        raise ValueError(f"The temperature must be one number or one per query ({len(queries)}), got shape {shape}.")


def _check_positives(masks: TargetMasks, rows: torch.Tensor, targets: ContrastiveTargets) -> None:
    lost = rows[~masks.positive.any(dim=1)]
    if len(lost):
        (ids,) = targets.positive.queries[lost[:1]].tolist()
        raise ValueError(
            f"{len(lost)} queries have no positive among the documents, first query {int(lost[0])} with the positive "
            f"id {', '.join(map(str, ids))}. Pass the documents of all processes, or give queries that take no part "
            "the positive id -1."
        )


def _normalised(embeddings: torch.Tensor, name: str, dim: int) -> torch.Tensor:
    """The first `dim` dimensions, in fp32 or better, with length 1."""
    if dim > embeddings.shape[-1]:
        raise ValueError(
            f"Matryoshka dimension {dim} exceeds the {embeddings.shape[-1]} dimensions of the embeddings."
        )
    embeddings = embeddings[..., :dim].to(torch.promote_types(embeddings.dtype, torch.float32))
    norms = embeddings.detach().norm(dim=-1)
    bad = (~(norms > 0) | norms.isinf()).nonzero()
    if len(bad):
        row, *state = bad[0].tolist()
        of_state = f", state {state[0]}," if state else ""
        raise ValueError(
            f"The embedding of {name} {row}{of_state} has norm {norms[tuple(bad[0])].item()} in its first {dim} "
            f"dimensions and {len(bad)} embeddings in all have no direction: look at that row's input, or lower the "
            "learning rate."
        )
    return F.normalize(embeddings, dim=-1)
