"""The evaluation loss of stage 2: among as many documents as in training, however evaluation is cut into batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from trainers.contrastive.loss import InfoNCEOutput
from trainers.contrastive.targets import PairIds
from trainers.evaluation_rows import EVALUATION


__all__ = ["EvaluationBlocks"]

# queries, documents, their relations; which queries look for documents
LossOfBlock = Callable[[torch.Tensor, torch.Tensor, PairIds, slice], InfoNCEOutput]


class EvaluationBlocks:
    r"""
    Cuts the rows of an evaluation, in the order in which they come, into blocks of the size of a training batch, whose
    documents are each other's negatives. The rows that are left at the end are ranked among the documents of the last
    `size` rows, so that every query counts once and meets as many rows as the others; fewer rows than `size` are one
    block.

    Args:
        size (`int`):
            Rows of a block.
        loss (`Callable`):
            What a block costs: `(queries, documents, ids, own_rows)` -> [`InfoNCEOutput`], summed over `own_rows`.
    """

    def __init__(self, size: int, loss: LossOfBlock) -> None:
        self.size, self.loss = size, loss
        self.queries = self.documents = self.ids = None
        self.waiting = 0  # rows without a loss, the last of those that are here
        self.num_rows, self.num_documents = 0, 0
        self.similarity, self.num_pairs = 0.0, 0  # of different documents of a block
        self.outputs: list[InfoNCEOutput] = []

    def add(self, queries: torch.Tensor, documents: torch.Tensor, ids: PairIds, numbers: torch.Tensor) -> None:
        """
        Args:
            queries (`torch.Tensor` of shape `(num_rows, n, dim)`), documents (`(num_documents, n, dim)`):
                The embedding of each, and states after it.
            ids ([`PairIds`]):
                What is known of them.
            numbers (`torch.LongTensor` of shape `(num_rows,)`):
                Where the rows stand in the data.

        Raises:
            ValueError: for an embedding that is not finite, with its row.
        """
        for name, embeddings, rows in (("query", queries, numbers), ("document", documents, numbers[ids.owners])):
            if len(bad := (~embeddings.isfinite().flatten(1).all(dim=1)).nonzero()):
                raise ValueError(f"Row {int(rows[bad[0, 0]])} of {EVALUATION}: its {name} has no finite embedding.")
        if self.ids is not None:
            queries, documents = torch.cat([self.queries, queries]), torch.cat([self.documents, documents])
            ids = self.ids.joined(ids)
        self.queries, self.documents, self.ids = queries, documents, ids
        self.waiting += len(numbers)
        while self.waiting >= self.size:
            self._finish(self.size)
            first = max(0, len(self.queries) - self.waiting - self.size)  # those before are needed no more
            self.queries, self.documents, self.ids = self._rows(first, len(self.queries))

    def means(self) -> dict[str, float]:
        """
        The loss, among how many documents a query was, on average, and what explains the loss; `document_similarity`
        is the mean cosine of different documents of a block to each other.
        """
        if self.waiting:
            self._finish(self.waiting)
        if not self.num_rows:
            raise ValueError(f"There is no row in {EVALUATION}, or none that can be used: no loss can be computed.")
        total = InfoNCEOutput.total(self.outputs)
        means = {"loss": float(total.loss) / self.num_rows, "num_documents": self.num_documents / self.num_rows}
        if self.num_pairs:
            means["document_similarity"] = self.similarity / self.num_pairs
        return means | {name: float(part / count) for name, (part, count) in total.fractions().items() if count}

    def _finish(self, number: int) -> None:
        """The loss of the first rows that wait for one, among those before that a block has besides."""
        first = len(self.queries) - self.waiting
        start = max(0, first + number - self.size)
        queries, documents, ids = self._rows(start, first + number)
        self.outputs.append(self.loss(queries, documents, ids, slice(first - start, first - start + number)))
        similarity, pairs = _similarity(documents[:, 0], ids.documents[:, 0])
        self.similarity, self.num_pairs = self.similarity + similarity, self.num_pairs + pairs
        self.num_rows += number
        self.num_documents += number * len(documents)
        self.waiting -= number

    def _rows(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor, PairIds]:
        """Some of the rows with their documents."""
        ids, chosen = self.ids.select(torch.arange(start, end, device=self.queries.device))
        return self.queries[start:end], self.documents[chosen], ids


def _similarity(documents: torch.Tensor, keys: torch.Tensor) -> tuple[float, int]:
    """
    The sum of the cosines of all pairs of different documents, and how many pairs there are: of unit vectors the
    square of their sum, less those of each with itself.
    """
    unique, place = keys.unique(return_inverse=True)
    first = torch.empty_like(unique).scatter_(0, place, torch.arange(len(keys), device=keys.device))
    vectors = F.normalize(documents[first].float(), dim=1)
    return float(vectors.sum(dim=0).square().sum()) - len(vectors), len(vectors) * (len(vectors) - 1)
