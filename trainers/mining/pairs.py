"""Rows of stage 2 as numbers: the different queries and documents in them, and which belong together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from trainers.data.answers import Answers
from trainers.data.items import to_item


__all__ = ["PairIndex", "PairItems", "Place", "index_pairs"]


class Place(NamedTuple):
    """Where an item stands: its row, and `"query"`, `"positive"` or the number of a negative."""

    row: int
    part: str | int

    @property
    def name(self) -> str:
        """As it is called in messages."""
        return f"Row {self.row}: {f'negative {self.part}' if isinstance(self.part, int) else self.part}"

    def item(self, row: dict[str, Any]) -> dict[str, Any]:
        """The item, out of its row."""
        return row["negatives"][self.part] if isinstance(self.part, int) else row[self.part]


class PairItems(Sequence):
    """
    Items of a data set as chat messages, fetched when they are asked for.

    Args:
        dataset (`Dataset`): rows of stage 2, images undecoded.
        places (`list[Place]`): where they stand.
        instructions (`dict[str, str]`, *optional*): of queries, by source.
    """

    def __init__(self, dataset: Dataset, places: list[Place], instructions: dict[str, str] | None = None) -> None:
        self.dataset, self.places, self.instructions = dataset, places, instructions or {}

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> list[dict]:
        place = self.places[number]
        row = self.dataset[place.row]
        instruction = self.instructions.get(row.get("source")) if place.part == "query" else None
        return to_item(place.item(row), place.name, instruction).messages

    def name(self, number: int) -> str:
        """What an item is called in messages: its row, and its part in it."""
        return self.places[number].name


class PairIndex(NamedTuple):
    """
    What stands where, and what belongs to what.

    Args:
        query_places, document_places (`list[Place]`): where each different query (with its instruction) and each
            different document is, one place of several.
        queries, positives (`np.ndarray` of shape `(num_rows,)`): number of the query and of the positive of each row.
        negatives (`list[list[int]]`): numbers of the negatives that each row has already.
        known (`Sequence[np.ndarray]`): by query, sorted numbers of documents that are none of its negatives: positives
            of all rows with an equal query, those of their groups, and what equals the query itself. Here the answers
            to the same content under another instruction are known, too, of which the loss makes negatives.
        pools (`dict[str | None, np.ndarray]`): by source, sorted numbers of the documents that may be negatives.
        sources (`list[str | None]`): of each row.
    """

    query_places: list[Place]
    document_places: list[Place]
    queries: np.ndarray
    positives: np.ndarray
    negatives: list[list[int]]
    known: Sequence[np.ndarray]
    pools: dict[str | None, np.ndarray]
    sources: list[str | None]


class _Numbers:
    """Numbers things in the order in which they come, and remembers where each was first."""

    def __init__(self) -> None:
        self.of: dict[int, int] = {}
        self.first: list[Place] = []

    def number(self, key: int, place: Place) -> int:
        if key not in self.of:
            self.of[key] = len(self.first)
            self.first.append(place)
        return self.of[key]


def index_pairs(rows: Dataset | Iterable[dict[str, Any]], instructions: dict[str, str] | None = None) -> PairIndex:
    """
    Looks at every row once. Documents are the positives and the negatives of all rows.

    Args:
        rows (`Dataset` or `Iterable[dict]`): rows of stage 2; images should be undecoded.
        instructions (`dict[str, str]`, *optional*): of queries, by source.

    Returns:
        [`PairIndex`]

    Raises:
        ValueError: for a row without a query or a positive, with its number.
    """
    queries, documents = _Numbers(), _Numbers()
    query_of, positive_of, negatives_of, sources = [], [], [], []
    contents, groups = [], []  # of each row
    for row, values in enumerate(rows):
        source = values.get("source")
        query = to_item(values["query"], f"Row {row}: query", (instructions or {}).get(source))
        positive = to_item(values["positive"], f"Row {row}: positive")
        positive_of.append(documents.number(positive.content, Place(row, "positive")))
        negatives = [
            documents.number(to_item(item, f"Row {row}: negative {number}").content, Place(row, number))
            for number, item in enumerate(values.get("negatives") or [])
        ]
        query_of.append(queries.number(query.key, Place(row, "query")))
        negatives_of.append(negatives)
        sources.append(source)
        contents.append(query.content)
        groups.append(values.get("group"))
    content_of_query = dict(zip(query_of, contents, strict=True))  # in the order of the numbers of queries
    known = _Known(list(content_of_query.values()), Answers(contents, positive_of, groups), documents.of)
    return PairIndex(
        query_places=queries.first,
        document_places=documents.first,
        queries=np.array(query_of, dtype=np.int64),
        positives=np.array(positive_of, dtype=np.int64),
        negatives=negatives_of,
        known=known,
        pools=_pools(positive_of, negatives_of, sources, len(documents.of)),
        sources=sources,
    )


class _Known(Sequence):
    """What is known of each query, by its content, put together when it is asked for."""

    def __init__(self, contents: list[int], answers: Answers, documents: dict[int, int]) -> None:
        self.contents, self.answers, self.documents = contents, answers, documents

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, query: int) -> np.ndarray:
        content = self.contents[query]
        found = self.answers.of(content)
        if content in self.documents:  # the query itself
            found.add(self.documents[content])
        return np.array(sorted(found), dtype=np.int64)


def _pools(
    positive_of: Sequence[int], negatives_of: Sequence[list[int]], sources: Sequence[str | None], documents: int
) -> dict[str | None, np.ndarray]:
    """A source has its own documents and those without one; a row without a source may have any, as in the loss."""
    of_source: dict[str | None, set[int]] = defaultdict(set)
    for positive, negatives, source in zip(positive_of, negatives_of, sources, strict=True):
        of_source[source].update((positive, *negatives))
    free = of_source.get(None, set())
    pools = {source: np.array(sorted(found | free), dtype=np.int64) for source, found in of_source.items()}
    if None in pools:
        pools[None] = np.arange(documents)
    return pools
