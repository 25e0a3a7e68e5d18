"""Settings of stage 1, compression."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from trainers.ranges import AT_LEAST_0, COUNT, POSITIVE, check_ranges
from trainers.training_config import ComaTrainingArguments


__all__ = ["ComaCompressionConfig"]

RANGES = {
    **dict.fromkeys(("dialogue_max_length", "max_tokens_per_batch"), COUNT),
    **dict.fromkeys(("cross_entropy_weight", "kl_weight"), AT_LEAST_0),
    "kl_temperature": POSITIVE,
}


@dataclass
class ComaCompressionConfig(ComaTrainingArguments):
    r"""
    Settings of stage 1. Where they differ from `TrainingArguments`, the defaults are the official recipe.

    Args:
        > What is trained

        freeze_vision (`bool`, *optional*, defaults to `True`):
            Freezes the vision tower.
        train_merger (`bool`, *optional*, defaults to `False`):
            Trains the merger of the vision tower nevertheless.

        > Data

        max_length (`int`, *optional*):
            Limit of an input in tokens; text beyond it is cut. The processor's own limit by default.
        dialogue_max_length (`int`, *optional*, defaults to 8192):
            Limit of a dialogue in tokens; turns beyond it are left out and counted.
        compression_instruction (`bool`, *optional*, defaults to `True`):
            Whether the processor's instruction stands before the compression tokens.
        train_sampling_strategy (`str`, *optional*, defaults to `"random"`):
            `"random"`, `"sequential"`, or `"group_by_length"` for batches of rows of similar length.
        length_column_name (`str`, *optional*, defaults to `"length"`):
            Column with the tokens of each row, as `trainers.add_lengths` makes it, for `group_by_length`.
        max_tokens_per_batch (`int`, *optional*):
            Budget of a batch in tokens, padding included, beside its `per_device_train_batch_size` rows at most. Needs
            `group_by_length`.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave bad rows out and count them.

        > Loss

        cross_entropy_weight (`float`, *optional*, defaults to 1.0):
            Weight of the cross-entropy of the answers.
        kl_weight (`float`, *optional*, defaults to 0.0):
            Weight of the divergence from the uncompressed teacher.
        kl_temperature (`float`, *optional*, defaults to 1.0):
            Temperature of both distributions in it.
    """

    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the data."})
    dialogue_max_length: int = field(
        default=8192, metadata={"help": "Most tokens of a dialogue; turns beyond are left out."}
    )
    compression_instruction: bool = field(
        default=True, metadata={"help": "The processor's instruction stands before the K tokens."}
    )
    max_tokens_per_batch: int | None = field(
        default=None, metadata={"help": "Most tokens of a batch; needs group_by_length."}
    )
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = field(
        default="random", metadata={"help": "Order of the rows: random, sequential or group_by_length."}
    )

    cross_entropy_weight: float = field(default=1.0, metadata={"help": "Weight of the cross-entropy of the answers."})
    kl_weight: float = field(default=0.0, metadata={"help": "Weight of the KL from the uncompressed teacher."})
    kl_temperature: float = field(default=1.0, metadata={"help": "Temperature of the KL."})

    refused: ClassVar = {
        name: reason
        for name, reason in ComaTrainingArguments.refused.items()
        if name not in ("train_sampling_strategy", "length_column_name")
    }

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        super().__post_init__()
        if self.cross_entropy_weight == 0 and self.kl_weight == 0:
            raise ValueError("Nothing to train: cross_entropy_weight and kl_weight are both 0.")
        if self.kl_weight == 0 and self.kl_temperature != 1.0:
            raise ValueError("kl_temperature cannot act without a kl_weight. Give one, or leave it out.")
        if self.bf16_full_eval or self.fp16_full_eval:
            raise ValueError(
                "bf16_full_eval and fp16_full_eval cannot act here: stage 1 is evaluated in the precision that it is "
                "trained in. Leave them out."
            )
        self._check_order()

    def _check_order(self) -> None:
        if self.groups_by_length and self.dataloader_drop_last:
            raise ValueError(
                "dataloader_drop_last cannot act beside train_sampling_strategy=group_by_length: its batches have an "
                "order of their own, in which every row comes. Leave one of them out."
            )
        if self.groups_by_length:
            return
        if self.max_tokens_per_batch is not None:
            raise ValueError("max_tokens_per_batch needs train_sampling_strategy=group_by_length.")
        if self.length_column_name != "length":
            raise ValueError("length_column_name cannot act without train_sampling_strategy=group_by_length.")

    @property
    def groups_by_length(self) -> bool:
        """Whether batches are of rows of similar length."""
        return self.train_sampling_strategy == "group_by_length"
