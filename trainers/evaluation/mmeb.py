"""Rows of the MMEB image sets, as MMEB-v1 (`TIGER-Lab/MMEB-eval`) and as V2 lay them out, to what is evaluated.

v1: `qry_text, qry_img_path, tgt_text[], tgt_img_path[]`, prompts as they stand there, the first candidate is right. V2
has `qry_inst` and `tgt_inst` besides; prompts are put together from them, and a candidate is right if it has the name
of the first: its text, its path, or both. A query is ranked within the list of its row, or, where that is wanted,
among the candidates of all rows. An empty string is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trainers.data.images import root_of
from trainers.data.mmeb.prompts import candidate_prompts, query_prompt, to_content
from trainers.data.mmeb.sets import MmebSet
from trainers.evaluation.retrieval import RetrievalSet, UniqueInputs


__all__ = ["read_image_set"]

V1_COLUMNS = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
# What the candidates of V2 are; the other columns that are there do not matter.
V2_COLUMNS = {
    "to_text": ("qry_inst", "qry_text", "qry_img_path", "tgt_text"),
    "question": ("qry_inst", "qry_text", "qry_img_path", "tgt_text"),
    "from_text": ("qry_inst", "qry_text", "tgt_inst", "tgt_text", "tgt_img_path"),
    "to_image": ("qry_inst", "qry_text", "qry_img_path", "tgt_inst", "tgt_text", "tgt_img_path"),
}
LISTS = ("tgt_text", "tgt_img_path")


class _Row(NamedTuple):
    """
    What a row of either layout says.

    Args:
        query (`list[dict]`): content of its message.
        candidates (`list[tuple[str, str]]`): prompt and path of each.
        column (`str`): to blame for a candidate that is bad.
        names (`list[str]`, *optional*): of the candidates; those that are called as the first are right. Without
            names, the first alone is.
    """

    query: list[dict]
    candidates: list[tuple[str, str]]
    column: str
    names: list[str] | None = None


def read_image_set(
    rows: Sequence[dict[str, Any]], of: MmebSet, image_root: str | Path, among_all: bool = False
) -> RetrievalSet:
    """
    An image set of MMEB, v1 or V2 as its columns tell.

    Args:
        rows (`Sequence[dict]`): of the set.
        of ([`~trainers.data.mmeb.sets.MmebSet`]): which it is.
        image_root (`str` or `Path`): folder at which the paths begin.
        among_all (`bool`, *optional*, defaults to `False`): rank among the candidates of all rows.

    Returns:
        [`~trainers.evaluation.RetrievalSet`]: every unique candidate is embedded once.

    Raises:
        ValueError: for a row that is malformed, and for an image that is not there: with row, column, what was found
            and what was expected.
    """
    if not rows:
        raise ValueError(f"{of.name} has no rows.")
    reader = _Reader(of, image_root)
    read = reader.read_v2 if "qry_inst" in rows[0] else reader.read_v1
    documents = UniqueInputs()
    numbers: dict[tuple[str, str], int] = {}  # of candidates, which most rows have in common
    queries, query_names, relevant, candidates = [], [], [], []
    for row_idx, record in enumerate(rows):
        row = read(row_idx, record)
        queries.append([{"role": "user", "content": row.query}])
        query_names.append(f"Row {row_idx} of {of.name}, query")
        for place, (prompt, path) in enumerate(row.candidates):
            if (prompt, path) not in numbers:
                column = f"{row.column}[{place}]"
                messages = [{"role": "user", "content": reader.content(row_idx, column, prompt, path)}]
                numbers[prompt, path] = documents.add(messages, f"Row {row_idx} of {of.name}, {column}")
        of_row = [numbers[candidate] for candidate in row.candidates]
        names = row.names or of_row
        relevant.append(sorted({number for number, name in zip(of_row, names, strict=True) if name == names[0]}))
        candidates.append(sorted(set(of_row)))
    return RetrievalSet.of(queries, query_names, documents, relevant, None if among_all else candidates)


class _Reader:
    """Reads rows of a set, and finds their images."""

    def __init__(self, of: MmebSet, image_root: str | Path) -> None:
        self.of, self.image_root = of, root_of(None, image_root)

    def read_v1(self, row_idx: int, row: dict[str, Any]) -> _Row:
        """A row whose prompts are those of the benchmark as they stand."""
        self.check(row_idx, row, V1_COLUMNS)
        query = self.content(row_idx, "qry_text", row["qry_text"], row["qry_img_path"])
        return _Row(query, list(zip(row["tgt_text"], row["tgt_img_path"], strict=True)), "tgt_text")

    def read_v2(self, row_idx: int, row: dict[str, Any]) -> _Row:
        """A row whose prompts are put together from instructions and texts."""
        assembly = self.of.assembly
        columns = V2_COLUMNS[assembly]
        self.check(row_idx, row, columns)
        prompt = query_prompt(assembly, self.of.name, row["qry_inst"], row["qry_text"])
        query_path = row["qry_img_path"] if "qry_img_path" in columns else ""
        query = self.content(row_idx, "qry_img_path", prompt, query_path)
        texts = row["tgt_text"]
        paths = row["tgt_img_path"] if "tgt_img_path" in columns else [""] * len(texts)
        prompts = candidate_prompts(assembly, row.get("tgt_inst") or "", texts)
        candidates = list(zip(prompts, paths, strict=True))
        if assembly == "from_text":
            return _Row(query, candidates, "tgt_img_path", paths)
        if assembly == "to_image":
            names = [f"{path}:" + text.strip('"') for path, text in zip(paths, texts, strict=True)]
            return _Row(query, candidates, "tgt_img_path", names)
        return _Row(query, candidates, "tgt_text", texts)

    def check(self, row_idx: int, row: dict[str, Any], columns: Sequence[str]) -> None:
        """Raises `ValueError` unless the columns are there, with strings, or with lists of strings of one length."""
        for column in columns:
            if column not in row:
                raise self.fault(row_idx, column, f"columns {sorted(row)}", f"a column {column}")
            value = row[column]
            if column not in LISTS and not isinstance(value, str):
                raise self.fault(row_idx, column, f"{value!r:.60}", "a string, empty for nothing")
            if column not in LISTS:
                continue
            if not isinstance(value, list) or not value:
                raise self.fault(row_idx, column, f"{value!r:.60}", "a list of strings, the right one first")
            if bad := [text for text in value if not isinstance(text, str)]:
                raise self.fault(row_idx, column, f"{bad[0]!r:.60} in it", "strings, empty for nothing")
            if len(value) != len(row["tgt_text"]):
                raise self.fault(row_idx, column, f"{len(value)}", f"{len(row['tgt_text'])} as in tgt_text")

    def content(self, row_idx: int, column: str, prompt: str, path: str) -> list[dict]:
        """The content of a message, its image being there."""
        image_column = column.replace("text", "img_path")
        try:
            image = self.image_root.path(path, image_column) if path else None
        except ValueError as error:
            raise ValueError(f"Row {row_idx} of {self.of.name}, {error}.") from error
        if image is not None and not Path(image).is_file():
            raise self.fault(row_idx, image_column, f"no file {image}", "an image (image root?)")
        try:
            return to_content(prompt, image)
        except ValueError as error:
            raise self.fault(row_idx, column, f"what {error}", "a text, an image or both") from error

    def fault(self, row_idx: int, column: str, found: str, expected: str) -> ValueError:
        """What is wrong with a row."""
        return ValueError(f"Row {row_idx} of {self.of.name}, {column}: found {found}; expected {expected}.")
