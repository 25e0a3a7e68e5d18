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
from trainers.data.schema import (
    DIALOGUE_FEATURES,
    PAIR_FEATURES,
    VIDEO_PAIR_FEATURES,
    as_text,
    check_messages,
    check_text,
    validate_pairs,
)
from trainers.data.tables import Records, open_records, saved_dataset
from trainers.data.text_format import TextFormat
from trainers.data.videos import has_videos, late_video


__all__ = ["PairColumns", "check_named", "features_of", "item_of", "load_pairs", "load_triplets", "pair_row"]

READY_FEATURES = Features(
    {**PAIR_FEATURES, "group": Value("string"), "messages": DIALOGUE_FEATURES["messages"]}  # for the joint objective
)
READY_VIDEO_FEATURES = Features({**READY_FEATURES, **VIDEO_PAIR_FEATURES})
KINDS = ("text", "image", "video")
ANY_NEGATIVE = re.compile(r"negative(_\d+)?")


@dataclass
class PairColumns:
    """
    Names of the columns of a table. A query and a positive are a text, an image, a video, or several of these.

    Args:
        query_text, query_image, positive_text, positive_image (`str`, *optional*):
            Texts, and images as paths or as `datasets` stores them.
        negative_text, negative_image (`str`, *optional*):
            One hard negative, or a list of them; where both are lists, they go together.
        source, group (`str`, *optional*):
            As in [`ComaContrastiveCollator`].
        query_video, positive_video, negative_video (`str`, *optional*):
            Videos, as images are.
    """

    query_text: str | None = None
    query_image: str | None = None
    positive_text: str | None = None
    positive_image: str | None = None
    negative_text: str | None = None
    negative_image: str | None = None
    source: str | None = None
    group: str | None = None
    query_video: str | None = None
    positive_video: str | None = None
    negative_video: str | None = None

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
        if not {f"{side}_{kind}" for kind in KINDS} & named.keys():
            raise ValueError(f"Name the column of the {side}: {side}_text or {side}_image, or both.")


def features_of(named: dict[str, str]) -> Features:
    """Features of the rows that [`pair_row`] makes."""
    of_items = VIDEO_PAIR_FEATURES if any(name.endswith("_video") for name in named) else PAIR_FEATURES
    features = {name: of_items[name] for name in ("query", "positive", "negatives")}
    return Features(features | {name: Value("string") for name in ("source", "group") if name in named})


def load_triplets(
    source: str | Path | Dataset,
    image_root: str | Path | None = None,
    on_bad_row: Policy = "raise",
    text_format: TextFormat | None = None,
) -> Dataset:
    r"""
    Loads rows of stage 2 from the columns of sentence-transformers: `anchor`, `positive`, and maybe `negative` or
    `negative_1`, `negative_2`, … A value is a text, an image as `datasets` stores it, or `{"text", "image", "video"}`.

    Args:
        source, image_root, on_bad_row, text_format:
            As in [`load_pairs`].

    Returns:
        `Dataset`: columns `query`, `positive`, `negatives`.

    Raises:
        ValueError: as in [`load_pairs`].
    """
    convert, records = partial(_triplet, root=root_of(source, image_root)), open_records(source, text_format)
    convert, of_items = _with_videos(convert, records, PAIR_FEATURES, VIDEO_PAIR_FEATURES)
    features = Features({name: of_items[name] for name in ("query", "positive", "negatives")})
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
    convert, features = _with_videos(convert, records, READY_FEATURES, READY_VIDEO_FEATURES)
    return build_dataset(records, convert, features, on_bad_row, ["query", "positive"], READY_FEATURES)


def _with_videos(
    convert: partial, records: Records, without: Features, features: Features
) -> tuple[partial, Features]:
    """What converts rows, and their features, which have videos where the first rows do."""
    return (partial(convert, videos=True), features) if has_videos(records, _has_video) else (convert, without)


def _has_video(record: dict[str, Any]) -> bool:
    """Whether a query, a positive or a negative has one; what else is called so is of other columns."""
    sides = [record.get(name) for name in ("query", "negatives", *_of_triplet(record))]
    items = [item for side in sides for item in (side if isinstance(side, list) else [side])]
    return any(isinstance(item, dict) and item.get("video") for item in items)


def pair_row(record: dict[str, Any], named: dict[str, str], root: ImageRoot) -> dict[str, Any]:
    """A row of stage 2 from a record; `named` are the columns of [`PairColumns`] that are given."""
    refuse_misnamed(record, named.values())
    row: dict[str, Any] = {}
    for side in ("query", "positive"):
        given = [named[name] for name in (f"{side}_{kind}" for kind in KINDS) if name in named]
        if not record.keys() & set(given):
            raise fault(side, f"a row with the columns {sorted(record)}", f"a column {' or '.join(map(repr, given))}")
        row[side] = item_of(_side_of(record, named, side), _columns_of(named, side), root)
    row["negatives"] = _negatives_of(_side_of(record, named, "negative"), _columns_of(named, "negative"), root)
    for name in ("source", "group"):
        if name in named:
            row[name] = _label(record.get(named[name]), named[name])
    return row


def _side_of(record: dict[str, Any], named: dict[str, str], side: str) -> dict[str, Any]:
    """The text, the image and, where one has a name, the video of a query, positive or negative."""
    kinds = KINDS if any(name.endswith("_video") for name in named) else KINDS[:2]
    return {kind: record.get(named.get(f"{side}_{kind}")) for kind in kinds}


def _columns_of(named: dict[str, str], side: str) -> dict[str, str]:
    return {kind: named.get(f"{side}_{kind}", f"{side}_{kind}") for kind in KINDS}


def _ready(record: dict[str, Any], root: ImageRoot, videos: bool = False) -> dict[str, Any]:
    refuse_misnamed(record, READY_FEATURES)
    if not videos and _has_video(record):
        raise late_video("video")
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


def _triplet(record: dict[str, Any], root: ImageRoot, videos: bool = False) -> dict[str, Any]:
    refuse_misnamed(record, _of_triplet(record))
    if not videos and _has_video(record):
        raise late_video("video")
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
    """A text, an image, or `{"text", "image", "video"}`."""
    if isinstance(value, dict) and value and value.keys() <= {*KINDS}:
        return item_of(value, {kind: f"{column}.{kind}" for kind in KINDS}, root)
    given = {"text": value} if isinstance(value, str | None) else {"image": value}
    return item_of(given, dict.fromkeys(KINDS, column), root)


def item_of(given: dict[str, Any], columns: dict[str, str], root: ImageRoot) -> dict[str, Any]:
    """A query or document of a text, an image and, where there can be one, a video, by the names of their columns;
    empty strings are nothing, as in MMEB."""
    text = as_text(given.get("text"), columns["text"])
    item = {"text": text or None, "image": as_stored(given.get("image"), columns["image"], root)}
    if "video" in given:
        item["video"] = as_stored(given["video"], columns["video"], root)
    if item["image"] is None and item.get("video") is None and not (text or "").strip():
        there = [columns[kind] for kind in item]
        raise fault(" and ".join(dict.fromkeys(there)), "neither a text nor an image", "one of them, or both")
    return item


def _negatives_of(given: dict[str, Any], columns: dict[str, str], root: ImageRoot) -> list[dict[str, Any]]:
    """Hard negatives of a text, an image and a video, or of lists of them, which go together."""
    lists = [value if isinstance(value, list) else [value] for value in given.values()]
    negatives = []
    for place, values in enumerate(zip_longest(*lists)):
        if any(value not in (None, "") for value in values):
            here = {kind: f"{column}[{place}]" for kind, column in columns.items()}
            negatives.append(item_of(dict(zip(given, values, strict=True)), here, root))
    return negatives


def _label(value: Any, column: str) -> str | None:
    if not isinstance(value, str | int | None):
        raise fault(column, describe(value), "a name")
    check_text(value if isinstance(value, str) else None, column)
    return None if value in (None, "") else str(value)
