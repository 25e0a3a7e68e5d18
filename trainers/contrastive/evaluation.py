"""The evaluation loss of stage 2: among as many documents as in training, however evaluation is cut into batches."""

from __future__ import annotations

from collections.abc import Callable

import torch

from trainers.contrastive.loss import InfoNCEOutput, InfoNCEStatistics
from trainers.contrastive.targets import PairIds
from trainers.evaluation_rows import EVALUATION


__all__ = ["EvaluationBlocks"]

# queries, documents, their relations; which queries and which documents look for the others
LossOfBlock = Callable[[torch.Tensor, torch.Tensor, PairIds, torch.Tensor, torch.Tensor], InfoNCEOutput]


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
            What a block costs: `(queries, documents, ids, own_rows, own_documents)` -> [`InfoNCEOutput`], summed over
            `own_rows`.
    """

    def __init__(self, size: int, loss: LossOfBlock) -> None:
        self.size, self.loss = size, loss
        self.queries = self.documents = self.ids = None
        self.waiting = 0  # rows without a loss, the last of those that are here
        self.rows, self.total, self.num_documents = 0, 0.0, 0
        self.statistics: InfoNCEStatistics | None = None

    def add(self, queries: torch.Tensor, documents: torch.Tensor, ids: PairIds, numbers: torch.Tensor) -> None:
        """
        Args:
            queries (`torch.Tensor` of shape `(num_rows, dim)`), documents (`(num_documents, dim)`):
                Embeddings.
            ids ([`PairIds`]):
                What is known of them.
            numbers (`torch.LongTensor` of shape `(num_rows,)`):
                Where the rows stand in the data.

        Raises:
            ValueError: for an embedding that is not finite, with its row.
        """
        rows_of_documents = numbers[ids.owners] if len(numbers) else numbers
        for name, embeddings, rows in (("query", queries, numbers), ("document", documents, rows_of_documents)):
            if len(bad := (~embeddings.isfinite().all(dim=1)).nonzero()):
                raise ValueError(f"Row {int(rows[bad[0, 0]])} of {EVALUATION}: its {name} has no finite embedding.")
        if self.ids is not None:
            queries, documents = torch.cat([self.queries, queries]), torch.cat([self.documents, documents])
            ids = self.ids.joined(ids)
        self.queries, self.documents, self.ids = queries, documents, ids
        self.waiting += len(numbers)
        while self.waiting >= self.size:
            self._finish(len(self.queries) - self.waiting, self.size)
            self._keep(len(self.queries) - self.waiting - self.size)

    def means(self) -> dict[str, float]:
        """The loss, among how many documents a query was, on average, and what explains the loss."""
        if self.waiting:
            self._finish(len(self.queries) - self.waiting, self.waiting)
        if not self.rows:
            raise ValueError(f"There is no row in {EVALUATION}, or none that can be used: no loss can be computed.")
        found = {"loss": self.total / self.rows, "num_documents": self.num_documents / self.rows}
        fractions = self.statistics.fractions().items()
        return found | {name: float(total / count) for name, (total, count) in fractions if count}

    def _finish(self, first: int, number: int) -> None:
        """The loss of some rows, among those before that a block has besides."""
        start = max(0, first + number - self.size)
        device = self.queries.device
        ids, chosen = self.ids.select(torch.arange(start, first + number, device=device))
        own = torch.arange(first - start, first - start + number, device=device)
        own_documents = (ids.owners >= first - start).nonzero()[:, 0]
        block = self.queries[start : first + number], self.documents[chosen]
        output = self.loss(*block, ids, own, own_documents)
        self.total += float(output.loss)
        self.num_documents += number * len(ids.owners)
        self.statistics = output.statistics if self.statistics is None else self.statistics + output.statistics
        self.rows += number
        self.waiting -= number

    def _keep(self, first: int) -> None:
        """Leaves out rows that no block needs any more."""
        if first > 0:
            rows = torch.arange(first, len(self.queries), device=self.queries.device)
            self.ids, chosen = self.ids.select(rows)
            self.queries, self.documents = self.queries[first:], self.documents[chosen]
