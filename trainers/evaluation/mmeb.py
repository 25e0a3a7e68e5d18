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
from trainers.evaluation.retrieval import EvaluationSet, UniqueInputs


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
    """A row: the content of its query; prompt and path of each candidate, and the column to blame for one that is bad;
    the names of the candidates, without which the first is right."""

    query: list[dict]
    candidates: list[tuple[str, str]]
    column: str
    names: list[str] | None


def read_image_set(
    rows: Sequence[dict[str, Any]], of: MmebSet, image_root: str | Path, among_all: bool = False
) -> EvaluationSet:
    """
    An image set of MMEB, v1 or V2 as its columns tell.

    Args:
        rows (`Sequence[dict]`): of the set.
        of ([`~trainers.data.mmeb.sets.MmebSet`]): which it is.
        image_root (`str` or `Path`): folder at which the paths begin.
        among_all (`bool`, *optional*, defaults to `False`): rank among the candidates of all rows.

    Returns:
        [`~trainers.evaluation.EvaluationSet`]: every unique candidate is embedded once.

    Raises:
        ValueError: for a row that is malformed, and for an image that is not there: with row, column, what was found
            and what was expected.
    """
    if not rows:
        raise ValueError(f"{of.name} has no rows.")
    read = _read_v2 if "qry_inst" in rows[0] else _read_v1
    reader, unique = _Reader(of, Path(image_root)), UniqueInputs()
    known: dict[tuple[str, str], int] = {}  # rows share most of their candidates
    queries, called, relevant, candidates = [], [], [], []
    for number, row in enumerate(rows):
        made = read(reader, number, row)
        queries.append([{"role": "user", "content": made.query}])
        called.append(f"Row {number} of {of.name}, query")
        for place, pair in enumerate(made.candidates):
            if pair not in known:
                content = reader.content(number, f"{made.column}[{place}]", *pair)
                name = f"Row {number} of {of.name}, {made.column}[{place}]"
                known[pair] = unique.add([{"role": "user", "content": content}], name)
        places = [known[pair] for pair in made.candidates]
        names = made.names or places
        relevant.append(sorted({place for place, name in zip(places, names, strict=True) if name == names[0]}))
        candidates.append(sorted(set(places)))
    among = None if among_all else candidates
    return EvaluationSet.of(queries, unique.items, relevant, among, (called, unique.names))


def _read_v1(reader: _Reader, number: int, row: dict[str, Any]) -> _Row:
    reader.check(number, row, V1_COLUMNS)
    query = reader.content(number, "qry_text", row["qry_text"], row["qry_img_path"])
    return _Row(query, list(zip(row["tgt_text"], row["tgt_img_path"], strict=True)), "tgt_text", None)


def _read_v2(reader: _Reader, number: int, row: dict[str, Any]) -> _Row:
    assembly = reader.of.assembly
    columns = V2_COLUMNS[assembly]
    reader.check(number, row, columns)
    prompt = query_prompt(assembly, reader.of.name, row["qry_inst"], row["qry_text"])
    query = reader.content(number, "qry_img_path", prompt, row["qry_img_path"] if "qry_img_path" in columns else "")
    texts, paths = row["tgt_text"], row["tgt_img_path"] if "tgt_img_path" in columns else [""] * len(row["tgt_text"])
    prompts = candidate_prompts(assembly, row.get("tgt_inst") or "", texts)
    with_texts = [path + ":" + text.strip('"') for path, text in zip(paths, texts, strict=True)]
    names = {"from_text": paths, "to_image": with_texts}
    column = "tgt_img_path" if assembly in names else "tgt_text"
    return _Row(query, list(zip(prompts, paths, strict=True)), column, names.get(assembly, texts))


class _Reader:
    """Checks rows of a set, and finds their images."""

    def __init__(self, of: MmebSet, image_root: Path) -> None:
        self.of, self.image_root = of, root_of(None, image_root)
        self.there: set[str] = set()

    def check(self, number: int, row: dict[str, Any], columns: Sequence[str]) -> None:
        """Raises `ValueError` unless the columns are there, with strings, or with lists of strings of one length."""
        for column in columns:
            if column not in row:
                self.refuse(number, column, f"columns {sorted(row)}", f"a column {column}")
            value = row[column]
            if column not in LISTS and not isinstance(value, str):
                self.refuse(number, column, f"{value!r:.60}", "a string, empty for nothing")
            if column in LISTS and not (isinstance(value, list) and value):
                self.refuse(number, column, f"{value!r:.60}", "a list of strings, the right one first")
            if column in LISTS and (bad := [one for one in value if not isinstance(one, str)]):
                self.refuse(number, column, f"{bad[0]!r:.60} in it", "strings, empty for nothing")
        lengths = {column: len(row[column]) for column in columns if column in LISTS}
        if len(set(lengths.values())) > 1:
            self.refuse(number, "tgt_img_path", f"{lengths['tgt_img_path']}", f"{lengths['tgt_text']} as in tgt_text")

    def content(self, number: int, column: str, prompt: str, path: str) -> list[dict]:
        """The content of a message, its image being there."""
        image = self.path(number, column.replace("text", "img_path"), path) if path else None
        if image is not None and image not in self.there:
            if not Path(image).is_file():
                self.refuse(number, column.replace("text", "img_path"), f"no file {image}", "an image (image root?)")
            self.there.add(image)
        try:
            return to_content(prompt, image)
        except ValueError as error:
            return self.refuse(number, column, f"what {error}", "a text, an image or both")

    def path(self, number: int, column: str, path: str) -> str:
        """Where an image is, below the image root."""
        try:
            return self.image_root.path(path, column)
        except ValueError as error:
            raise ValueError(f"Row {number} of {self.of.name}, {error}.") from error

    def refuse(self, number: int, column: str, found: str, expected: str) -> Any:
        """Raises the error of a malformed row."""
        raise ValueError(f"Row {number} of {self.of.name}, {column}: found {found}; expected {expected}.")
