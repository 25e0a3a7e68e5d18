"""Sets of visual documents, as ViDoRe and MMEB-V2 lay them out: tables of queries, judgements and pages.

`queries` has `query-id` and `query`, `corpus` has `corpus-id` and `image`, and `qrels` says by `query-id`, `corpus-id`
and `score` how much a page is worth to a query. Pages stay in the file, compressed, until they are embedded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset

from trainers.data.images import as_image, without_decoding
from trainers.data.mmeb.prompts import IMAGE_MARK, to_content
from trainers.data.mmeb.sets import PAGE_INSTRUCTION, QUERY_INSTRUCTION
from trainers.evaluation.metrics import Relevance
from trainers.evaluation.retrieval import EvaluationSet, hash_of


__all__ = ["TABLES", "read_visual_documents"]

TABLES = {
    "queries": ("query-id", "query"),
    "qrels": ("query-id", "corpus-id", "score"),
    "corpus": ("corpus-id", "image"),
}


def read_visual_documents(queries: Dataset, qrels: Dataset, corpus: Dataset, name: str) -> EvaluationSet:
    """
    A set of visual documents, each query being ranked against all pages.

    Args:
        queries, qrels, corpus (`Dataset`): its tables.
        name (`str`): of the set, for messages.

    Returns:
        [`~trainers.evaluation.EvaluationSet`]: equal queries are embedded once, and each page.

    Raises:
        ValueError: for columns that are not there, ids that are repeated or unknown, an empty query, a page without a
            image, a negative score, and a query to which no page is worth anything.
    """
    given = {"queries": queries, "qrels": qrels, "corpus": corpus}
    for table, columns in TABLES.items():
        if missing := [column for column in columns if column not in given[table].column_names]:
            found = given[table].column_names
            raise ValueError(f"The {table} of {name} lack the columns {missing}: found {found}; expected {columns}.")
    places = _places(corpus["corpus-id"], f"corpus-id of the corpus of {name}")
    numbers = _places(queries["query-id"], f"query-id of the queries of {name}")
    for row, text in enumerate(queries["query"]):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"Row {row} of the queries of {name}, query: found {text!r}; expected a text.")
    judged = _judgements(qrels, numbers, places, name)
    first_rows: dict[str, int] = {}
    for row, text in enumerate(queries["query"]):
        first_rows.setdefault(text, row)
    order = {text: place for place, text in enumerate(first_rows)}
    prompts = [f"{QUERY_INSTRUCTION} {text}" for text in first_rows]
    inputs = _Inputs(prompts, list(first_rows.values()), corpus, name)
    grades = [list(of_query.values()) for of_query in judged]
    return EvaluationSet(
        inputs,
        torch.tensor([order[text] for text in queries["query"]]),
        torch.arange(len(prompts), len(inputs)),
        Relevance.from_lists([list(of_query) for of_query in judged], grades),
        None,
        hash_of([*queries["query"], *places, *inputs.sizes(), str(judged)]),
        inputs.called,
    )


class _Inputs(Sequence):
    """Queries, then pages, as chat messages; a page is read when it is asked for."""

    def __init__(self, prompts: list[str], rows: list[int], corpus: Dataset, name: str) -> None:
        self.prompts, self.rows, self.name = prompts, rows, name
        self.pages = without_decoding(corpus.select_columns(["image"])).with_format("arrow")
        self._check()

    def __len__(self) -> int:
        return len(self.prompts) + len(self.pages)

    def _check(self) -> None:
        """Pages are the bytes of files in the table: a path would begin nobody knows where."""
        kind = self.pages[:]["image"].type
        if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
            raise ValueError(f"The corpus of {self.name}, image: found {kind}; expected the bytes of images.")
        first = 0
        for chunk in self.pages[:]["image"].chunks:
            if (lacking := pc.index(chunk.field("bytes").is_null(), True).as_py()) >= 0:
                told = chunk[lacking].as_py()
                found = f"the path {told['path']!r}" if told and told.get("path") else "nothing"
                raise ValueError(
                    f"Row {first + lacking} of the corpus of {self.name}, image: found {found}; expected an image, "
                    "as the bytes of its file."
                )
            first += len(chunk)

    def __getitem__(self, number: int) -> list[dict]:
        if number < len(self.prompts):
            return [{"role": "user", "content": self.prompts[number]}]
        row = number - len(self.prompts)
        image = as_image(self.pages[row]["image"][0].as_py())
        return [{"role": "user", "content": to_content(f"{IMAGE_MARK} {PAGE_INSTRUCTION}", image)}]

    def called(self, number: int) -> str:
        """What an input is called in messages: its table, and the first row that has it."""
        if number < len(self.prompts):
            return f"Row {self.rows[number]} of the queries of {self.name}, query"
        return f"Row {number - len(self.prompts)} of the corpus of {self.name}, image"

    def sizes(self) -> list[str]:
        """Bytes of the pages, by which they are known again."""
        chunks = self.pages[:]["image"].chunks
        return [str(size) for chunk in chunks for size in pc.binary_length(chunk.field("bytes")).to_pylist()]


def _places(ids: Sequence[Any], what: str) -> dict[str, int]:
    places: dict[str, int] = {}
    for row, one in enumerate(map(str, ids)):
        if places.setdefault(one, row) != row:
            raise ValueError(f"Row {row}, {what}: found {one!r} again, as in row {places[one]}; expected it once.")
    return places


def _judgements(qrels: Dataset, queries: dict[str, int], pages: dict[str, int], name: str) -> list[dict[int, float]]:
    """For each query, what pages are worth to it; of several judgements the best counts, as in the benchmark."""
    judged: list[dict[int, float]] = [{} for _ in queries]
    columns = (map(str, qrels["query-id"]), map(str, qrels["corpus-id"]), qrels["score"])
    for row, (query, page, score) in enumerate(zip(*columns, strict=True)):
        if query not in queries or page not in pages:
            column, found = ("query-id", query) if query not in queries else ("corpus-id", page)
            table = "queries" if query not in queries else "corpus"
            raise ValueError(
                f"Row {row} of the qrels of {name}, {column}: found {found!r}; expected it in the {table}."
            )
        if score is None or not 0 <= score < math.inf:
            raise ValueError(f"Row {row} of the qrels of {name}, score: found {score}; expected a number from 0.")
        of_query = judged[queries[query]]
        of_query[pages[page]] = max(score, of_query.get(pages[page], 0))
    for query, number in queries.items():
        if not any(judged[number].values()):
            raise ValueError(f"Query {query!r} of {name}: found no judgement above 0 in the qrels; expected one.")
    return judged
