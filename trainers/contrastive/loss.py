"""InfoNCE over cosine similarities, always in fp32, with memory that does not grow as the square of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from trainers.contrastive.loss_blocks import BlockSettings, BlockwiseInfoNCE
from trainers.contrastive.targets import ContrastiveTargets


__all__ = ["InfoNCEOptions", "InfoNCEOutput", "InfoNCEStatistics", "info_nce"]


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
            Similarities that are alive at one time, at about 20 bytes each. Changes memory, not results.
    """

    false_negative_margin: float | None = None
    hardness: float = 0.0
    matryoshka: Mapping[int, float] | None = None
    pairs_per_block: int = 2**23

    def __post_init__(self) -> None:
        if self.false_negative_margin is not None and self.false_negative_margin < 0:
            raise ValueError(f"`false_negative_margin` must not be negative, got {self.false_negative_margin}.")
        if self.hardness < 0:
            raise ValueError(f"`hardness` must not be negative, got {self.hardness}.")
        if self.pairs_per_block < 1:
            raise ValueError(f"`pairs_per_block` must be at least 1, got {self.pairs_per_block}.")
        if self.matryoshka is not None and (not self.matryoshka or min(self.matryoshka) < 1):
            raise ValueError(f"`matryoshka` must map dimensions >= 1 to weights, got {dict(self.matryoshka)}.")


@dataclass(frozen=True)
class InfoNCEStatistics:
    """
    What explains the value of a loss. Sums, so that adding those of several steps or processes is exact.

    Args:
        sums (`torch.DoubleTensor` of shape `(7,)`):
            Queries; queries that have negatives; of these, the ones whose best positive beats every negative (ties are
            lost); mean similarity of each query's positives; similarity of its hardest negative; negatives; pairs left
            out as false negatives (equal content, or above the margin).
    """

    sums: torch.Tensor

    def __add__(self, other: InfoNCEStatistics) -> InfoNCEStatistics:
        return InfoNCEStatistics(self.sums + other.sums)

    def means(self) -> dict[str, torch.Tensor]:
        """
        Means per query as scalar tensors.

        Returns:
            `dict[str, torch.Tensor]`: `in_batch_accuracy` and `hardest_negative_similarity` (over queries that have
            negatives, NaN if none has), `positive_similarity`, `negatives`, `masked_false_negatives`.
        """
        return {name: total / count for name, (total, count) in self.fractions().items()}

    def fractions(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """The sum and the count behind each of the `means`, to be added up over steps and processes."""
        queries, contested, correct, positive, hardest, negatives, masked = self.sums.unbind()
        return {
            "in_batch_accuracy": (correct, contested),
            "positive_similarity": (positive, queries),
            "hardest_negative_similarity": (hardest, contested),
            "negatives": (negatives, queries),
            "masked_false_negatives": (masked, queries),
        }


class InfoNCEOutput(NamedTuple):
    """
    Args:
        loss (`torch.Tensor`): Scalar, fp32 (fp64 if the embeddings are).
        statistics (`InfoNCEStatistics`): Detached, of the query-to-document direction and all dimensions.
    """

    loss: torch.Tensor
    statistics: InfoNCEStatistics


def info_nce(
    queries: torch.Tensor,
    documents: torch.Tensor,
    targets: ContrastiveTargets | None = None,
    temperature: float | torch.Tensor = 0.03,
    options: InfoNCEOptions = InfoNCEOptions(),
    bidirectional: bool = False,
    num_items_in_batch: int | torch.Tensor | None = None,
) -> InfoNCEOutput:
    r"""
    InfoNCE (paper, stage 2; van den Oord et al. 2018) with cosine similarities $s_{ij}$, temperature $\tau_i$,
    positives $P_i$, negatives $N_i$ and hardness $\alpha$ (LLaVE; sg = stop gradient):

    $$L_i = \frac{1}{|P_i|} \sum_{p \in P_i} -\log \frac{e^{s_{ip}/\tau_i}}{e^{s_{ip}/\tau_i} + Z_i}, \qquad
    Z_i = \sum_{n \in N_i} e^{s_{in}/\tau_i + \alpha\, \mathrm{sg}(s_{in})}$$

    Several positives are averaged outside the logarithm as in SupCon's $L_{out}$ (Khosla et al. 2020, eq. 2), but each
    competes with the negatives alone, so that positives of one query do not push each other away. With the false
    negative margin $m$ (Qwen3-VL-Embedding), $N_i$ loses the $n$ with $s_{in} > \max_p s_{ip} + m$. A query without
    negatives contributes zero.

    Across processes, pass the queries of this process, the documents of all (gathered with their gradients) and the
    number of all queries; the losses of the processes then add up to the loss of the whole batch. For the second
    direction call again with local documents, all queries and `targets.transposed()`.

    Args:
        queries (`torch.Tensor` of shape `(num_queries, dim)`):
            Embeddings, normalised here.
        documents (`torch.Tensor` of shape `(num_documents, dim)`):
            Embeddings, normalised here: positives and, with no query of their own, hard negatives.
        targets (`ContrastiveTargets`, *optional*):
            Who is positive and who may be negative; document i is the positive of query i by default.
        temperature (`float` or `torch.Tensor` of shape `()` or `(num_queries,)`, *optional*, defaults to 0.03):
            Receives a gradient if it asks for one.
        options (`InfoNCEOptions`, *optional*):
            Everything that is fixed for a training.
        bidirectional (`bool`, *optional*, defaults to `False`):
            Mean of both directions. In the second every document that has a positive id looks for its queries.
        num_items_in_batch (`int` or scalar `torch.Tensor`, *optional*):
            What the summed loss of each direction is divided by; by default the queries with a positive id (documents
            with one, in the second direction). 1 gives the sum.

    Returns:
        `InfoNCEOutput`: `loss` and `statistics`.

    Raises:
        `ValueError`: shapes that do not fit, a query without its positive, an embedding that has no direction (zero,
            NaN or infinite), a temperature that is not positive.
    """
    if targets is None:
        targets = ContrastiveTargets.paired(len(queries), len(documents))
    targets = targets.to(queries.device)
    _check_shapes(queries, documents, temperature, bidirectional)
    targets.check_shapes(len(queries), len(documents))
    _check_positives(targets, bidirectional)
    with torch.autocast(queries.device.type, enabled=False):
        forward = _Direction(targets, temperature, options, num_items_in_batch)(queries, documents)
        if not bidirectional:
            return forward
        backward = _Direction(targets.transposed(), temperature, options, num_items_in_batch)(documents, queries)
        return InfoNCEOutput((forward.loss + backward.loss) / 2, forward.statistics)


class _Direction(NamedTuple):
    """One direction of the loss: the queries that take part, over all Matryoshka dimensions."""

    targets: ContrastiveTargets
    temperature: float | torch.Tensor
    options: InfoNCEOptions
    num_items: int | torch.Tensor | None

    def __call__(self, queries: torch.Tensor, documents: torch.Tensor) -> InfoNCEOutput:
        anchors = self.targets.anchors()
        dtype = torch.promote_types(queries.dtype, torch.float32)
        temperature = torch.as_tensor(self.temperature, dtype=dtype, device=queries.device).expand(len(queries))
        if not (temperature > 0).all():
            raise ValueError(f"The temperature must be positive, got {temperature.min().item()}.")
        num_items = max(int(anchors.sum()), 1) if self.num_items is None else self.num_items
        targets = self.targets.for_queries(anchors)
        options = self.options
        settings = BlockSettings(
            options.false_negative_margin, options.hardness, options.pairs_per_block, torch.is_grad_enabled()
        )

        loss = torch.zeros((), dtype=dtype, device=queries.device)
        for dim, weight in sorted((options.matryoshka or {queries.shape[1]: 1.0}).items()):
            rows = _normalised(queries, "query", dim)[anchors]
            columns = _normalised(documents, "document", dim)
            summed, sums = BlockwiseInfoNCE.apply(rows, columns, temperature[anchors], targets, settings)
            loss = loss + weight * summed
        return InfoNCEOutput(loss / num_items, InfoNCEStatistics(sums))


def _check_shapes(
    queries: torch.Tensor, documents: torch.Tensor, temperature: float | torch.Tensor, bidirectional: bool
) -> None:
    if queries.dim() != 2 or documents.dim() != 2 or queries.shape[1] != documents.shape[1]:
        raise ValueError(
            "Queries and documents must be (rows, dim) with one dim, "
            f"got {tuple(queries.shape)} and {tuple(documents.shape)}."
        )
    shape = tuple(torch.as_tensor(temperature).shape)
    if shape not in ((), (1,), (len(queries),)):
        raise ValueError(f"The temperature must be one number or one per query ({len(queries)}), got shape {shape}.")
    if bidirectional and shape not in ((), (1,)):
        raise ValueError(
            "Temperatures per query do not say which temperature a document has: call once per direction, the second "
            "time with documents, queries, `targets.transposed()` and the temperatures of the documents."
        )


def _check_positives(targets: ContrastiveTargets, bidirectional: bool) -> None:
    lost = targets.unmatched().nonzero()
    if len(lost):
        row = lost[0].item()
        ids = targets.positive.queries[row : row + 1].tolist()[0]
        raise ValueError(
            f"{len(lost)} queries have no positive among the documents, first query {row} with the positive id "
            f"{ids}. Pass the documents of all processes, or give queries that "
            "take no part the positive id -1."
        )
    lost = targets.transposed().unmatched().nonzero() if bidirectional else ()
    if len(lost):
        row = lost[0].item()
        ids = targets.positive.documents[row : row + 1].tolist()[0]
        raise ValueError(
            f"{len(lost)} documents have positive ids of no query, first document {row} with the id "
            f"{ids}: both directions in one call need all queries. Call once per "
            "direction, or give documents that are nobody's positive the positive id -1."
        )


def _normalised(embeddings: torch.Tensor, name: str, dim: int) -> torch.Tensor:
    """The first `dim` dimensions, in fp32 or better, with length 1."""
    if dim > embeddings.shape[1]:
        raise ValueError(f"Matryoshka dimension {dim} exceeds the {embeddings.shape[1]} dimensions of the embeddings.")
    embeddings = embeddings[:, :dim].to(torch.promote_types(embeddings.dtype, torch.float32))
    norms = embeddings.detach().norm(dim=1)
    bad = (~(norms > 0) | norms.isinf()).nonzero()
    if len(bad):
        row = bad[0].item()
        raise ValueError(
            f"The embedding of {name} {row} has norm {norms[row].item()} in its first {dim} dimensions and {len(bad)} "
            "embeddings in all have no direction: look at that row's input, or lower the learning rate."
        )
    return F.normalize(embeddings, dim=1)
