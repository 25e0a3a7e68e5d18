"""Rows of stage 2 with the hard negatives that were mined for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features

from trainers.data.images import without_decoding
from trainers.mining.pairs import PairIndex, Place


__all__ = ["add_negatives"]


def add_negatives(dataset: Dataset, index: PairIndex, documents: np.ndarray, cache_file: Path) -> Dataset:
    """
    Rows with the negatives that they have, and after those the mined ones.

    Args:
        dataset (`Dataset`): the rows that the index was made of.
        index ([`PairIndex`]): what stands where.
        documents (`np.ndarray` of shape `(num_rows, number)`): of [`Mined`].
        cache_file (`Path`): file that holds the new rows for as long as they are used.

    Returns:
        `Dataset`: the same columns, and `negatives`.
    """
    raw = without_decoding(dataset)

    def add(rows: dict[str, list], numbers: list[int]) -> dict[str, list]:
        wanted = [[index.document_places[one] for one in documents[number] if one >= 0] for number in numbers]
        fetched = _fetch(raw, {place for places in wanted for place in places})
        before = rows.get("negatives") or [[] for _ in numbers]
        after = [[*(own or []), *(fetched[one] for one in places)] for own, places in zip(before, wanted, strict=True)]
        return {"negatives": after}

    item = dataset.features["positive"]
    features = Features({**dataset.features, "negatives": dataset.features.get("negatives", [item])})
    stored = {"negatives": raw.features.get("negatives", [raw.features["positive"]])}
    made = raw.map(
        add,
        with_indices=True,
        batched=True,
        features=Features({**raw.features, **stored}),
        cache_file_name=str(cache_file),
        load_from_cache_file=False,
        desc="Writing",
    )
    return made.cast(features) if made.features != features else made


def _fetch(raw: Dataset, places: set[Place]) -> dict[Place, dict[str, Any]]:
    """Items by their places; every row is read once."""
    rows = sorted({place.row for place in places})
    read = dict(zip(rows, raw.select(rows), strict=True)) if rows else {}
    return {place: place.item(read[place.row]) for place in places}
