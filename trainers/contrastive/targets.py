"""Who is a positive and who may be a negative in a contrastive batch, as ids: false negatives are found here.

A batch of 32,768 pairs has a billion (query, document) relations but only 65,536 ids, so nothing here ever holds an
`N x M` mask: each rule is a pair of ids for queries and documents, and the mask of a few rows is built when those rows
are scored. Negative ids mean "none".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import torch

from trainers.distributed import gather_together


__all__ = ["ContrastiveTargets", "IdPair", "IdSets", "Index", "PairIds", "TargetMasks"]

PAIRS_AT_A_TIME = 2**20  # of rows and ids that are looked up, at about 50 bytes each

Index = slice | torch.Tensor  # of rows: a slice, or their numbers


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
        """From ids in any order, the same one in the same set several times or not; negative ones are left out."""
        sets, ids = sets[ids >= 0], ids[ids >= 0]
        values, numbers = ids.unique(return_inverse=True)
        size = max(len(values), 1)
        codes = (sets * size + numbers).unique()  # much faster than of pairs
        return cls(of_row, codes // size, values[codes % size])

    @classmethod
    def of_tensor(cls, ids: torch.Tensor) -> IdSets:
        """From one id of each row, `(num_rows,)`, or several, `(num_rows, ids_per_row)`; negative ones are none."""
        values, of_row = ids.unique(dim=0 if ids.dim() > 1 else None, return_inverse=True)
        values = values[:, None] if ids.dim() == 1 else values
        sets = torch.arange(len(values), device=ids.device)[:, None].expand_as(values)
        return cls.of(of_row, sets.flatten(), values.flatten())

    def __len__(self) -> int:
        return len(self.of_row)

    def __getitem__(self, index: Index) -> IdSets:
        return IdSets(self.of_row[index], self.sets, self.ids)

    def tolist(self) -> list[list[int]]:
        """The ids of each row."""
        return [self.ids[self.sets == number].tolist() for number in self.of_row.tolist()]

    def filled(self) -> torch.Tensor:
        """Which rows have an id, `(num_rows,)`."""
        return torch.isin(self.of_row, self.sets)

    def shared(self, others: IdSets) -> torch.Tensor:
        """Whether a row and a row of `others` have an id in common, `(len(self), len(others))`."""
        sets, set_of_row = self.of_row.unique(return_inverse=True)
        of_set, positions = _matches(self.sets, sets)
        ids = self.ids[positions]
        other_ids, other_sets = others._by_id
        num_other_sets = int(others.of_row.max()) + 1 if len(others) else 0
        is_shared = torch.zeros(len(sets), num_other_sets, dtype=torch.bool, device=self.of_row.device)
        for some in _pieces(other_ids, ids):
            of_id, positions = _matches(other_ids, ids[some])
            is_shared[of_set[some][of_id], other_sets[positions]] = True
        return is_shared.gather(1, others.of_row.expand(len(sets), -1))[set_of_row]

    @cached_property
    def _by_id(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All ids of the rows in ascending order, and the set of each."""
        of_rows = torch.isin(self.sets, self.of_row)
        ids, order = self.ids[of_rows].sort()
        return ids, self.sets[of_rows][order]


def _matches(values: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every position in sorted `values` of a wanted number: which of the wanted it is, and the position."""
    first = torch.searchsorted(values, wanted)
    counts = torch.searchsorted(values, wanted, right=True) - first
    which = torch.arange(len(wanted), device=values.device).repeat_interleave(counts)
    offset = first - (counts.cumsum(0) - counts)
    return which, torch.arange(len(which), device=values.device) + offset[which]


def _pieces(values: torch.Tensor, wanted: torch.Tensor) -> list[slice]:
    """Pieces of the wanted numbers with about `PAIRS_AT_A_TIME` positions in sorted `values` each."""
    counts = torch.searchsorted(values, wanted, right=True) - torch.searchsorted(values, wanted)
    sizes = (counts.cumsum(0) // PAIRS_AT_A_TIME).unique_consecutive(return_counts=True)[1].tolist()
    return [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]


@dataclass(eq=False)
class IdPair:
    """
    The ids of one rule on both sides. Tensors become [`IdSets`].

    Args:
        queries (`torch.LongTensor` of shape `(num_queries,)` or `(num_queries, ids_per_query)`, or [`IdSets`]):
            Ids of each query. Rows with fewer ids than others are filled with -1.
        documents (`torch.LongTensor` of shape `(num_documents,)` or `(num_documents, ids_per_document)`, or
            [`IdSets`]):
            Ids of each document, from the same id space.
    """

    queries: IdSets
    documents: IdSets

    def __post_init__(self) -> None:
        if isinstance(self.queries, torch.Tensor):
            self.queries = IdSets.of_tensor(self.queries)
        if isinstance(self.documents, torch.Tensor):
            self.documents = IdSets.of_tensor(self.documents)

    def shared(self, rows: Index) -> torch.Tensor:
        """Whether a query of `rows` and a document have an id in common, `(len(rows), num_documents)`."""
        return self.queries[rows].shared(self.documents)

    def compatible(self, rows: Index) -> torch.Tensor:
        """Whether they share an id or one of them has none, `(len(rows), num_documents)`."""
        return self.shared(rows) | ~self.queries[rows].filled()[:, None] | ~self.documents.filled()


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
        cls, num_queries: int, num_documents: int, device: torch.device | str | None = None
    ) -> ContrastiveTargets:
        """Document i is the positive of query i; all documents are negatives of the others."""
        queries, documents = (torch.arange(number, device=device) for number in (num_queries, num_documents))
        return cls(IdPair(queries, documents.masked_fill(documents >= num_queries, -1)))

    def rules(self) -> Iterator[tuple[str, IdPair]]:
        """The rules that were given, by name."""
        for field in fields(self):
            rule = getattr(self, field.name)
            if rule is not None:
                yield field.name, rule

    def transposed(self) -> ContrastiveTargets:
        """The same relations with documents as queries, for the document-to-query direction."""
        return ContrastiveTargets(**{name: IdPair(rule.documents, rule.queries) for name, rule in self.rules()})

    def for_queries(self, rows: Index) -> ContrastiveTargets:
        """The relations of some queries with all documents."""
        return ContrastiveTargets(**{name: IdPair(rule.queries[rows], rule.documents) for name, rule in self.rules()})

    def masks(self, rows: Index) -> TargetMasks:
        """
        The masks of some query rows.

        Args:
            rows (`slice` or `torch.LongTensor`): The query rows.

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
            for side, rows in (("queries", num_queries), ("documents", num_documents)):
                given = getattr(rule, side)
                if len(given) != rows or given.ids.dtype not in (torch.int32, torch.int64):
                    raise ValueError(
                        f"`{name}.{side}` must be integers of shape ({rows},) or ({rows}, ids per row), one row per "
                        f"embedding; got {given.ids.dtype} of {len(given)} rows."
                    )


class PairIds(NamedTuple):
    r"""
    What is known of some rows and their documents. A hash is -1 for none.

    Args:
        rows (`torch.LongTensor` of shape `(num_rows, 5)`):
            Of each row the hash of its query with the instruction and without it, the hash of its group and of its
            source, and 1 if it has no negatives but its own.
        owners (`torch.LongTensor` of shape `(num_documents,)`):
            The number of the row to which each document belongs.
        documents (`torch.LongTensor` of shape `(num_documents, 2)`):
            Of each document its hash, and 1 for a positive, 0 for a hard negative.
    """

    rows: torch.Tensor
    owners: torch.Tensor
    documents: torch.Tensor

    @classmethod
    def of(cls, batch: dict[str, Any]) -> PairIds:
        """Those of a batch of [`ComaContrastiveCollator`]."""
        names = ("asked_keys", "query_keys", "groups", "sources", "restricted")
        owners = batch["owners"]
        is_positive = torch.arange(len(owners), device=owners.device) < len(batch["queries"])
        rows = torch.stack([batch[name].long() for name in names], dim=1)
        return cls(rows, owners, torch.stack([batch["document_keys"], is_positive.long()], dim=1))

    @property
    def sources(self) -> torch.Tensor:
        """The hash of the source of each row."""
        return self.rows[:, 3]

    def gathered(self) -> tuple[PairIds, slice]:
        """Those of all processes, and where the rows of this one are."""
        rows, owners, documents = gather_together(*self)
        first_rows = torch.tensor([0, *rows.sizes[:-1]]).cumsum(0)
        first_rows = first_rows.repeat_interleave(torch.tensor(owners.sizes)).to(owners.rows.device)
        ids = PairIds(rows.rows, owners.rows + first_rows, documents.rows)
        return ids, slice(rows.first, rows.first + len(self.rows))

    def joined(self, more: PairIds) -> PairIds:
        """Those of some rows, and then those of more."""
        more = more._replace(owners=more.owners + len(self.rows))
        return PairIds(*(torch.cat(pair) for pair in zip(self, more, strict=True)))

    def select(self, rows: torch.Tensor) -> tuple[PairIds, torch.Tensor]:
        """Those of some rows, in their order, with their documents; and which documents these are."""
        new_number = torch.full((len(self.rows),), -1, device=rows.device)
        new_number[rows] = torch.arange(len(rows), device=rows.device)
        owners = new_number[self.owners]
        chosen = (owners >= 0).nonzero()[:, 0]
        return PairIds(self.rows[rows], owners[chosen], self.documents[chosen]), chosen

    def documents_of(self, rows: slice) -> torch.Tensor:
        """Which documents belong to some rows."""
        return ((self.owners >= rows.start) & (self.owners < rows.stop)).nonzero()[:, 0]

    def targets(self, same_source_negatives: bool = False) -> ContrastiveTargets:
        """Who is whose positive and negative, of all rows against all documents."""
        rows = torch.arange(len(self.rows), device=self.rows.device)
        is_restricted = self.rows[:, 4] > 0
        positive, content = self._answers()
        return ContrastiveTargets(
            positive=positive,
            content=content,
            source=IdPair(self.sources, self.sources[self.owners]) if same_source_negatives else None,
            own_list=IdPair(torch.where(is_restricted, rows, -1), self.owners),
        )

    def _answers(self) -> tuple[IdPair, IdPair]:
        """
        A document answers a query if its row asks the same, or is of a group of one of the rows that ask the same.
        What equals an answer, or the query itself, is left out.
        """
        asked, query_content, groups, _, _ = self.rows.unbind(dim=1)
        owners, (document_content, is_positive) = self.owners, self.documents.unbind(dim=1)
        # Ids of what is asked, then of groups, then of contents, so that all differ.
        asked_values, asked = asked.unique(return_inverse=True)
        group_values, numbers = groups.unique(return_inverse=True)
        groups = torch.where(groups >= 0, numbers + len(asked_values), -1)
        contents = torch.cat([query_content, document_content])
        _, numbers = contents.unique(return_inverse=True)
        contents = torch.where(contents >= 0, numbers + len(asked_values) + len(group_values), -1)
        query_content, document_content = contents.split([len(query_content), len(document_content)])

        # Of each query what it asks and the groups of all rows that ask it; of each positive those of its row.
        query_sets, query_ids = torch.cat([asked, asked]), torch.cat([asked, groups])
        positives = is_positive.nonzero()[:, 0].repeat(2)
        answered = torch.cat([asked[owners], groups[owners]])[torch.cat([is_positive, is_positive]) > 0]
        documents = torch.arange(len(owners), device=owners.device)
        positive = IdPair(
            IdSets.of(asked, query_sets, query_ids),
            IdSets.of(documents, positives, answered),
        )
        # Documents of one content have a set together.
        _, same_content = document_content.unique(return_inverse=True)
        same_content = torch.where(document_content >= 0, same_content, documents + len(documents))
        content = IdPair(
            IdSets.of(asked, torch.cat([query_sets, asked]), torch.cat([query_ids, query_content])),
            IdSets.of(
                same_content,
                torch.cat([same_content[positives], same_content]),
                torch.cat([answered, document_content]),
            ),
        )
        return positive, content
