"""Which documents answer a query, where several rows ask the same: in evaluation and in mining, as in the loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable


__all__ = ["Answers"]


class Answers:
    """
    The answers to a query are the positives of the rows that ask it, and those of the groups of these rows. They are
    put together when they are asked for: written down, they would be the square of a large group.

    Args:
        queries (`Iterable[Hashable]`): what each row asks.
        positives (`Iterable[int]`): number of the positive of each row.
        groups (`Iterable[Hashable | None]`): of each row.
    """

    def __init__(
        self, queries: Iterable[Hashable], positives: Iterable[int], groups: Iterable[Hashable | None]
    ) -> None:
        self._of_query, self._of_group, self._groups_of = defaultdict(set), defaultdict(set), defaultdict(set)
        for query, positive, group in zip(queries, positives, groups, strict=True):
            self._of_query[query].add(positive)
            if group is not None:
                self._of_group[group].add(positive)
                self._groups_of[query].add(group)

    def of(self, query: Hashable) -> set[int]:
        """Numbers of the documents that answer a query."""
        groups = self._groups_of.get(query, ())
        return self._of_query[query].union(*(self._of_group[group] for group in groups))
