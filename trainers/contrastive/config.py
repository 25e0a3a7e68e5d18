"""Settings of stage 2."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trainers.contrastive.budgets import checked_budgets
from trainers.ranges import AT_LEAST_0, COUNT, POSITIVE, Range, check_ranges
from trainers.training_config import ComaTrainingArguments, mapping_of


__all__ = ["ComaContrastiveConfig"]

RANGES = {
    **dict.fromkeys(("sub_batch_size", "mini_batch_tokens"), COUNT),
    "temperature": POSITIVE,
    **dict.fromkeys(("hardness", "false_negative_margin"), AT_LEAST_0),
}
PER_SOURCE = {
    "instructions": Range("a text", lambda value: isinstance(value, str)),
    "source_caps": COUNT,
    "source_weights": AT_LEAST_0,
}


@dataclass
class ComaContrastiveConfig(ComaTrainingArguments):
    r"""
    Settings of stage 2. Where they differ from `TrainingArguments`, the defaults are the official recipe.

    `per_device_train_batch_size`, times the processes, is the number of pairs whose documents are each other's
    negatives. Memory does not depend on it, but on `mini_batch_tokens`. Gradient accumulation averages the losses of
    several batches: it adds no negatives.

    Args:
        > What is trained

        freeze_vision (`bool`, *optional*, defaults to `True`):
            Freezes the vision tower, which then runs once per batch.
        train_merger (`bool`, *optional*, defaults to `False`):
            Trains the merger of the vision tower nevertheless.

        > Data

        max_length (`int`, *optional*):
            Limit of an input in tokens; text beyond it is cut. The processor's own limit by default.
        instructions (`dict[str, str]`, *optional*):
            Source -> instruction that is put before its queries, as a system message.
        sub_batch_size (`int`, *optional*):
            Neighbours from one source, where the rows have a `source`; 64 in the official recipe. By default rows are
            shuffled without regard to it.
        source_caps (`dict[str, int]`, *optional*):
            Most rows of a source in an epoch. Needs `sub_batch_size`.
        source_weights (`dict[str, float]`, *optional*):
            How many times a source is gone through in an epoch. Needs `sub_batch_size`.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave bad rows out and count them.

        > Memory

        mini_batch_tokens (`int`, *optional*, defaults to 16,384):
            Budget of a forward pass in tokens, padding included.

        > Loss

        temperature (`float`, *optional*, defaults to 0.03):
            Divides the similarities.
        bidirectional (`bool`, *optional*, defaults to `False`):
            Mean of both directions, queries to documents and documents to queries.
        false_negative_margin (`float`, *optional*):
            Leaves out negatives that are more similar than the positive by more than this.
        hardness (`float`, *optional*, defaults to 0.0):
            Emphasis on hard negatives.
        matryoshka_dims (`list[int]`, *optional*):
            Also trains the embeddings cut to these dimensions. The loss is then the sum of the losses of all, as in
            Kusupati et al. 2022 and in sentence-transformers; `loss_per_dimension` in the log is their mean.
        late_interaction_budgets (`list` of `[int, int]` or `str`, *optional*):
            Also trains the states of the compression tokens as several vectors: for every budget `[q, t]`, or `"qxt"`,
            InfoNCE over MaxSim of the first q states of a query and the first t of a document, beside the loss of the
            embedding. Each budget holds the one before.
        late_interaction_weights (`list[float]`, *optional*):
            Weights of the losses of the budgets, all 1 by default; the embedding has 1.
        same_source_negatives (`bool`, *optional*, defaults to `False`):
            Takes negatives from the row's own source only.
        own_negatives_only (`list[str]`, *optional*):
            Sources whose rows have no negatives but their own, as in classification with listed wrong labels.
    """

    per_device_train_batch_size: int = field(
        default=1024, metadata={"help": "Pairs on each process; all are each other's negatives."}
    )
    instructions: dict | str | None = field(
        default=None, metadata={"help": 'Before the queries of a source: {"shop": "Find it."}.'}
    )
    sub_batch_size: int | None = field(
        default=None, metadata={"help": "So many neighbours are from one source; 64 in the paper."}
    )
    source_caps: dict | str | None = field(default=None, metadata={"help": "Most rows of each source in an epoch."})
    source_weights: dict | str | None = field(default=None, metadata={"help": "Epochs of each source in an epoch."})

    mini_batch_tokens: int = field(
        default=16384, metadata={"help": "Tokens of a forward pass: the memory, not the result."}
    )

    temperature: float = field(default=0.03, metadata={"help": "Divides similarities; lower: the nearest count more."})
    bidirectional: bool = field(
        default=False, metadata={"help": "Mean of both directions, documents to queries as well."}
    )
    false_negative_margin: float | None = field(
        default=None, metadata={"help": "Negatives nearer than the positive by more are left out."}
    )
    hardness: float = field(default=0.0, metadata={"help": "Emphasis on near negatives; 9 in LLaVE."})
    matryoshka_dims: list[int] | None = field(
        default=None, metadata={"help": "Also train embeddings cut to these dimensions."}
    )
    late_interaction_budgets: list[str] | None = field(
        default=None, metadata={"help": "Also train nested states, of query x document: 1x1 2x4 4x8."}
    )
    late_interaction_weights: list[float] | None = field(
        default=None, metadata={"help": "Of their losses, one for each; by default 1."}
    )
    same_source_negatives: bool = field(default=False, metadata={"help": "Negatives from the source of the row only."})
    own_negatives_only: list[str] | None = field(
        default=None, metadata={"help": "Sources whose rows have no negatives but their own."}
    )

    def __post_init__(self) -> None:
        for name, values in PER_SOURCE.items():
            setattr(self, name, mapping_of(name, getattr(self, name)))
            _check_per_source(name, getattr(self, name), values)
        for dim in self.matryoshka_dims or []:
            if not COUNT.holds(dim):
                raise ValueError(f"matryoshka_dims must be whole numbers from 1, got {dim!r}.")
        budgets, weights = self.late_interaction_budgets, self.late_interaction_weights
        self.late_interaction_budgets = checked_budgets(budgets, weights)
        check_ranges(self, RANGES)
        super().__post_init__()
        if self.sub_batch_size is None and (self.source_caps or self.source_weights):
            raise ValueError("source_caps and source_weights need a sub_batch_size, 64 in the official recipe.")
        if self.sub_batch_size is not None and self.train_sampling_strategy != "random":
            raise ValueError(
                "train_sampling_strategy cannot act beside a sub_batch_size, whose batches have an order of their "
                "own. Leave one of them out."
            )
        if self.auto_find_batch_size:
            raise ValueError(
                "auto_find_batch_size cannot act here: a smaller batch has fewer negatives, and memory does not "
                "depend on it. Lower mini_batch_tokens instead."
            )


def _check_per_source(name: str, mapping: Any, values: Range) -> None:
    if mapping is None:
        return
    if not isinstance(mapping, dict):
        raise ValueError(f"{name} must be a mapping from sources, got {mapping!r}.")
    for source, value in mapping.items():
        if not isinstance(source, str) or not values.holds(value):
            raise ValueError(f"{name} of a source must be {values.words}, got {value!r} for {source!r}.")
