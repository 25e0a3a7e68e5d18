"""Rows of a corpus as the engines of `coma embed` take them: some at a time, with what the index has of each."""

from functools import partial
from typing import Any

from trainers.data.corpus import Corpus
from trainers.encoding.shards import Part, ShardRows


__all__ = ["corpus_rows"]

WAY_OUT = "Mend it and go on by the same command, or add --on-error skip."


def corpus_rows(corpus: Corpus) -> ShardRows:
    """The rows of a corpus. One that cannot be stored is the reason why."""
    return ShardRows(corpus.num_rows, partial(_read_part, corpus), way_out=WAY_OUT)


def _read_part(corpus: Corpus, start: int, stop: int) -> Part:
    rows = corpus.read(start, stop)
    texts = [row["page_text"] if row["text"] is None else row["text"] for row in rows]
    columns = {"row": list(range(start, stop)), "id": _column(rows, "id"), "text": texts}
    items = [_item(number, row) for number, row in enumerate(rows, start)]
    return Part(items, {**columns, "image": _column(rows, "path")})


def _column(rows: list[dict[str, Any]], name: str) -> list[str | None]:
    return [row[name] for row in rows]


def _item(number: int, row: dict[str, Any]) -> dict[str, Any] | ValueError:
    if row["error"] is not None:  # whoever read it knows why
        return ValueError(row["error"])
    for column, name in (("id", "the id"), ("text", "the text"), ("path", "a file name")):
        try:
            (row[column] or "").encode("utf-8")
        except UnicodeEncodeError:  # a half of a surrogate pair, or bytes of another encoding
            return ValueError(f"Row {number}: {name} is not UTF-8 and cannot be stored: {row[column]!r}.")
    video = {} if row["video"] is None else {"video": row["video"]}
    return {"image": row["image"], **video, "text": row["text"]}
