"""The relations of a contrastive batch, however many processes it is spread over: who is whose positive and negative.

There is one notion of what is equal: the keys of [`~trainers.contrastive_collator.ContrastiveInput`]. Rows that ask
the same, with the same instruction, are one query with several positives, as the rows of a `group` are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from trainers.gather import gather_rows
from trainers.targets import ContrastiveTargets, IdPair, IdSets


__all__ = ["BatchTargets", "PairIds"]

Index = slice | torch.Tensor


class PairIds(NamedTuple):
    r"""
    What is known of some rows and their documents.

    Args:
        asked (`torch.LongTensor` of shape `(num_rows,)`): hashes of the queries, instruction included.
        contents (`torch.LongTensor` of shape `(num_rows,)`): hashes of what the queries ask about, without it.
        groups, sources (`torch.LongTensor` of shape `(num_rows,)`): hashes, -1 for none.
        restricted (`torch.LongTensor` of shape `(num_rows,)`): 1 for rows with no negatives but their own.
        owners (`torch.LongTensor` of shape `(num_documents,)`): the rows to which the documents belong.
        documents (`torch.LongTensor` of shape `(num_documents,)`): hashes of the documents.
        is_positive (`torch.LongTensor` of shape `(num_documents,)`): 1 for positives, 0 for hard negatives.
    """

    asked: torch.Tensor
    contents: torch.Tensor
    groups: torch.Tensor
    sources: torch.Tensor
    restricted: torch.Tensor
    owners: torch.Tensor
    documents: torch.Tensor
    is_positive: torch.Tensor

    @classmethod
    def of(cls, batch: dict[str, Any]) -> PairIds:
        """Those of a batch of [`ComaContrastiveCollator`]."""
        names = ("asked_keys", "query_keys", "groups", "sources")
        positive = torch.arange(len(batch["owners"]), device=batch["owners"].device) < len(batch["queries"])
        own = (batch["restricted"].long(), batch["owners"], batch["document_keys"], positive.long())
        return cls(*(batch[name] for name in names), *own)

    def gathered(self) -> tuple[PairIds, slice, slice]:
        """Those of all processes, and where the rows and the documents of this one are."""
        rows, first_row = gather_rows(torch.stack(self[:5], dim=1))
        documents = torch.stack([self.owners + first_row, *self[6:]], dim=1)
        documents, first = gather_rows(documents)
        here = slice(first_row, first_row + len(self.asked)), slice(first, first + len(self.owners))
        return PairIds(*rows.T.contiguous(), *documents.T.contiguous()), *here

    def select(self, rows: torch.Tensor) -> tuple[PairIds, torch.Tensor]:
        """Those of some rows, in their order, with their documents; and which documents these are."""
        place = torch.full_like(self.asked, -1)
        place[rows] = torch.arange(len(rows), device=rows.device)
        documents = (place[self.owners] >= 0).nonzero()[:, 0]
        chosen = PairIds(*(of_row[rows] for of_row in self[:5]), *(of_document[documents] for of_document in self[5:]))
        return chosen._replace(owners=place[chosen.owners]), documents

    def targets(
        self, same_source_negatives: bool = False, rows: Index = slice(None), documents: Index = slice(None)
    ) -> BatchTargets:
        """Who is whose positive and negative, for some of the rows and of the documents, against all others."""
        numbers = torch.arange(len(self.asked), device=self.asked.device)
        positive, content = self._answers()
        rules = {
            "positive": positive,
            "content": content,
            "source": IdPair(self.sources, self.sources[self.owners]),
            "own_list": IdPair(torch.where(self.restricted > 0, numbers, -1), self.owners),
        }
        if not same_source_negatives:
            del rules["source"]
        whole = ContrastiveTargets(**rules)
        return BatchTargets(whole.for_queries(rows), whole.transposed().for_queries(documents), len(self.asked))

    def _answers(self) -> tuple[IdPair, IdPair]:
        """
        A document answers a query if its row asks the same, or is of a group of one of the rows that ask the same.
        What equals an answer, or the query itself, is left out.
        """
        queries, of_row = self.asked.unique(return_inverse=True)
        groups, group_of_row = self.groups.unique(return_inverse=True)
        contents, content_of = torch.cat([self.contents, self.documents]).unique(return_inverse=True)
        content_of_row, content_of_document = content_of.split([len(self.contents), len(self.documents)])
        # Ids of queries, then of groups, then of contents.
        group_of_row, first_content = group_of_row + len(queries), len(queries) + len(groups)
        rows = torch.arange(len(self.asked), device=self.asked.device)
        in_group = (self.groups >= 0).nonzero()[:, 0]
        # What is asked, by row; and the documents that answer it, with the row of each.
        row, its = torch.cat([rows, in_group]), torch.cat([of_row, group_of_row[in_group]])
        positives = (self.is_positive > 0).nonzero()[:, 0]
        owners = self.owners[positives]
        grouped = self.groups[owners] >= 0
        document = torch.cat([positives, positives[grouped]])
        its_answer = torch.cat([of_row[owners], group_of_row[owners[grouped]]])

        documents = torch.arange(len(self.documents), device=self.asked.device)
        asked = IdSets.of(of_row, of_row[row], its)
        positive = IdPair(asked, IdSets.of(documents, document, its_answer))
        asked = _with(asked, of_row, content_of_row + first_content)
        answers = IdSets.of(content_of_document, content_of_document[document], its_answer)
        return positive, IdPair(asked, _with(answers, content_of_document, content_of_document + first_content))


@dataclass(frozen=True, eq=False)
class BatchTargets:
    r"""
    Who is whose positive and negative, for the loss of one process.

    Args:
        queries ([`ContrastiveTargets`]):
            The queries of this process against the documents of all.
        documents ([`ContrastiveTargets`]):
            The documents of this process against the queries of all.
        num_rows (`int`):
            Rows of all processes.
    """

    queries: ContrastiveTargets
    documents: ContrastiveTargets
    num_rows: int

    @classmethod
    def of(cls, batch: dict[str, Any], same_source_negatives: bool = False) -> BatchTargets:
        """From a batch of [`ComaContrastiveCollator`] on each process."""
        everywhere, rows, documents = PairIds.of(batch).gathered()
        return everywhere.targets(same_source_negatives, rows, documents)


def _with(given: IdSets, sets: torch.Tensor, ids: torch.Tensor) -> IdSets:
    """The sets with more ids in them."""
    return IdSets.of(given.of_row, torch.cat([given.sets, sets]), torch.cat([given.ids, ids]))
