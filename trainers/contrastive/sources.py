"""The sources of the rows of stage 2, and settings that name some: of a source that no row has, nothing would act."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from trainers.contrastive.config import ComaContrastiveConfig
from trainers.data.items import content_key
from trainers.data.rows import NumberedRows


__all__ = ["UnseenSources", "check_named", "check_sources", "every_source", "sources_of"]

logger = logging.get_logger(__name__)

NAMING = ("instructions", "own_negatives_only", "source_caps", "source_weights")


def sources_of(dataset: Any) -> list[str | None] | None:
    """The source of each row of a `Dataset` or a list of rows; `None` where only reading all of them would tell."""
    dataset = dataset.dataset if isinstance(dataset, NumberedRows) else dataset
    if isinstance(dataset, Dataset):
        return list(dataset["source"]) if "source" in dataset.column_names else [None] * len(dataset)
    return [row.get("source") for row in dataset] if isinstance(dataset, list | tuple) else None


def every_source(dataset: Any, setting: str) -> list[str]:
    """
    The source of each row, for a setting that needs them all.

    Raises:
        ValueError: for a row without one, and for data whose rows are not there before they are read.
    """
    sources = sources_of(dataset)
    if sources is None:
        dataset = dataset.dataset if isinstance(dataset, NumberedRows) else dataset
        found = "no training data" if dataset is None else f"a {type(dataset).__name__}"
        raise ValueError(
            f"{setting} needs the `source` of all rows before the training begins, of which {found} does not tell: "
            "give a `datasets.Dataset` or a list of rows."
        )
    if None in sources:
        raise ValueError(
            f"{setting} goes by sources: give every row of the training data a `source`. {sources.count(None)} of "
            f"{len(sources)} rows have none, first row {sources.index(None)}."
        )
    return sources


def check_named(named: Iterable[str | None], sources: Iterable[str | None], setting: str) -> None:
    """
    Raises:
        ValueError: for names of sources that no row has.
    """
    known = set(sources)
    if unknown := sorted(set(named) - known, key=str):
        there = ", ".join(sorted(repr(name) for name in known if name is not None)) or "none"
        there += ", and rows without one" if None in known else ""
        what = " and ".join("rows without a source" if name is None else repr(name) for name in unknown)
        raise ValueError(f"{setting} names {what}, which no row has: it would do nothing. The sources are {there}.")


def check_sources(dataset: Any, args: ComaContrastiveConfig) -> None:
    """Refuses settings of a training that name a source, or go by sources, which the rows do not have."""
    if dataset is None or (sources := sources_of(dataset)) is None:
        return
    for name in NAMING:
        check_named(getattr(args, name) or (), sources, name)
    if args.same_source_negatives and not any(source is not None for source in sources):
        raise ValueError("same_source_negatives would do nothing: no row of the training data has a `source`.")


class UnseenSources(TrainerCallback):
    """
    Warns at the end of a training on data whose sources were not known beforehand, a stream for instance, of sources
    that settings name and no row had.

    Args:
        dataset: the training data.
        args ([`ComaContrastiveConfig`]): the settings.
        accelerator (`Accelerator`): asks all processes.
    """

    def __init__(self, dataset: Any, args: ComaContrastiveConfig, accelerator: Accelerator) -> None:
        unknown = dataset is not None and sources_of(dataset) is None
        named: Sequence[str] = [name for setting in NAMING[:2] for name in getattr(args, setting) or ()]
        self.unseen = {content_key(name): name for name in sorted(set(named))} if unknown else {}
        self.keys, self.accelerator = sorted(self.unseen), accelerator

    def remove(self, sources: torch.Tensor) -> None:
        """Takes in hashes of the sources of a batch."""
        if self.unseen:
            self.unseen = {key: self.unseen[key] for key in self.unseen.keys() - set(sources.tolist())}

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.keys:
            return
        missing = torch.tensor([key in self.unseen for key in self.keys], device=self.accelerator.device).long()
        everywhere = (self.accelerator.reduce(missing) == self.accelerator.num_processes).tolist()
        if names := sorted(self.unseen[key] for key, gone in zip(self.keys, everywhere, strict=True) if gone):
            logger.warning(f"Settings name the sources {names}, which no row of the training had: they did nothing.")
