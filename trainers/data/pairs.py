"""Rows of stage 2 from what people have: a table of texts and paths of pictures, or a data set saved by `datasets`."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from trainers.data.emoji import PAIR_FEATURES


__all__ = ["PairColumns", "load_pairs"]

FORMATS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass
class PairColumns:
    """
    Names of the columns of a table. A query and a positive are a text, a picture or both.

    Args:
        query_text, query_image, positive_text, positive_image (`str`, *optional*):
            Texts, and pictures as paths or as `datasets` stores them.
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


def load_pairs(path: str, columns: PairColumns | None = None, image_root: str | None = None) -> Dataset:
    """
    Loads rows of stage 2.

    Args:
        path (`str`):
            A .csv, .tsv, .jsonl or .parquet file, or a folder made by `Dataset.save_to_disk`.
        columns ([`PairColumns`], *optional*):
            The columns of a table; a table that has `query` and `positive` already needs none.
        image_root (`str`, *optional*):
            Folder at which relative paths of pictures begin; by default that of the file.

    Returns:
        `Dataset`: columns `query`, `positive`, `negatives`, and `source` and `group` where they are given.

    Raises:
        ValueError: for what is no such file, columns that are not there, and rows without a query or a positive.
    """
    dataset, named = _read(Path(path)), (columns or PairColumns()).named()
    if not named:
        if not {"query", "positive"} <= set(dataset.column_names):
            raise ValueError(f"Name the columns of {path} (query_text, positive_image, …): {dataset.column_names}.")
        return dataset
    if missing := sorted(set(named.values()) - set(dataset.column_names)):
        raise ValueError(f"{path} has no columns {missing}; it has {dataset.column_names}.")
    for side in ("query", "positive"):
        if not {f"{side}_text", f"{side}_image"} & named.keys():
            raise ValueError(f"Name the column of the {side}: {side}_text or {side}_image, or both.")
    root = Path(path).parent if image_root is None else Path(image_root)
    extra = [name for name in ("source", "group") if name in named]
    names = ("query", "positive", "negatives", *extra)
    features = {name: PAIR_FEATURES["source" if name == "group" else name] for name in names}
    return dataset.select_columns(sorted(set(named.values()))).map(
        _rows,
        batched=True,
        fn_kwargs={"named": named, "root": str(root), "extra": extra},
        remove_columns=sorted(set(named.values())),
        features=Features(features),
        desc="Pairs",
    )


def _read(path: Path) -> Dataset:
    if path.is_dir():
        return load_from_disk(str(path))
    if not path.exists() or path.suffix not in FORMATS:
        raise ValueError(f"{path} must be a folder of `save_to_disk`, or a file that ends with {', '.join(FORMATS)}.")
    options: dict[str, Any] = {}
    if FORMATS[path.suffix] == "csv":  # whatever it looks like, a text is a text
        separator = "\t" if path.suffix == ".tsv" else ","
        with path.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file, delimiter=separator), [])
        features = Features({name: Value("string") for name in header})
        options = {"sep": separator, "features": features, "keep_default_na": False}
    try:
        return load_dataset(FORMATS[path.suffix], data_files=str(path), split="train", **options)
    except DatasetGenerationError as error:
        raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error


def _rows(batch: dict[str, list], named: dict[str, str], root: str, extra: list[str]) -> dict[str, list]:
    number = len(next(iter(batch.values())))
    columns = {name: batch[column] for name, column in named.items()}

    def items(side: str) -> list[tuple[Any, Any]]:
        none = [None] * number
        return list(zip(columns.get(f"{side}_text", none), columns.get(f"{side}_image", none), strict=True))

    rows: dict[str, list] = {side: [_item(*pair, root) for pair in items(side)] for side in ("query", "positive")}
    rows["negatives"] = [_negatives(*pair, root) for pair in items("negative")]
    return {**rows, **{name: [None if v in (None, "") else str(v) for v in columns[name]] for name in extra}}


def _item(text: Any, image: Any, root: str) -> dict[str, Any]:
    """Empty strings are nothing, as in MMEB."""
    if isinstance(image, str):
        image = str(Path(root, image)) if image else None
    return {"text": None if text in (None, "") else str(text), "image": image}


def _negatives(text: Any, image: Any, root: str) -> list[dict[str, Any]]:
    texts, images = (value if isinstance(value, list) else [value] for value in (text, image))
    length = max(len(texts), len(images))
    texts, images = ([*values, *[None] * (length - len(values))] for values in (texts, images))
    items = [_item(*pair, root) for pair in zip(texts, images, strict=True)]
    return [item for item in items if item["text"] or item["image"]]
