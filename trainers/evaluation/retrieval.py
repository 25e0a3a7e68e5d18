"""A retrieval set: which documents each query is to find, every input once, and the scores of a model on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from modeling_coma import ComaForEmbedding, ComaProcessor
from modeling_coma.pages_coma import file_of
from trainers.data.answers import Answers
from trainers.data.images import image_key
from trainers.data.items import ContrastiveInput, to_item
from trainers.data.rows import ROW, BadRows
from trainers.data.videos import video_key
from trainers.encoding.encode import embed_shared
from trainers.evaluation.metrics import Relevance, rank_embeddings, retrieval_metrics
from trainers.evaluation_rows import EVALUATION


__all__ = ["RetrievalSet", "UniqueInputs", "embed_set", "evaluate_set", "score_set"]

FILES_OF = {"image": "file", "video": "file of a video", "frame": "file of a frame"}  # in keys; a GIF may be either


class RetrievalSet(NamedTuple):
    """
    Queries, and the documents that they are to find, ready to be embedded and scored.

    Args:
        items (`Sequence[list[dict]]`): all inputs as chat messages, none of them twice.
        queries, documents (`torch.LongTensor` of shape `(num_queries,)`, `(num_documents,)`): their places in `items`.
        relevance ([`~trainers.evaluation.metrics.Relevance`]): numbers of the relevant documents, and how much they
            are worth.
        names (`Callable`): what an input is called in messages, by its place in `items`: where it stands in the data.
        contents (`Callable`): gives texts that say all that scores depend on, for the `digest`; an image in a file
            counts by its path and size.
        candidates (`torch.LongTensor` of shape `(num_queries, max_candidates)`, *optional*): numbers of the documents
            among which each query is to find them, -1 where it has fewer; by default all of them.
        documents_of (`Sequence[Sequence[int]]`, *optional*): of data whose rows are a query each, numbers of the
            documents that a row has; only with them may rows be left out.
        rows_skipped (`int`, *optional*, defaults to 0): rows left out as bad.
    """

    items: Sequence[list[dict]]
    queries: torch.Tensor
    documents: torch.Tensor
    relevance: Relevance
    names: Callable[[int], str]
    contents: Callable[[], Iterable[str]]
    candidates: torch.Tensor | None = None
    documents_of: Sequence[Sequence[int]] = ()
    rows_skipped: int = 0

    @classmethod
    def of(
        cls,
        queries: Sequence[list[dict]],
        query_names: Sequence[str],
        documents: UniqueInputs,
        relevant: Sequence[Sequence[int]],
        candidates: Sequence[Sequence[int]] | None = None,
        **more: Any,
    ) -> RetrievalSet:
        """
        A set in which an input that is there several times, on either side, is embedded once.

        Args:
            queries (`Sequence[list[dict]]`): as chat messages.
            query_names (`Sequence[str]`): what they are called in messages.
            documents ([`UniqueInputs`]): the documents, to which the queries are added.
            relevant (`Sequence[Sequence[int]]`): numbers of the documents that each query is to find.
            candidates (`Sequence[Sequence[int]]`, *optional*): numbers of those among which it is to find them.
            more: `documents_of` and `rows_skipped` of the set.

        Returns:
            `RetrievalSet`

        Raises:
            ValueError: for a query with nothing to find.
        """
        padded = None
        if candidates is not None:
            rows = [torch.tensor(numbers) for numbers in candidates]
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        document_places = torch.arange(len(documents.items))
        places = [documents.add(messages, name) for messages, name in zip(queries, query_names, strict=True)]

        def contents() -> list[str]:
            who_finds_what = [len(document_places), places, relevant, candidates]
            return [*map(_with_file_sizes, documents.places), *map(str, who_finds_what)]

        return cls(
            documents.items,
            torch.tensor(places, dtype=torch.long),
            document_places,
            Relevance.from_lists(relevant),
            documents.names.__getitem__,
            contents,
            padded,
            **more,
        )

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[dict[str, Any]],
        instructions: dict[str, str] | None = None,
        on_bad_row: str | BadRows = "raise",
    ) -> RetrievalSet:
        """
        The rows of stage 2 as a set: each query is to find, among the positives and hard negatives of all rows, the
        positives of the rows that ask the same, instruction included, and those of their groups. Equal documents are
        one; of equal queries each counts.

        Args:
            rows (`Iterable[dict]`): as for [`ComaContrastiveCollator`]; they may know their number, `row`.
            instructions (`dict[str, str]`, *optional*): those of the training, by source.
            on_bad_row (`str` or [`BadRows`], *optional*, defaults to `"raise"`): `"raise"`, or `"skip"` to leave bad
                rows out and count them.

        Returns:
            `RetrievalSet`

        Raises:
            ValueError: for a row that is bad.
        """
        bad_rows = on_bad_row if isinstance(on_bad_row, BadRows) else BadRows(on_bad_row, EVALUATION)
        inputs, queries, names, documents_of, groups = UniqueInputs(), [], [], [], []
        for index, row in enumerate(rows):
            row_idx = row.get(ROW, index)
            try:
                (query_name, query), *documents = _inputs(row, f"Row {row_idx}", instructions or {})
            except ValueError as error:
                if bad_rows.policy == "raise":
                    raise
                bad_rows.report(row_idx, str(error))
                continue
            documents_of.append([inputs.add(document.messages, name) for name, document in documents])
            queries.append(query)
            names.append(query_name)
            groups.append(row.get("group"))
        keys = [query.key for query in queries]
        answers = Answers(keys, [numbers[0] for numbers in documents_of], groups)
        relevant = {key: sorted(answers.of(key)) for key in set(keys)}
        return cls.of(
            [query.messages for query in queries],
            names,
            inputs,
            [relevant[key] for key in keys],
            documents_of=documents_of,
            rows_skipped=bad_rows.skipped,
        )

    @property
    def digest(self) -> str:
        """A hash of everything that scores depend on besides the model."""
        digest = hashlib.blake2b(digest_size=16)
        for text in self.contents():
            content = text.encode()
            digest.update(len(content).to_bytes(8, "big") + content)
        return digest.hexdigest()

    def without(self, failed: Collection[int]) -> RetrievalSet:
        """
        The set without the rows that have one of some inputs, and without the documents that no other row has.

        Args:
            failed (`Collection[int]`): places in `items`, which stay where they are.

        Returns:
            `RetrievalSet`: with the rows that were left out counted in `rows_skipped`.

        Raises:
            ValueError: if nothing is left.
        """
        failed = torch.tensor(sorted(failed))
        is_bad = torch.isin(self.queries, failed).tolist()
        bad_documents = set(torch.isin(self.documents, failed).nonzero()[:, 0].tolist())
        kept = [
            row_idx
            for row_idx, documents in enumerate(self.documents_of)
            if not is_bad[row_idx] and bad_documents.isdisjoint(documents)
        ]
        if not kept:
            raise ValueError(f"All {len(self.documents_of)} rows are bad, so there is nothing to evaluate.")
        documents = sorted({number for row_idx in kept for number in self.documents_of[row_idx]})
        renumbered = {number: new for new, number in enumerate(documents)}
        relevant = self.relevance.documents[kept].tolist()
        return self._replace(
            queries=self.queries[kept],
            documents=self.documents[documents],
            relevance=Relevance.from_lists([[renumbered[n] for n in row if n in renumbered] for row in relevant]),
            documents_of=[[renumbered[n] for n in self.documents_of[row_idx]] for row_idx in kept],
            rows_skipped=self.rows_skipped + len(self.queries) - len(kept),
        )


class UniqueInputs:
    """Inputs in the order in which they came, those with the same content once, by the name of the first."""

    def __init__(self) -> None:
        self.places: dict[tuple, int] = {}
        self.items: list[list[dict]] = []
        self.names: list[str] = []

    def add(self, messages: list[dict], name: str = "") -> int:
        """The place of an input, which is a new one or that of its equal."""
        key = tuple((message["role"], *_content_key(message["content"])) for message in messages)
        if key not in self.places:
            self.places[key] = len(self.items)
            self.items.append(messages)
            self.names.append(name)
        return self.places[key]


def embed_set(
    retrieval: RetrievalSet,
    model: ComaForEmbedding,
    processor: ComaProcessor,
    skip_bad_rows: bool = False,
    **options: Any,
) -> tuple[RetrievalSet, torch.Tensor, list[str]]:
    r"""
    Embeds a set, on all processes together.

    Args:
        retrieval, model, processor, skip_bad_rows, options:
            As in [`evaluate_set`].

    Returns:
        `tuple[RetrievalSet, torch.Tensor, list[str]]`: the set, without the rows that were left out; the embeddings of
        its `items`, of shape `(len(items), dim)`, or with `num_vectors` `(len(items), 1 + num_vectors, dim)`; and what
        is wrong with those that could not be embedded.

    Raises:
        ValueError: as in [`evaluate_set`].
    """
    failures = {} if skip_bad_rows and retrieval.documents_of else None
    embeddings = embed_shared(model, processor, retrieval.items, names=retrieval.names, failures=failures, **options)
    if failures:
        retrieval = retrieval.without(failures)
    return retrieval, embeddings, list((failures or {}).values())


def evaluate_set(
    retrieval: RetrievalSet,
    model: ComaForEmbedding,
    processor: ComaProcessor,
    skip_bad_rows: bool = False,
    **options: Any,
) -> tuple[dict[str, float], list[str]]:
    r"""
    Embeds a set, on all processes together, and scores it, on each of them.

    Args:
        retrieval ([`RetrievalSet`]):
            The set.
        model ([`ComaForEmbedding`]):
            The model.
        processor ([`ComaProcessor`]):
            Makes its inputs.
        skip_bad_rows (`bool`, *optional*, defaults to `False`):
            Leave out rows with an input that cannot be embedded; only of a set made of rows.
        options:
            `batch_tokens`, `num_workers` and `description` of [`~trainers.encoding.encode.embed_items`]; of
            [`embed_set`] also `num_vectors`, further vectors of each input.

    Returns:
        `tuple[dict[str, float], list[str]]`: the scores of [`score_set`], and what is wrong with the inputs that could
        not be embedded.

    Raises:
        ValueError: for an input that cannot be embedded, with where it stands; if all rows are bad.

    Example:

        >>> scores, _ = evaluate_set(RetrievalSet.from_rows(rows), model, processor)
        >>> scores["hit@1"]
    """
    retrieval, embeddings, left_out = embed_set(retrieval, model, processor, skip_bad_rows, **options)
    return score_set(retrieval, embeddings), left_out


def score_set(
    retrieval: RetrievalSet, embeddings: torch.Tensor, budget: tuple[int, int] | None = None
) -> dict[str, float]:
    """
    Scores of a set, under the names of the MMEB leaderboard.

    Args:
        retrieval ([`RetrievalSet`]): the set.
        embeddings (`torch.Tensor` of shape `(len(retrieval.items), dim)`): of its inputs, by any model; with a budget
            `(len(retrieval.items), num_vectors, dim)`.
        budget (`tuple[int, int]`, *optional*): how many of the vectors of a query and of a document are compared, by
            MaxSim.

    Returns:
        `dict[str, float]`: `hit@k`, `recall@k` and `ndcg_linear@k` for k of 1, 5 and 10, `mrr`, and the number of
        queries as `num_data` and `num_pred`. hit@1 is P@1. Ties count against the model. Beside them stand
        `chance_hit@1`, the hit@1 of a random order, `num_candidates`, the least and the most candidates of a query,
        and `rows_skipped` where rows were left out.

    Raises:
        ValueError: for an embedding that is not finite.
    """
    of_queries, of_documents = budget or (None, None)
    queries = embeddings[:, :of_queries][retrieval.queries]
    documents = embeddings[:, :of_documents][retrieval.documents]
    scores = retrieval_metrics(
        rank_embeddings(queries, documents, retrieval.relevance, candidates=retrieval.candidates)
    )
    named = {name.replace("ndcg@", "ndcg_linear@"): score for name, score in scores.items()}
    right = (retrieval.relevance.documents >= 0).sum(dim=1)
    among = torch.full((len(queries),), len(documents))
    if retrieval.candidates is not None:
        among = (retrieval.candidates >= 0).sum(dim=1)
    counts = {"num_pred": len(queries), "num_data": len(queries)}
    counts |= {"num_candidates": [int(among.min()), int(among.max())], "chance_hit@1": (right / among).mean().item()}
    counts |= {"rows_skipped": retrieval.rows_skipped} if retrieval.rows_skipped else {}
    return {**dict(sorted(named.items())), **counts}


def _inputs(row: dict[str, Any], name: str, instructions: dict[str, str]) -> list[tuple[str, ContrastiveInput]]:
    """The query of a row, its positive and its negatives, and what they are called."""
    items = {"query": row["query"], "positive": row["positive"]}
    items |= {f"negative {number}": item for number, item in enumerate(row.get("negatives") or [])}
    instruction = {"query": instructions.get(row.get("source"))}
    return [
        (f"{name}: {part}", to_item(item, f"{name}: {part}", instruction.get(part))) for part, item in items.items()
    ]


def _content_key(content: str | list[dict]) -> Iterator[tuple[str, str]]:
    for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if block["type"] == "text":
            yield "text", block["text"]
        elif isinstance(block[block["type"]], str | Path):
            yield FILES_OF[block["type"]], str(block[block["type"]])
        elif block["type"] == "video" and _are_files(block["video"]):
            yield "video", f"{len(block['video'])} frames"
            yield from ((FILES_OF["frame"], str(frame)) for frame in block["video"])
        elif block["type"] == "video":
            yield "video", video_key(block["video"])
        else:
            yield "image", image_key(block["image"])


def _are_files(frames: Any) -> bool:
    return isinstance(frames, list) and all(isinstance(frame, str | Path) for frame in frames)


def _with_file_sizes(key: tuple) -> str:
    blocks = (block for _, *of_message in key for block in of_message)
    files = [Path(file_of(value)) for kind, value in blocks if kind in FILES_OF.values()]
    sizes = [file.stat().st_size for file in files if file.is_file()]
    return f"{key} {sizes}"
