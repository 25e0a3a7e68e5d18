"""A training goes on where all rows of a batch are bad, on one process or on all, and says so where nothing is left.

A batch without rows is a well-formed one that weighs nothing, so that every process runs the same passes and talks to
the others as often as they do. A step without any row on any process leaves the weights, and what the optimizer
remembers, as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainers.base import ComaTrainer
from trainers.evaluation_rows import EvaluationCollator, numbered_for_evaluation


__all__ = ["SkippedBatches", "SkippingTrainer"]


class SkippedBatches(TrainerCallback):
    """
    Knows which batches of a step have rows, on all processes together.

    Attributes:
        weight (`float`):
            What the mean of the losses of the batches of a step has to be multiplied by, to be that of the batches
            that have rows.
        is_empty (`bool`):
            Whether no batch of the step has rows.
    """

    def __init__(self) -> None:
        self.weight, self.is_empty = 1.0, False
        self._steps = self._empty = 0  # since the last log
        self._all_steps = self._all_empty = 0

    def look_at(self, has_rows: torch.Tensor) -> None:
        """Takes in, for every batch of the step that begins, on how many processes it has rows, `(num_batches,)`."""
        number = int((has_rows > 0).sum())
        self.weight, self.is_empty = len(has_rows) / max(number, 1), number == 0

    def corrected(self, logs: dict[str, float]) -> dict[str, float]:
        """Logs whose loss is the mean over the steps that had rows; NaN if none had."""
        if "loss" in logs:
            logs = {**logs, "loss": _mean(logs["loss"], self._steps, self._empty)}
            self._steps = self._empty = 0
        if "train_loss" in logs:
            logs = {**logs, "train_loss": _mean(logs["train_loss"], self._all_steps, self._all_empty)}
        return logs

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **kwargs
    ) -> None:
        if self.is_empty:
            optimizer.zero_grad()  # what has no gradient is left alone: no momentum, no weight decay

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._steps, self._empty = self._steps + 1, self._empty + self.is_empty
        self._all_steps, self._all_empty = self._all_steps + 1, self._all_empty + self.is_empty
        self.weight, self.is_empty = 1.0, False

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self._all_steps and self._all_steps == self._all_empty:
            raise ValueError(
                f"Nothing was trained: in {self._all_steps} steps every row was left out as bad. The log says what is "
                "wrong with the first of them; with on_bad_row='raise' the first one is an error."
            )


def _mean(loss: float, steps: int, empty: int) -> float:
    return loss * steps / (steps - empty) if steps > empty else float("nan") if steps else loss


class SkippingTrainer(ComaTrainer):
    """What both trainers do about bad rows beside leaving them out of batches: see the top of this file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "eval_dataset" in kwargs:
            kwargs["eval_dataset"] = numbered_for_evaluation(kwargs["eval_dataset"])
        super().__init__(*args, **kwargs)
        self.evaluation_collator = EvaluationCollator(self.data_collator)
        self.skipped_batches = SkippedBatches()
        self.add_callback(self.skipped_batches)

    def number_of_rows(self, batch: dict[str, Any]) -> int:
        """How many rows of a batch count."""
        raise TypeError(f"{type(self).__name__} does not say what the rows of a batch are.")

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """As in `Trainer`, and takes in which of the batches have rows."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        bad_rows = getattr(self.data_collator, "bad_rows", None)
        if batches and bad_rows is not None and bad_rows.policy == "skip":
            has_rows = torch.tensor([self.number_of_rows(batch) > 0 for batch in batches], dtype=torch.long)
            self.skipped_batches.look_at(self.accelerator.reduce(has_rows.to(self.accelerator.device)))
        return batches, num_items

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in `ComaTrainer`; the loss is that of the steps that had rows."""
        super().log(self.skipped_batches.corrected(logs), start_time)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader:
        """As in `Trainer`, of batches that say which rows they have."""
        dataset = eval_dataset if isinstance(eval_dataset, str) else numbered_for_evaluation(eval_dataset)
        return self._with_numbers(super().get_eval_dataloader, dataset)

    def get_test_dataloader(self, test_dataset: Any) -> torch.utils.data.DataLoader:
        """As in `Trainer`, of batches that say which rows they have."""
        return self._with_numbers(super().get_test_dataloader, numbered_for_evaluation(test_dataset))

    def _with_numbers(self, make: Any, dataset: Any) -> torch.utils.data.DataLoader:
        training, self.data_collator = self.data_collator, self.evaluation_collator
        try:
            return make(dataset)
        finally:
            self.data_collator = training
