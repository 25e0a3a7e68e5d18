"""What a training says while it runs: one line for each log, instead of a dict among progress bars.

The lines go to the standard output, on the main process. `log_history`, TensorBoard and the like have what they had.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)


__all__ = ["LogLines", "ProgressBars", "log_in_lines", "say", "short_metrics", "shows_bars"]

# How metrics are called in a line, in the order in which they stand there; others follow under their own names.
SHORT = {
    "loss": "loss",
    "train_loss": "mean loss",
    "loss_shuffled_tokens": "with other tokens",
    "loss_without_tokens": "without tokens",
    "learning_rate": "lr",
    "grad_norm": "grad",
    "answer_accuracy": "accuracy",
    "in_batch_accuracy": "accuracy",
    "positive_similarity": "positive",
    "hardest_negative_similarity": "hardest",
    "document_similarity": "documents alike",
    "temperature": "temp",
    "masked_false_negatives": "masked",
}
# Counts that hardly change from line to line, and what the line says in another way.
NOT_SHOWN = {
    *("step", "epoch", "total_flos", "images_seen", "tokens_seen", "num_documents", "negatives"),
    *("runtime", "samples_per_second", "steps_per_second"),
    *("train_runtime", "train_samples_per_second", "train_steps_per_second"),
}
RATES = {"tokens_per_second": "tokens/s", "images_per_second": "images/s", "pairs_per_second": "pairs/s"}
NOTHING_IF_ZERO = {"masked_false_negatives"}
EVALUATION = "eval_"


def shows_bars(args: TrainingArguments) -> bool:
    """Whether progress bars are drawn: on a terminal, unless `disable_tqdm` says otherwise."""
    return not args.disable_tqdm and sys.stderr is not None and sys.stderr.isatty()


def log_in_lines(trainer: Trainer) -> None:
    """Puts lines in the place of the dicts that a trainer prints by itself; the table of a notebook stays."""
    printers = [one for one in trainer.callback_handler.callbacks if type(one) in (PrinterCallback, ProgressCallback)]
    for printer in printers:
        trainer.remove_callback(printer)
    if printers:
        trainer.add_callback(LogLines())
    if printers and shows_bars(trainer.args):
        trainer.add_callback(ProgressBars())


def say(line: str) -> None:
    """Writes a line at once, above the progress bars if there are any."""
    tqdm.write("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line))
    if sys.stdout is not None:
        sys.stdout.flush()  # of a file that somebody watches


class ProgressBars(ProgressCallback):
    """The bars of transformers without what it writes between them."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Lines are written by [`LogLines`]."""


class LogLines(TrainerCallback):
    """
    Writes a line for each log: where training stands, the loss, the metrics of the stage, its rate, and the time that
    is left at the speed so far.
    """

    def __init__(self) -> None:
        self._started, self._first_step = time.perf_counter(), 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._started, self._first_step = time.perf_counter(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        parts = [_place(logs, state), *short_metrics(logs)]
        runtime = next((value for name, value in logs.items() if name.endswith("runtime")), None)
        if runtime is not None:
            parts.append(f"{runtime:.1f} s")
        elif "loss" in logs:
            parts.append(self._left(state))
        say("  ".join(part for part in parts if part))

    def _left(self, state: TrainerState) -> str:
        done = state.global_step - self._first_step
        if done < 1 or state.global_step >= state.max_steps:
            return ""
        seconds = (time.perf_counter() - self._started) / done * (state.max_steps - state.global_step)
        return f"{tqdm.format_interval(seconds)} left"


def short_metrics(logs: Mapping[str, Any]) -> list[str]:
    """The metrics of a log in short form, such as `loss 2.31` or `120 pairs/s`."""
    named = {name.removeprefix(EVALUATION): value for name, value in logs.items()}
    order = [*(name for name in SHORT if name in named), *(name for name in named if name not in SHORT)]
    shown = [name for name in order if name not in NOT_SHOWN and not name.endswith(tuple(RATES))]
    shown = [name for name in shown if not _is_of_the_clock(name) and (named[name] or name not in NOTHING_IF_ZERO)]
    metrics = [f"{SHORT.get(name, name)} {_number(named[name], name)}" for name in shown]
    return metrics + [f"{_rate(named[name])} {unit}" for name, unit in RATES.items() if name in named]


def _is_of_the_clock(name: str) -> bool:
    """Of one of several evaluation sets, as `eval_NAME_runtime`."""
    return name.endswith(("_runtime", "_samples_per_second", "_steps_per_second"))


def _place(logs: Mapping[str, Any], state: TrainerState) -> str:
    """What the line is about, and the step in which it is."""
    is_evaluation = any(name.startswith(EVALUATION) for name in logs)
    what = "eval" if is_evaluation else "done" if "train_runtime" in logs else "step"
    if not state.max_steps:  # of an evaluation by itself
        return what
    epoch = f"  epoch {state.epoch:.2f}" if state.epoch is not None and not is_evaluation else ""
    return f"{what} {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}{epoch}"


def _number(value: Any, name: str) -> str:
    if not isinstance(value, float):
        return str(value)
    if name == "learning_rate":
        return f"{value:.2e}"
    size = abs(value)
    return f"{value:.3f}" if size == 0 or 1e-3 <= size < 10 else f"{value:.2g}" if size < 1 else f"{value:.4g}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
