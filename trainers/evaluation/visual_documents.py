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
from trainers.evaluation.retrieval import RetrievalSet, UniqueInputs


__all__ = ["TABLES", "read_visual_documents"]

TABLES = {
    "queries": ("query-id", "query"),
    "qrels": ("query-id", "corpus-id", "score"),
    "corpus": ("corpus-id", "image"),
}


def read_visual_documents(queries: Dataset, qrels: Dataset, corpus: Dataset, name: str) -> RetrievalSet:
    """
    A set of visual documents, each query being ranked against all pages.

    Args:
        queries, qrels, corpus (`Dataset`): its tables.
        name (`str`): of the set, for messages.

    Returns:
        [`~trainers.evaluation.RetrievalSet`]: equal queries are embedded once, and each page.

    Raises:
        ValueError: for columns that are not there, ids that are repeated or unknown, an empty query, a page without an
            image, a negative score, and a query to which no page is worth anything.
    """
    for table, dataset in (("queries", queries), ("qrels", qrels), ("corpus", corpus)):
        columns, found = TABLES[table], dataset.column_names
        if missing := [column for column in columns if column not in found]:
            raise ValueError(f"The {table} of {name} lack the columns {missing}: found {found}; expected {columns}.")
    page_rows = _rows_by_id(corpus["corpus-id"], f"corpus-id of the corpus of {name}")
    query_rows = _rows_by_id(queries["query-id"], f"query-id of the queries of {name}")
    texts, unique = list(queries["query"]), UniqueInputs()
    places = []
    for row_idx, text in enumerate(texts):
        where = f"Row {row_idx} of the queries of {name}, query"
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where}: found {text!r}; expected a text.")
        places.append(unique.add([{"role": "user", "content": f"{QUERY_INSTRUCTION} {text}"}], where))
    judged = _judgements(qrels, query_rows, page_rows, name)
    items = _QueriesAndPages(unique, corpus, name)
    return RetrievalSet(
        items=items,
        queries=torch.tensor(places),
        documents=torch.arange(len(unique.items), len(items)),
        relevance=Relevance.from_lists([list(grades) for grades in judged], [list(g.values()) for g in judged]),
        names=items.called,
        contents=lambda: [*texts, *page_rows, *items.page_sizes(), str(judged)],
    )


class _QueriesAndPages(Sequence):
    """Queries, then pages, as chat messages; a page is read when it is asked for."""

    def __init__(self, queries: UniqueInputs, corpus: Dataset, name: str) -> None:
        self.queries, self.name = queries, name
        self.pages = without_decoding(corpus.select_columns(["image"])).with_format("arrow")
        self._check()

    def __len__(self) -> int:
        return len(self.queries.items) + len(self.pages)

    def __getitem__(self, place: int) -> list[dict]:
        number = place - len(self.queries.items)
        if number < 0:
            return self.queries.items[place]
        image = as_image(self.pages[number]["image"][0].as_py())
        return [{"role": "user", "content": to_content(f"{IMAGE_MARK} {PAGE_INSTRUCTION}", image)}]

    def called(self, place: int) -> str:
        """What an input is called in messages: its table, and the first row that has it."""
        number = place - len(self.queries.items)
        return f"Row {number} of the corpus of {self.name}, image" if number >= 0 else self.queries.names[place]

    def page_sizes(self) -> list[str]:
        """Bytes of the pages, by which they are known again."""
        return [str(size) for size in pc.binary_length(self._files()).to_pylist()]

    def _files(self) -> pa.ChunkedArray:
        return pc.struct_field(self.pages[:]["image"], "bytes")

    def _check(self) -> None:
        """Pages are the bytes of files in the table: a path would begin nobody knows where."""
        images = self.pages[:]["image"]
        if not pa.types.is_struct(images.type) or images.type.get_field_index("bytes") < 0:
            raise ValueError(f"The corpus of {self.name}, image: found {images.type}; expected the bytes of images.")
        row_idx = pc.index(self._files().is_null(), True).as_py()
        if row_idx >= 0:
            page = images[row_idx].as_py()
            found = f"the path {page['path']!r}" if page and page.get("path") else "nothing"
            expected = "an image, as the bytes of its file"
            raise ValueError(f"Row {row_idx} of the corpus of {self.name}, image: found {found}; expected {expected}.")


def _rows_by_id(ids: Sequence[Any], column: str) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row_idx, name in enumerate(map(str, ids)):
        if rows.setdefault(name, row_idx) != row_idx:
            raise ValueError(
                f"Row {row_idx}, {column}: found {name!r} again, as in row {rows[name]}; expected it once."
            )
    return rows


def _judgements(
    qrels: Dataset, query_rows: dict[str, int], page_rows: dict[str, int], name: str
) -> list[dict[int, float]]:
    """For each query, what pages are worth to it; of several judgements the best counts, as in the benchmark."""
    judged: list[dict[int, float]] = [{} for _ in query_rows]
    columns = (map(str, qrels["query-id"]), map(str, qrels["corpus-id"]), qrels["score"])
    for row_idx, (query, page, score) in enumerate(zip(*columns, strict=True)):
        where = f"Row {row_idx} of the qrels of {name}"
        if query not in query_rows:
            raise ValueError(f"{where}, query-id: found {query!r}; expected it in the queries.")
        if page not in page_rows:
            raise ValueError(f"{where}, corpus-id: found {page!r}; expected it in the corpus.")
        if not isinstance(score, int | float) or not 0 <= score < math.inf:
            raise ValueError(f"{where}, score: found {score!r}; expected a number from 0.")
        of_query, number = judged[query_rows[query]], page_rows[page]
        of_query[number] = max(score, of_query.get(number, 0))
    for query, grades in zip(query_rows, judged, strict=True):
        if not any(grades.values()):
            raise ValueError(f"Query {query!r} of {name}: found no judgement above 0 in the qrels; expected one.")
    return judged
