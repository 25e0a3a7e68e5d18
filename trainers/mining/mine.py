"""Hard negatives for pairs: what a model takes for the answer, is close, and is not known to be one.

For every query the nearest documents are looked for among those of its source. Known positives are left out, and so is
what is as near as a positive: it probably is one that nobody has marked (the margins are
those of NV-Retriever, arXiv 2407.15831).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, Features
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import logging

from trainers.data.images import without_decoding
from trainers.encoding.nearest import nearest_documents
from trainers.encoding.shards import EmbeddingShards
from trainers.mining.pairs import PairIndex, Place


__all__ = ["Mined", "MiningSettings", "add_negatives", "mine"]

QUERIES_AT_A_TIME = 1024


@dataclass(frozen=True)
class MiningSettings:
    r"""
    What a hard negative is. Its score `s` is a cosine, `p` is that of the positive of the row.

    Args:
        number (`int`, *optional*, defaults to 5): how many are wanted for a row.
        depth (`int`, *optional*, defaults to 100): they are among so many nearest documents that are no positives,
        skip (`int`, *optional*, defaults to 0): and not among the first so many of them.
        relative_margin (`float`, *optional*, defaults to 0.05): `s <= p - relative_margin * |p|`.
        absolute_margin (`float`, *optional*): `s <= p - absolute_margin`, from 0.
        max_score (`float`, *optional*): `s <= max_score`.
    """

    number: int = 5
    depth: int = 100
    skip: int = 0
    relative_margin: float | None = 0.05
    absolute_margin: float | None = None
    max_score: float | None = None

    def __post_init__(self) -> None:
        for name in ("relative_margin", "absolute_margin", "max_score"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name}={value} is no limit: give a number, or leave it out.")
        if self.absolute_margin is not None and self.absolute_margin < 0:
            raise ValueError(f"absolute_margin={self.absolute_margin} is below 0: a relative_margin may be.")
        if self.number < 1 or self.skip < 0 or self.depth < self.skip + self.number:
            raise ValueError(
                f"number={self.number} from 1, skip={self.skip} from 0, and depth={self.depth} must hold both of them."
            )

    def limits(self, positives: torch.Tensor) -> torch.Tensor:
        """The largest score of a negative, by the scores of the positives, `(num_rows,)`."""
        limits = torch.full_like(positives, torch.inf)
        for limit in self.limits_by_setting(positives).values():
            limits = limits.minimum(limit)
        return limits

    def limits_by_setting(self, positives: torch.Tensor) -> dict[str, torch.Tensor]:
        """The largest score that each setting which is set allows, `(num_rows,)`."""
        limits = {}
        if self.relative_margin is not None:
            limits["relative_margin"] = positives - self.relative_margin * positives.abs()
        if self.absolute_margin is not None:
            limits["absolute_margin"] = positives - self.absolute_margin
        if self.max_score is not None:
            limits["max_score"] = torch.full_like(positives, self.max_score)
        return limits


class Mined(NamedTuple):
    """
    What was found.

    Args:
        documents (`np.ndarray` of shape `(num_rows, number)`): the negatives of each row, the nearest first; -1: none.
        report (`dict`): `rows_by_number` says how many rows have how many, `rows_with_fewer` how many have fewer than
            was wanted, `rows_without_negatives` how many have none at all, neither mined nor their own, `too_near` how
            many documents a margin has kept out. Of the rows without a mined one, `kept_out_by` says how many found
            none because of a setting, and `would_help` at which value of it half of them would find one. The mean
            scores are over the same rows, those with mined negatives (`rows_with_mined`): of their positives, and of
            the mean score of the negatives of each.
    """

    documents: np.ndarray
    report: dict[str, Any]


def mine(
    index: PairIndex,
    queries: EmbeddingShards,
    documents: EmbeddingShards,
    settings: MiningSettings,
    device: torch.device | str = "cpu",
) -> Mined:
    """
    Finds hard negatives, with a progress bar. What is held in memory depends on `settings` and not on the numbers of
    queries and documents, but for a few numbers of each.

    Args:
        index ([`PairIndex`]): what belongs to what.
        queries, documents ([`EmbeddingShards`]): their embeddings.
        settings ([`MiningSettings`]): what a hard negative is.
        device (`torch.device`, *optional*, defaults to `"cpu"`): where scores are computed.

    Returns:
        [`Mined`]: the same for the same embeddings; equal scores are in the order of the documents.

    Raises:
        ValueError: if no row can have as many negatives as are wanted, and for an embedding that is not finite.
    """
    most = max((len(pool) for pool in index.pools.values()), default=1) - 1
    if settings.skip + settings.number > most:
        raise ValueError(
            f"number={settings.number} and skip={settings.skip} ask for more than there is: no query has more than "
            f"{most} documents of its source beside its positive."
        )
    miner = _Miner(index, queries, documents, settings, torch.device(device))
    by_source: dict[str | None, list[int]] = {}
    for row, source in enumerate(index.sources):
        by_source.setdefault(source, []).append(row)
    with logging.tqdm(total=len(index.queries), desc="Mining", unit="row", smoothing=0.05) as progress:
        for source, rows in by_source.items():
            miner.mine(np.array(rows), index.pools[source], progress)
    return Mined(miner.negatives, miner.report())


class _Miner:
    """Mines rows, those of one source after the other, and counts."""

    def __init__(
        self,
        index: PairIndex,
        queries: EmbeddingShards,
        documents: EmbeddingShards,
        settings: MiningSettings,
        device: torch.device,
    ) -> None:
        self.index, self.queries, self.documents = index, queries, documents
        self.settings, self.device = settings, device
        self.negatives = np.full((len(index.queries), settings.number), -1, dtype=np.int64)
        # Of each row, the score of its positive and the mean score of its mined negatives (NaN without any).
        self.scores = np.full((len(index.queries), 2), np.nan)
        self.too_near = 0
        # Of each row, the score of the farthest document that would be a negative but for the limits, inf without any.
        self.farthest = np.full(len(index.queries), np.inf)

    def mine(self, rows: np.ndarray, pool: np.ndarray, progress: Any) -> None:
        """Fills in the negatives of some rows, which are documents of the pool."""
        rows = rows[np.argsort(self.index.queries[rows], kind="stable")]  # those of a query are looked up together
        unique, first_rows = np.unique(self.index.queries[rows], return_index=True)
        first_rows = np.append(first_rows, len(rows))
        for start in range(0, len(unique), QUERIES_AT_A_TIME):
            some = unique[start : start + QUERIES_AT_A_TIME]
            queries = self.queries.take(some).to(self.device)
            known = [self.index.known[query] for query in some]
            nearest = nearest_documents(queries, self.documents.blocks(pool), self.settings.depth, known)
            first, last = first_rows[start], first_rows[start + len(some)]
            for row in range(first, last, QUERIES_AT_A_TIME):
                here = rows[row : min(row + QUERIES_AT_A_TIME, last)]
                of_query = torch.from_numpy(np.searchsorted(some, self.index.queries[here])).to(self.device)
                positives = self._positive_scores(here, queries[of_query])
                scores, numbers = (found[of_query] for found in nearest)
                self._choose(here, scores, numbers, positives)
                progress.update(len(here))

    def _positive_scores(self, rows: np.ndarray, queries: torch.Tensor) -> torch.Tensor:
        positives = self.documents.take(self.index.positives[rows]).to(self.device)
        scores = (queries * positives).sum(1)
        if len(bad := (~scores.isfinite()).nonzero()):
            raise ValueError(f"Row {rows[int(bad[0])]}: the score of its positive is {scores[bad[0]].item()}.")
        return scores

    def _choose(self, rows: np.ndarray, scores: torch.Tensor, numbers: torch.Tensor, positives: torch.Tensor) -> None:
        """Takes the first documents of each row that are neither too near nor among its negatives already."""
        own = [torch.tensor(self.index.negatives[row], dtype=torch.long) for row in rows]
        own = pad_sequence(own, batch_first=True, padding_value=-1).to(self.device)
        free = scores > -torch.inf
        for column in own.unbind(1):
            free &= numbers != column[:, None]
        free[:, : self.settings.skip] = False
        near = scores > self.settings.limits(positives)[:, None]
        self.too_near += int((free & near).sum())
        self.farthest[rows] = scores.where(free, torch.inf).amin(1).cpu().numpy()
        rank = (free & ~near).cumsum(1)
        taken = free & ~near & (rank <= self.settings.number)
        chosen = torch.full((len(rows), self.settings.number), -1, device=self.device)
        chosen[taken.nonzero()[:, 0], rank[taken] - 1] = numbers[taken]
        means = scores.where(taken, 0).double().sum(1) / taken.sum(1)
        self.negatives[rows] = chosen.cpu().numpy()
        self.scores[rows] = torch.stack([positives.double(), means], dim=1).cpu().numpy()

    def report(self) -> dict[str, Any]:
        """What was found, in numbers."""
        counts = (self.negatives >= 0).sum(1)
        by_number = np.bincount(counts, minlength=self.settings.number + 1).tolist()
        has_own = np.array([bool(own) for own in self.index.negatives], dtype=bool)
        positive, negative = self.scores[counts > 0].mean(0).tolist() if counts.any() else (None, None)
        return {
            "rows": len(counts),
            "queries": len(self.index.query_places),
            "documents": len(self.index.document_places),
            "wanted": self.settings.number,
            "mined": int(counts.sum()),
            "rows_with_fewer": sum(by_number[:-1]),
            "rows_by_number": {str(number): rows for number, rows in enumerate(by_number)},
            "too_near": self.too_near,
            **self._reasons(counts),
            "rows_without_negatives": int((~has_own & (counts == 0)).sum()),
            "rows_with_mined": int((counts > 0).sum()),
            "mean_positive_score": positive and round(positive, 4),
            "mean_negative_score": negative and round(negative, 4),
        }

    def _reasons(self, counts: np.ndarray) -> dict[str, Any]:
        """Why rows have no mined negatives: by setting, how many, and the value at which half of them had one."""
        rows = (counts == 0) & np.isfinite(self.farthest)
        positives, farthest = torch.from_numpy(self.scores[rows, 0]), torch.from_numpy(self.farthest[rows])
        values = {
            "relative_margin": (positives - farthest) / positives.abs().clamp(min=1e-6),
            "absolute_margin": positives - farthest,
            "max_score": -farthest,
        }
        kept_out, would_help = {}, {}
        for name, limits in self.settings.limits_by_setting(positives).items():
            stopped = farthest > limits
            if number := int(stopped.sum()):
                kept_out[name] = number
                # Rounded to the side of more negatives; a score is the smaller the more it keeps out.
                value = math.floor(values[name][stopped].median().item() * 1000) / 1000
                would_help[name] = -value if name == "max_score" else value
        return {"kept_out_by": kept_out, "would_help": would_help}


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
        mined = [[index.document_places[number] for number in documents[row] if number >= 0] for row in numbers]
        items = _items_at(raw, {place for places in mined for place in places})
        own = rows.get("negatives") or [None] * len(numbers)
        pairs = zip(own, mined, strict=True)
        return {"negatives": [[*(items_before or []), *map(items.get, places)] for items_before, places in pairs]}

    features, stored = (
        Features({**rows.features, "negatives": rows.features.get("negatives", [rows.features["positive"]])})
        for rows in (dataset, raw)
    )
    made = raw.map(
        add,
        with_indices=True,
        batched=True,
        features=stored,
        cache_file_name=str(cache_file),
        load_from_cache_file=False,
        desc="Writing",
    )
    return made.cast(features) if made.features != features else made


def _items_at(raw: Dataset, places: set[Place]) -> dict[Place, dict[str, Any]]:
    """Items by their places; every row is read once."""
    rows = sorted({place.row for place in places})
    read = dict(zip(rows, raw.select(rows), strict=True)) if rows else {}
    return {place: place.item(read[place.row]) for place in places}
