"""What is counted during training beside the HF logs: means, rates, inputs seen, and steps without rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


__all__ = ["Meter", "SamplerEpoch", "SeenInputs", "SkippedBatches"]


class Meter(TrainerCallback):
    """Sums of what happened since the last log, on this process; `flush` gives the means over all processes."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._rates: set[str] = set()
        self._sums: dict[str, torch.Tensor] = {}
        self._started = time.perf_counter()

    def add(self, name: str, total: torch.Tensor | float, count: torch.Tensor | float) -> None:
        """Adds to the sum and to the count whose quotient is logged as `name`. Nothing waits for the device."""
        device = self.accelerator.device
        pair = torch.stack([torch.as_tensor(n, dtype=torch.float32, device=device) for n in (total, count)])
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def add_rate(self, name: str, total: torch.Tensor | float) -> None:
        """Adds to what is logged per second as `name`."""
        self._rates.add(name)
        self.add(name, total, 0.0)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._started = time.perf_counter()  # what was before the training does not count for the rates

    def flush(self) -> dict[str, float]:
        """Means and rates since the last flush, but no mean of nothing. Every process must have the same names."""
        seconds, names = time.perf_counter() - self._started, sorted(self._sums)
        sums = self.accelerator.reduce(torch.stack([self._sums[name] for name in names])).tolist() if names else []
        self._sums, self._started = {}, time.perf_counter()
        means = {}
        for name, (total, count) in zip(names, sums, strict=True):
            divisor = seconds if name in self._rates else count
            if divisor:
                means[name] = total / divisor
        return means

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A time that does not count for the rates."""
        began = time.perf_counter()
        yield
        self._started += time.perf_counter() - began


class SamplerEpoch(TrainerCallback):
    """
    Tells the sampler which epoch begins, however deep it is wrapped. `Trainer` does so too, but reaches only two
    wrappers deep, and a training that several processes resume in the middle of an epoch has three.
    """

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs,
    ) -> None:
        sampler = train_dataloader
        while sampler is not None:
            sampler = getattr(sampler, "batch_sampler", getattr(sampler, "sampler", None))
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(int(state.epoch))


class SeenInputs(TrainerCallback, ExportableState):
    """
    Counts the images and tokens that a training has seen: on all processes, and before and after it was resumed.

    Args:
        accelerator (`Accelerator`):
            Adds up what the processes have seen.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.totals = {"images_seen": 0, "tokens_seen": 0}
        self._new = torch.zeros(2, dtype=torch.long, device=accelerator.device)

    def add(self, images: int | torch.Tensor, tokens: int | torch.Tensor) -> None:
        """Counts what this process has seen. Nothing waits for the device."""
        self._new[0] += images
        self._new[1] += tokens

    def state(self) -> dict[str, dict]:
        """What is saved in `trainer_state.json`."""
        return {"args": {}, "attributes": dict(self.totals)}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        saved = state.stateful_callbacks.get(type(self).__name__)
        self.totals |= saved["attributes"] if saved else {}
        self._new.zero_()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if control.should_log or control.should_evaluate or control.should_save:  # on all processes or on none
            images, tokens = self.accelerator.reduce(self._new.clone()).tolist()
            self.totals["images_seen"] += images
            self.totals["tokens_seen"] += tokens
            self._new.zero_()


@dataclass
class _Steps:
    """How many steps there were, and how many of them had no rows."""

    number: int = 0
    empty: int = 0

    def mean(self, loss: float) -> float:
        """The mean over the steps that had rows, of a mean over all steps; NaN if none had."""
        if self.number > self.empty:
            return loss * self.number / (self.number - self.empty)
        return float("nan") if self.number else loss


class SkippedBatches(TrainerCallback):
    """
    A training goes on where all rows of a batch were left out as bad, on one process or on all.

    A batch without rows is a well-formed one that weighs nothing, so that every process runs the same passes and talks
    to the others as often as they do. A step without any row on any process leaves the weights, and what the optimizer
    remembers, as they are. This knows which batches of a step have rows, on all processes together.

    Attributes:
        weight (`float`):
            What the mean of the losses of the batches of a step has to be multiplied by, to be that of the batches
            that have rows.
        is_empty (`bool`):
            Whether no batch of the step has rows.
    """

    def __init__(self) -> None:
        self.weight, self.is_empty = 1.0, False
        self._since_log, self._all = _Steps(), _Steps()

    def look_at(self, has_rows: torch.Tensor) -> None:
        """Takes in, for every batch of the step that begins, on how many processes it has rows, `(num_batches,)`."""
        number = int((has_rows > 0).sum())
        self.weight, self.is_empty = len(has_rows) / max(number, 1), number == 0

    def corrected(self, logs: dict[str, float]) -> dict[str, float]:
        """Logs whose loss is the mean over the steps that had rows; NaN if none had."""
        if "loss" in logs:
            logs = {**logs, "loss": self._since_log.mean(logs["loss"])}
            self._since_log = _Steps()
        if "train_loss" in logs:
            logs = {**logs, "train_loss": self._all.mean(logs["train_loss"])}
        return logs

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **kwargs
    ) -> None:
        if self.is_empty:
            optimizer.zero_grad()  # what has no gradient is left alone: no momentum, no weight decay

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        for steps in (self._since_log, self._all):
            steps.number += 1
            steps.empty += self.is_empty
        self.weight, self.is_empty = 1.0, False

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self._all.number and self._all.number == self._all.empty:
            raise ValueError(
                f"Nothing was trained: in {self._all.number} steps every row was left out as bad. The log says what "
                "is wrong with the first of them; with on_bad_row='raise' the first one is an error."
            )
