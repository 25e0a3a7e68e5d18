"""Rows of stage 2 from what people have: tables of texts and images, and the columns of sentence-transformers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value

from trainers.data.build import Policy, build_dataset
from trainers.data.column_names import refuse_misnamed
from trainers.data.faults import describe, fault
from trainers.data.images import ImageRoot, as_stored, root_of
from trainers.data.schema import DIALOGUE_FEATURES, PAIR_FEATURES, as_text, check_messages, check_text, validate_pairs
from trainers.data.tables import open_records, saved_dataset
from trainers.data.text_format import TextFormat


__all__ = ["PairColumns", "check_named", "features_of", "item_of", "load_pairs", "load_triplets", "pair_row"]

READY_FEATURES = Features(
    {**PAIR_FEATURES, "group": Value("string"), "messages": DIALOGUE_FEATURES["messages"]}  # for the joint objective
)
ANY_NEGATIVE = re.compile(r"negative(_\d+)?")


@dataclass
class PairColumns:
    """
    Names of the columns of a table. A query and a positive are a text, an image or both.

    Args:
        query_text, query_image, positive_text, positive_image (`str`, *optional*):
            Texts, and images as paths or as `datasets` stores them.
        negative_text, negative_image (`str`, *optional*):
            One hard negative, or a list of them; where both are lists, they go together.
        source, group (`str`, *optional*):
            As in [`ComaContrastiveCollator`].
    """

    query_text: str | None = None
    query_image: str | None = None
    positive_text: str | None = None
    positive_image: str | None = None
    negative_text: str | None = None
    negative_image: str | None = None
    source: str | None = None
    group: str | None = None

    def named(self) -> dict[str, str]:
        """The columns that are given."""
        return {field.name: name for field in fields(PairColumns) if (name := getattr(self, field.name)) is not None}


def load_pairs(
    source: str | Path | Dataset,
    columns: PairColumns | None = None,
    image_root: str | Path | None = None,
    on_bad_row: Policy = "raise",
    text_format: TextFormat | None = None,
) -> Dataset:
    r"""
    Loads rows of stage 2.

    Args:
        source (`str`, `Path` or `Dataset`):
            A .csv, .tsv, .txt, .jsonl, .json or .parquet file, a folder made by `Dataset.save_to_disk`, or a data set.
        columns ([`PairColumns`], *optional*):
            The columns of a table; rows that have `query` and `positive` already need none.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative paths of images begin; by default that of the file.
        on_bad_row (`str` or [`BadRows`], *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave bad rows out; a [`BadRows`] afterwards knows how many, and why.
        text_format ([`TextFormat`], *optional*):
            Encoding and separator of a file of text; by default what is found by looking.

    Returns:
        `Dataset`: columns `query`, `positive`, `negatives`, and `source` and `group` where they are given; paths are
        absolute, no image has been opened. Of rows that are ready, all columns stay.

    Raises:
        ValueError: for what is no such source, columns that are not there, and a bad row with its number, column, what
            was found and what was expected.
    """
    named = (columns or PairColumns()).named()
    if not named:
        return _load_ready(source, image_root, on_bad_row, text_format)
    check_named(named)
    convert = partial(pair_row, named=named, root=root_of(source, image_root))
    known = list(named.values())
    return build_dataset(open_records(source, text_format), convert, features_of(named), on_bad_row, known, known)


def check_named(named: dict[str, str]) -> None:
    """Raises `ValueError` where there is no column for a query or a positive."""
    for side in ("query", "positive"):
        if not {f"{side}_text", f"{side}_image"} & named.keys():
            raise ValueError(f"Name the column of the {side}: {side}_text or {side}_image, or both.")


def features_of(named: dict[str, str]) -> Features:
    """Features of the rows that [`pair_row`] makes."""
    features = {name: PAIR_FEATURES[name] for name in ("query", "positive", "negatives")}
    return Features(features | {name: Value("string") for name in ("source", "group") if name in named})


def load_triplets(
    source: str | Path | Dataset,
    image_root: str | Path | None = None,
    on_bad_row: Policy = "raise",
    text_format: TextFormat | None = None,
) -> Dataset:
    r"""
    Loads rows of stage 2 from the columns of sentence-transformers: `anchor`, `positive`, and maybe `negative` or
    `negative_1`, `negative_2`, … A value is a text, an image as `datasets` stores it, or `{"text", "image"}`.

    Args:
        source, image_root, on_bad_row, text_format:
            As in [`load_pairs`].

    Returns:
        `Dataset`: columns `query`, `positive`, `negatives`.

    Raises:
        ValueError: as in [`load_pairs`].
    """
    features = Features({name: PAIR_FEATURES[name] for name in ("query", "positive", "negatives")})
    convert, records = partial(_triplet, root=root_of(source, image_root)), open_records(source, text_format)
    known = None if records.columns is None else _of_triplet(records.columns)
    return build_dataset(records, convert, features, on_bad_row, ["anchor", "positive"], known)


def _load_ready(
    source: str | Path | Dataset, image_root: str | Path | None, on_bad_row: Policy, text_format: TextFormat | None
) -> Dataset:
    dataset = saved_dataset(source)
    records = open_records(source if dataset is None else dataset, text_format)
    if records.columns is not None and not {"query", "positive"} <= set(records.columns):
        raise ValueError(f"Name the columns of {source} (query_text, positive_image, …): {records.columns}.")
    if dataset is not None and image_root is None:
        return validate_pairs(dataset, on_bad_row)
    convert = partial(_ready, root=root_of(source, image_root))
    return build_dataset(records, convert, READY_FEATURES, on_bad_row, ["query", "positive"], READY_FEATURES)


def pair_row(record: dict[str, Any], named: dict[str, str], root: ImageRoot) -> dict[str, Any]:
    """A row of stage 2 from a record; `named` are the columns of [`PairColumns`] that are given."""
    refuse_misnamed(record, named.values())
    row: dict[str, Any] = {}
    for side in ("query", "positive"):
        given = [named[name] for name in (f"{side}_text", f"{side}_image") if name in named]
        if not record.keys() & set(given):
            raise fault(side, f"a row with the columns {sorted(record)}", f"a column {' or '.join(map(repr, given))}")
        text, image, columns = _side_of(record, named, side)
        row[side] = item_of(text, image, columns, root)
    text, image, columns = _side_of(record, named, "negative")
    row["negatives"] = _negatives_of(text, image, columns, root)
    for name in ("source", "group"):
        if name in named:
            row[name] = _label(record.get(named[name]), named[name])
    return row


def _side_of(record: dict[str, Any], named: dict[str, str], side: str) -> tuple[Any, Any, tuple[str, str]]:
    """The text and the image of a query, positive or negative, and the names of their columns."""
    text, image = f"{side}_text", f"{side}_image"
    columns = (named.get(text, text), named.get(image, image))
    return record.get(named.get(text)), record.get(named.get(image)), columns


def _ready(record: dict[str, Any], root: ImageRoot) -> dict[str, Any]:
    refuse_misnamed(record, READY_FEATURES)
    negatives = record.get("negatives")
    if not isinstance(negatives, list | None):
        raise fault("negatives", describe(negatives), "a list of items")
    row: dict[str, Any] = {side: _any_item(record.get(side), side, root) for side in ("query", "positive")}
    row["negatives"] = [_any_item(item, f"negatives[{place}]", root) for place, item in enumerate(negatives or [])]
    row |= {name: _label(record.get(name), name) for name in ("source", "group")}
    row["messages"] = record.get("messages")
    if row["messages"] is not None:
        check_messages(row["messages"])
    return row


def _triplet(record: dict[str, Any], root: ImageRoot) -> dict[str, Any]:
    refuse_misnamed(record, _of_triplet(record))
    names = [name for name in record if ANY_NEGATIVE.fullmatch(name) and record[name] not in (None, "")]
    return {
        "query": _any_item(record.get("anchor"), "anchor", root),
        "positive": _any_item(record.get("positive"), "positive", root),
        "negatives": [_any_item(record[name], name, root) for name in names],
    }


def _of_triplet(names: Iterable[str]) -> list[str]:
    """The columns that are read of those that are there, and those that could be."""
    negatives = [name for name in names if ANY_NEGATIVE.fullmatch(name)]
    return ["anchor", "positive", *(negatives or ["negative"])]


def _any_item(value: Any, column: str, root: ImageRoot) -> dict[str, Any]:
    """A text, an image, or `{"text", "image"}`."""
    if isinstance(value, dict) and value and value.keys() <= {"text", "image"}:
        return item_of(value.get("text"), value.get("image"), (f"{column}.text", f"{column}.image"), root)
    text, image = (value, None) if isinstance(value, str | None) else (None, value)
    return item_of(text, image, (column, column), root)


def item_of(text: Any, image: Any, columns: tuple[str, str], root: ImageRoot) -> dict[str, Any]:
    """A query or document of a text and an image; empty strings are nothing, as in MMEB."""
    text, image = as_text(text, columns[0]), as_stored(image, columns[1], root)
    if image is None and not (text or "").strip():
        raise fault(" and ".join(dict.fromkeys(columns)), "neither a text nor an image", "one of them, or both")
    return {"text": text or None, "image": image}


def _negatives_of(text: Any, image: Any, columns: tuple[str, str], root: ImageRoot) -> list[dict[str, Any]]:
    """Hard negatives of a text and an image, or of lists of them, which go together."""
    texts = text if isinstance(text, list) else [text]
    images = image if isinstance(image, list) else [image]
    negatives = []
    for place, values in enumerate(zip_longest(texts, images)):
        if any(value not in (None, "") for value in values):
            columns_here = (f"{columns[0]}[{place}]", f"{columns[1]}[{place}]")
            negatives.append(item_of(values[0], values[1], columns_here, root))
    return negatives


def _label(value: Any, column: str) -> str | None:
    if not isinstance(value, str | int | None):
        raise fault(column, describe(value), "a name")
    check_text(value if isinstance(value, str) else None, column)
    return None if value in (None, "") else str(value)
