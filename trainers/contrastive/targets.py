"""Who is a positive and who may be a negative, as id vectors.

A batch of 32,768 pairs has a billion (query, document) relations but only 65,536 ids, so nothing here ever holds an
`N x M` mask: each rule is a pair of integer vectors, and the mask of a few rows is built when those rows are scored.
Negative ids mean "none".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import torch

from trainers.distributed import gather_rows


__all__ = ["BatchTargets", "ContrastiveTargets", "IdPair", "IdSets", "PairIds", "TargetMasks"]

PAIRS_AT_A_TIME = 2**20  # of rows and ids that are looked up, at about 50 bytes each


@dataclass(frozen=True, eq=False)
class IdSets:
    """
    Ids of rows of which many have the same set: each set is written down once, so that what belongs to a thousand rows
    does not take a thousand columns.

    Args:
        of_row (`torch.LongTensor` of shape `(num_rows,)`):
            Number of the set of each row, from 0.
        sets, ids (`torch.LongTensor` of shape `(num_ids,)`):
            Set after set, in ascending order, the number of the set and an id in it.
    """

    of_row: torch.Tensor
    sets: torch.Tensor
    ids: torch.Tensor

    @classmethod
    def of(cls, of_row: torch.Tensor, sets: torch.Tensor, ids: torch.Tensor) -> IdSets:
        """From ids in any order, the same one in the same set several times or not."""
        values, numbers = ids.unique(return_inverse=True)
        codes = (sets * len(values) + numbers).unique()  # much faster than of pairs
        size = max(len(values), 1)
        return cls(of_row, codes // size, values[codes % size])

    def __len__(self) -> int:
        return len(self.of_row)

    def __getitem__(self, index: slice | torch.Tensor) -> IdSets:
        return IdSets(self.of_row[index], self.sets, self.ids)

    def to(self, device: torch.device | str) -> IdSets:
        """The same sets on another device."""
        return IdSets(self.of_row.to(device), self.sets.to(device), self.ids.to(device))

    def tolist(self) -> list[list[int]]:
        """The ids of each row."""
        return [self.ids[self.sets == number].tolist() for number in self.of_row.tolist()]

    def filled(self) -> torch.Tensor:
        """Which rows have an id, `(num_rows,)`."""
        return torch.isin(self.of_row, self.sets)

    def having(self, ids: torch.Tensor) -> torch.Tensor:
        """Which rows have one of some ids, `(num_rows,)`."""
        return torch.isin(self.of_row, self.sets[torch.isin(self.ids, ids)])

    def of_rows(self) -> torch.Tensor:
        """All ids of the rows."""
        return self.ids[torch.isin(self.sets, self.of_row)]

    def shared(self, others: IdSets) -> torch.Tensor:
        """Whether a row and a row of `others` have an id in common, `(len(self), len(others))`."""
        wanted, number = self.of_row.unique(return_inverse=True)
        of_wanted, place = _places(self.sets, wanted)
        ids, theirs = others._by_id
        size = int(others.of_row.max()) + 1 if len(others) else 0
        theirs = torch.where(theirs < size, theirs, size)  # sets of none of their rows share a column
        found = torch.zeros(len(wanted), size + 1, dtype=torch.bool, device=self.of_row.device)
        for some_wanted, some_ids in _split(ids, of_wanted, self.ids[place]):
            which, here = _places(ids, some_ids)
            found[some_wanted[which], theirs[here]] = True
        return found.gather(1, others.of_row.expand(len(wanted), -1))[number]

    @cached_property
    def _by_id(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All ids in ascending order, and the set of each."""
        ids, order = self.ids.sort()
        return ids, self.sets[order]


def _places(values: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every place of sorted `values` where a wanted number stands: which of the wanted it is, and the place."""
    first = torch.searchsorted(values, wanted)
    counts = torch.searchsorted(values, wanted, right=True) - first
    which = torch.arange(len(wanted), device=values.device).repeat_interleave(counts)
    offset = first - (counts.cumsum(0) - counts)
    return which, torch.arange(len(which), device=values.device) + offset[which]


def _split(values: torch.Tensor, *wanted: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Pieces of the wanted, of which the last one stands in `values`, with about `PAIRS_AT_A_TIME` places each."""
    counts = torch.searchsorted(values, wanted[-1], right=True) - torch.searchsorted(values, wanted[-1])
    pieces = (counts.cumsum(0) // PAIRS_AT_A_TIME).unique_consecutive(return_counts=True)[1].tolist()
    yield from zip(*(tensor.split(pieces) for tensor in wanted), strict=True)


class IdPair(NamedTuple):
    """
    The ids of one rule on both sides.

    Args:
        queries (`torch.LongTensor` of shape `(num_queries,)` or `(num_queries, ids_per_query)`, or [`IdSets`]):
            Ids of each query. Rows with fewer ids than others are filled with -1.
        documents (`torch.LongTensor` of shape `(num_documents,)` or `(num_documents, ids_per_document)`, or
            [`IdSets`] like `queries`):
            Ids of each document, from the same id space.
    """

    queries: torch.Tensor | IdSets
    documents: torch.Tensor | IdSets

    def shared(self, rows: slice) -> torch.Tensor:
        """Whether a query of `rows` and a document have an id in common, `(len(rows), num_documents)`."""
        if isinstance(self.queries, IdSets):
            return self.queries[rows].shared(self.documents)
        queries, documents = _columns(self.queries[rows]), _columns(self.documents)
        queries = queries.masked_fill(queries < 0, -2)  # so that "none" of a query never equals "none" of a document
        documents = documents.clamp(min=-1)
        shared = torch.zeros(len(queries), len(documents), dtype=torch.bool, device=queries.device)
        for query_ids in queries.unbind(1):
            for document_ids in documents.unbind(1):
                shared |= query_ids[:, None] == document_ids
        return shared

    def compatible(self, rows: slice) -> torch.Tensor:
        """Whether they share an id or one of them has none, `(len(rows), num_documents)`."""
        free_queries = (_columns(self.queries[rows]) < 0).all(1)
        free_documents = (_columns(self.documents) < 0).all(1)
        return self.shared(rows) | free_queries[:, None] | free_documents


class TargetMasks(NamedTuple):
    """Masks of some query rows against all documents, each `(rows, num_documents)` and disjoint from the others."""

    positive: torch.Tensor
    negative: torch.Tensor
    duplicate: torch.Tensor


@dataclass(frozen=True, eq=False)
class ContrastiveTargets:
    """
    The relations of a contrastive batch. A pair that shares a `positive` id is a positive pair. Every other pair is a
    negative one, unless `source` or `own_list` forbid it or `content` says that it would be a false negative.

    All rules are symmetric: exchanging queries and documents gives the relations of the document-to-query direction.

    Args:
        positive (`IdPair`):
            Which documents belong to which queries. Row numbers for one positive per query; a common id for several;
            class ids; or lists of document numbers against `arange(num_documents)`. Hard negatives have id -1:
            nobody's positive, everybody's negative. A query with id -1 takes no part.
        content (`IdPair`, *optional*):
            What a query must not be pushed away from, e.g. what is equal to one of its positives, against the content
            ids of the documents. A pair that shares one is left out of the loss.
        source (`IdPair`, *optional*):
            Negatives are taken from the same source only. Without an id: not restricted.
        own_list (`IdPair`, *optional*):
            Row numbers of the restricted queries (-1: not restricted) against the row that owns each document. A
            restricted query has no negatives but those of its own row, as in classification with listed wrong labels.

    Example:

        Two rows, the second with a hard negative and restricted to it:

        >>> targets = ContrastiveTargets(
        ...     positive=IdPair(torch.tensor([0, 1]), torch.tensor([0, 1, -1])),
        ...     own_list=IdPair(torch.tensor([-1, 1]), torch.tensor([0, 1, 1])),
        ... )
        >>> targets.masks(slice(0, 2)).negative.int().tolist()
        [[0, 1, 1], [0, 0, 1]]
    """

    positive: IdPair
    content: IdPair | None = None
    source: IdPair | None = None
    own_list: IdPair | None = None

    @classmethod
    def paired(
        cls,
        num_queries: int,
        num_documents: int,
        query_offset: int = 0,
        device: torch.device | str | None = None,
    ) -> ContrastiveTargets:
        """
        Document `query_offset + i` is the positive of query `i`; all documents are negatives of the others.

        Args:
            num_queries (`int`): Number of queries in this call.
            num_documents (`int`): Number of documents, those of other processes included.
            query_offset (`int`, *optional*, defaults to 0): Number of the first query among those of all processes.
            device (`torch.device`, *optional*): Where the embeddings are.

        Returns:
            `ContrastiveTargets`: documents that are nobody's positive in this call have id -1.
        """
        queries = torch.arange(query_offset, query_offset + num_queries, device=device)
        documents = torch.arange(num_documents, device=device)
        documents = documents.masked_fill((documents < query_offset) | (documents >= query_offset + num_queries), -1)
        return cls(positive=IdPair(queries, documents))

    def rules(self) -> Iterator[tuple[str, IdPair]]:
        """The rules that were given, by name."""
        for field in fields(self):
            rule = getattr(self, field.name)
            if rule is not None:
                yield field.name, rule

    def transposed(self) -> ContrastiveTargets:
        """The same relations with documents as queries, for the document-to-query direction."""
        return ContrastiveTargets(**{name: IdPair(rule.documents, rule.queries) for name, rule in self.rules()})

    def for_queries(self, index: slice | torch.Tensor) -> ContrastiveTargets:
        """The relations of some queries (a slice, or an index or boolean vector) with all documents."""
        return ContrastiveTargets(**{name: IdPair(rule.queries[index], rule.documents) for name, rule in self.rules()})

    def to(self, device: torch.device | str) -> ContrastiveTargets:
        """The same relations on another device."""
        moved = {name: IdPair(*(ids.to(device) for ids in rule)) for name, rule in self.rules()}
        return ContrastiveTargets(**moved)

    def masks(self, rows: slice) -> TargetMasks:
        """
        The masks of some query rows.

        Args:
            rows (`slice`): The query rows.

        Returns:
            `TargetMasks`: `positive`, `negative` and `duplicate` (allowed as a negative but for its equal content).
        """
        positive = self.positive.shared(rows)
        negative = ~positive
        for restriction in (self.source, self.own_list):
            if restriction is not None:
                negative &= restriction.compatible(rows)
        if self.content is None:
            return TargetMasks(positive, negative, torch.zeros_like(positive))
        duplicate = self.content.shared(rows) & negative
        return TargetMasks(positive, negative.logical_and_(~duplicate), duplicate)

    def anchors(self) -> torch.Tensor:
        """Which queries take part in the loss: those with a `positive` id, `(num_queries,)`."""
        queries = self.positive.queries
        return queries.filled() if isinstance(queries, IdSets) else (_columns(queries) >= 0).any(1)

    def unmatched(self) -> torch.Tensor:
        """Which of these queries have no positive among the documents, `(num_queries,)`."""
        queries, documents = self.positive
        if isinstance(queries, IdSets):
            return self.anchors() & ~queries.having(documents.of_rows())
        found = torch.isin(queries, documents) & (queries >= 0)
        return self.anchors() & ~_columns(found).any(1)

    def check_shapes(self, num_queries: int, num_documents: int) -> None:
        """
        Refuses ids that do not fit the embeddings.

        Args:
            num_queries (`int`): Number of query embeddings.
            num_documents (`int`): Number of document embeddings.

        Raises:
            `ValueError`: a rule has the wrong number of ids, or ids that are not integers.
        """
        for name, rule in self.rules():
            for side, given, rows in zip(rule._fields, rule, (num_queries, num_documents), strict=True):
                ids = given.of_row if isinstance(given, IdSets) else given
                if ids.dim() not in (1, 2) or len(ids) != rows or ids.dtype not in (torch.int32, torch.int64):
                    raise ValueError(
                        f"`{name}.{side}` must be integers of shape ({rows},) or ({rows}, ids per row), "
                        f"one row per embedding; got {ids.dtype} of shape {tuple(ids.shape)}."
                    )


def _columns(ids: torch.Tensor) -> torch.Tensor:
    return ids[:, None] if ids.dim() == 1 else ids


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
