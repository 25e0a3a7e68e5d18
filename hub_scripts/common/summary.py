"""What `coma pretrain` and `coma finetune` say at the end: how far it came, what is wrong, and what is next."""

import shlex
from typing import TYPE_CHECKING, Any

from trainers.log_lines import short_metrics


if TYPE_CHECKING:
    from trainers.base import ComaTrainer


__all__ = ["summary"]


def summary(trainer: "ComaTrainer", has_adapter: bool) -> list[str]:
    """
    Lines about a training that has ended.

    Args:
        trainer ([`ComaTrainer`]): after training.
        has_adapter (`bool`): whether what was saved is an adapter.
    """
    state, history = trainer.state, trainer.state.log_history
    folder = shlex.quote(str(trainer.args.output_dir))
    losses = [entry["loss"] for entry in history if "loss" in entry]
    course = f", loss {losses[0]:.3f} at first and {losses[-1]:.3f} at the end" if losses else ""
    early = "" if state.global_step >= state.max_steps else ", ended early"
    lines = [
        f"trained  {trainer.args.output_dir}",
        f"steps    {state.global_step} of {state.max_steps}{early}, {state.epoch or 0:.2f} epochs{course}",
    ]
    if trainer.args.load_best_model_at_end and state.best_global_step:
        metric = f"eval_{trainer.args.metric_for_best_model.removeprefix('eval_')}"
        best = f"step {state.best_global_step}, {metric} {state.best_metric:.4g}: these weights were saved"
        lines.append(f"best     {best}")
    step, metrics = _last_evaluation(history)
    lines.append(f"metrics  {', '.join(metrics)} (evaluation at step {step})" if metrics else _NOT_EVALUATED)
    lines += [f"warning  {sentence}" for sentence in trainer.findings.sentences]
    return [*lines, f"next     {_next(trainer.stage, folder, has_adapter)}"]


_NOT_EVALUATED = "metrics  none: with --eval_data it would say how well it does on rows that are not trained on"


def _last_evaluation(history: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """The step of the last evaluation, and all metrics that were logged in it, in short form."""
    entries = [entry for entry in history if any(name.startswith("eval_") for name in entry)]
    if not entries:
        return 0, []
    step, metrics = entries[-1]["step"], {}
    for entry in entries:
        metrics |= entry if entry["step"] == step else {}
    return step, short_metrics(metrics)


def _next(stage: str, folder: str, has_adapter: bool) -> str:
    if has_adapter:
        return f"coma merge {folder} NEW_FOLDER"
    if stage == "compression":
        return f"coma finetune --model {folder} --data PAIRS --output_dir NEW_FOLDER"
    return f"coma evaluate {folder} PAIRS --output RESULTS"
