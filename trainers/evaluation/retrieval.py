"""A retrieval set as it is evaluated: every unique input once, who is to find what among whom, and its scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trainers.data.images import image_key
from trainers.evaluation.metrics import Relevance, rank_embeddings, retrieval_metrics


__all__ = ["CUTOFFS", "EvaluationSet", "KeptRows", "UniqueInputs", "hash_of", "rows_without", "score_set"]

CUTOFFS = (1, 5, 10)


class EvaluationSet(NamedTuple):
    """
    A set, ready to be embedded and scored.

    Args:
        items (`Sequence[list[dict]]`): all inputs as chat messages, none of them twice.
        queries, documents (`torch.LongTensor` of shape `(num_queries,)`, `(num_documents,)`): their places in `items`.
        relevance ([`~trainers.evaluation.metrics.Relevance`]): numbers of the relevant documents, and how much they
            are worth.
        candidates (`torch.LongTensor` of shape `(num_queries, max_candidates)`, *optional*): numbers of the documents
            among which each query is to find them, -1 where it has fewer; by default all of them.
        digest (`str`): hash of all this; an image in a file counts by its path and size.
        names (`Callable`): what an input is called in messages, by its place in `items`: where it stands in the data.
        documents_of (`Sequence[Sequence[int]]`): of data whose rows are a query each, numbers of the documents that a
            row has; only with them may rows be left out.
    """

    items: Sequence[list[dict]]
    queries: torch.Tensor
    documents: torch.Tensor
    relevance: Relevance
    candidates: torch.Tensor | None
    digest: str
    names: Callable[[int], str]
    documents_of: Sequence[Sequence[int]] = ()

    @classmethod
    def of(
        cls,
        queries: Sequence[list[dict]],
        documents: Sequence[list[dict]],
        relevant: Sequence[Sequence[int]],
        candidates: Sequence[Sequence[int]] | None = None,
        names: tuple[Sequence[str], Sequence[str]] | None = None,
        documents_of: Sequence[Sequence[int]] = (),
    ) -> EvaluationSet:
        """
        A set in which an input that is there several times, on either side, is embedded once.

        Args:
            queries, documents (`Sequence[list[dict]]`): as chat messages.
            relevant (`Sequence[Sequence[int]]`): numbers of the documents that each query is to find.
            candidates (`Sequence[Sequence[int]]`, *optional*): numbers of those among which it is to find them.
            names (`tuple[Sequence[str], Sequence[str]]`, *optional*): what queries and documents are called in
                messages; an input that is there several times is called by the first of them.
            documents_of (`Sequence[Sequence[int]]`, *optional*): numbers of the documents in the row of each query.

        Returns:
            `EvaluationSet`

        Raises:
            ValueError: for a query with nothing to find, or with something to find that is not among its candidates.
        """
        inputs = UniqueInputs()
        names = names or tuple(
            [f"{side} {n}" for n in range(len(some))] for side, some in (("Query", queries), ("Document", documents))
        )
        query_places, document_places = (
            torch.tensor([inputs.add(*pair) for pair in zip(some, of_some, strict=True)], dtype=torch.long)
            for some, of_some in zip((queries, documents), names, strict=True)
        )
        padded = None
        if candidates is not None:
            for number, (targets, among) in enumerate(zip(relevant, candidates, strict=True)):
                if not set(targets) <= set(among):
                    raise ValueError(f"Query {number} is to find {list(targets)}, which are not all its candidates.")
            rows = [torch.tensor(among) for among in candidates]
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        parts = [*map(_in_words, inputs.keys), str(query_places.tolist()), str(document_places.tolist())]
        digest = hash_of([*parts, str(relevant), str(candidates)])
        relevance = Relevance.from_lists(relevant)
        called = inputs.names.__getitem__
        return cls(inputs.items, query_places, document_places, relevance, padded, digest, called, documents_of)

    def without(self, failed: Collection[int]) -> tuple[EvaluationSet, int]:
        """
        The set without the rows that have one of some inputs, and without the documents that no other row has.

        Args:
            failed (`Collection[int]`): places in `items`.

        Returns:
            `tuple[EvaluationSet, int]`: the set, whose items stay where they are, and the number of rows left out.
        """
        bad_queries = torch.isin(self.queries, torch.tensor(sorted(failed)))
        bad_documents = torch.isin(self.documents, torch.tensor(sorted(failed)))
        kept = rows_without(self.relevance, self.documents_of, bad_queries, bad_documents)
        fewer = self._replace(
            queries=self.queries[kept.queries], documents=self.documents[kept.documents], relevance=kept.relevance
        )
        return fewer, len(self.queries) - len(kept.queries)


class KeptRows(NamedTuple):
    """
    What is left of a set without some rows.

    Args:
        queries, documents (`torch.LongTensor`): numbers of those that stay.
        relevance ([`~trainers.evaluation.metrics.Relevance`]): of these, by their new numbers.
    """

    queries: torch.Tensor
    documents: torch.Tensor
    relevance: Relevance


def rows_without(
    relevance: Relevance, documents_of: Sequence[Sequence[int]], bad_queries: torch.Tensor, bad_documents: torch.Tensor
) -> KeptRows:
    """
    Leaves rows out whose query or one of whose documents is bad, and the documents that only they have.

    Args:
        relevance ([`~trainers.evaluation.metrics.Relevance`]): of all.
        documents_of (`Sequence[Sequence[int]]`): numbers of the documents in the row of each query.
        bad_queries, bad_documents (`torch.BoolTensor`): which are bad.

    Returns:
        [`KeptRows`]

    Raises:
        ValueError: if nothing is left.
    """
    bad = set(bad_documents.nonzero()[:, 0].tolist())
    queries = [n for n, some in enumerate(documents_of) if not bad_queries[n] and bad.isdisjoint(some)]
    if not queries:
        raise ValueError(f"All {len(documents_of)} rows are bad, so there is nothing to evaluate.")
    documents = sorted({number for row in queries for number in documents_of[row]})
    new = {number: place for place, number in enumerate(documents)}
    lists = ([n for n in row if n in new] for row in relevance.documents[queries].tolist())
    left = Relevance.from_lists([[new[number] for number in row] for row in lists])
    return KeptRows(torch.tensor(queries), torch.tensor(documents), left)


class UniqueInputs:
    """Inputs in the order in which they came, those with the same content once."""

    def __init__(self) -> None:
        self.keys: dict[tuple, int] = {}
        self.items: list[list[dict]] = []
        self.names: list[str] = []

    def add(self, messages: list[dict], name: str = "") -> int:
        """The place of an input, which is a new one or that of its equal; it keeps the name of the first."""
        key = tuple(
            (message["role"], *(_block_key(block) for block in _blocks(message["content"]))) for message in messages
        )
        if key not in self.keys:
            self.keys[key] = len(self.items)
            self.items.append(messages)
            self.names.append(name)
        return self.keys[key]


def score_set(one: EvaluationSet, embeddings: torch.Tensor) -> dict[str, float]:
    """
    Scores of a set, under the names of the MMEB leaderboard.

    Args:
        one ([`EvaluationSet`]): the set.
        embeddings (`torch.Tensor` of shape `(len(one.items), dim)`): of its inputs, by any model.

    Returns:
        `dict[str, float]`: `hit@k`, `recall@k` and `ndcg_linear@k` for k of 1, 5 and 10, `mrr`, and the number of
        queries as `num_data` and `num_pred`. hit@1 is P@1. Ties count against the model.

    Raises:
        ValueError: for an embedding that is not finite, with what it is of.
    """
    places = torch.cat([one.queries, one.documents])
    if len(bad := (~embeddings[places].isfinite().all(dim=1)).nonzero()):
        raise ValueError(f"{one.names(int(places[bad[0, 0]]))}: its embedding is not finite.")
    queries, documents = embeddings[one.queries], embeddings[one.documents]
    ranking = rank_embeddings(queries, documents, one.relevance, candidates=one.candidates)
    scores = retrieval_metrics(ranking, CUTOFFS)
    named = {name.replace("ndcg@", "ndcg_linear@"): score for name, score in scores.items()}
    return {**dict(sorted(named.items())), "num_pred": len(one.queries), "num_data": len(one.queries)}


def hash_of(parts: Iterable[str | bytes]) -> str:
    """A hash of some strings, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _blocks(content: str | list[dict]) -> list[dict]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _block_key(block: dict[str, Any]) -> tuple:
    if block["type"] == "text":
        return "text", block["text"]
    image = block["image"]
    return ("file", str(image)) if isinstance(image, str | Path) else ("image", image_key(image))


def _in_words(key: tuple) -> str:
    blocks = (block for _, *of_message in key for block in of_message)
    sizes = [Path(value).stat().st_size for kind, value in blocks if kind == "file" and Path(value).is_file()]
    return f"{key} {sizes}"
