"""The best checkpoint by a metric (`keep_best`), and the end of a training that gets no better."""

from __future__ import annotations

from typing import Any

from transformers import EarlyStoppingCallback, Trainer, TrainerControl, TrainerState, TrainingArguments


__all__ = ["EarlyStopping", "check_keep_best", "keep_best"]

SAVES = ("steps", 500)  # the defaults of save_strategy and save_steps


def keep_best(args: TrainingArguments) -> None:
    """
    Sets what `keep_best` and `early_stopping_patience` ask for of the settings of transformers, before these are
    checked: the metric, that the best checkpoint is loaded at the end, and that every evaluation leaves a checkpoint.

    Raises:
        ValueError: for settings of transformers that say otherwise.
    """
    if args.keep_best is None and args.early_stopping_patience is not None:
        args.keep_best = (args.metric_for_best_model or "loss").removeprefix("eval_")
    if args.keep_best is None:
        return
    args.keep_best = args.keep_best.removeprefix("eval_")
    name = "early_stopping_patience" if args.early_stopping_patience is not None else "keep_best"
    if _word(args.eval_strategy) == "no":
        raise ValueError(f"{name} needs evaluations: give eval_strategy steps or epoch, and data to evaluate.")
    if (args.metric_for_best_model or args.keep_best).removeprefix("eval_") != args.keep_best:
        raise ValueError(
            f"keep_best={args.keep_best!r} and metric_for_best_model={args.metric_for_best_model!r} are two metrics: "
            "leave one of them out."
        )
    args.metric_for_best_model, args.load_best_model_at_end = args.keep_best, True
    if (_word(args.save_strategy), args.save_steps) == SAVES:
        args.save_strategy = args.eval_strategy
        args.save_steps = args.eval_steps or args.logging_steps  # as transformers takes it for evaluations


def _word(strategy: Any) -> str:
    """A strategy may be a word or one of transformers' own."""
    return str(getattr(strategy, "value", strategy))


def check_keep_best(trainer: Trainer, names: tuple[str, ...]) -> None:
    """
    Raises before a training for a metric that its evaluations would not have.

    Args:
        trainer (`Trainer`):
            With all its callbacks; those that add metrics name them, `metric_names`.
        names (`tuple[str, ...]`):
            What the evaluation of the stage says of quality.

    Raises:
        ValueError: names those that there are.
    """
    metric, sets = trainer.args.keep_best, trainer.eval_dataset
    if metric is None:
        return
    offered = [f"{one}_{name}" for one in sets for name in names] if isinstance(sets, dict) else list(names)
    for callback in trainer.callback_handler.callbacks:
        offered += getattr(callback, "metric_names", ())
    if metric not in offered:
        raise ValueError(f"keep_best={metric!r} is no metric of this evaluation, which has {', '.join(offered)}.")


class EarlyStopping(EarlyStoppingCallback):
    """
    The callback of transformers, which counts an evaluation of several sets once, and goes on counting in a training
    that is resumed.
    """

    def __init__(self, early_stopping_patience: int) -> None:
        super().__init__(early_stopping_patience)
        self._step = -1

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        self.early_stopping_patience_counter = saved.get("early_stopping_patience_counter", 0)
        self._step = -1

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict, **kwargs
    ) -> None:
        if f"eval_{args.metric_for_best_model.removeprefix('eval_')}" in metrics and state.global_step != self._step:
            self._step = state.global_step
            super().on_evaluate(args, state, control, metrics, **kwargs)
