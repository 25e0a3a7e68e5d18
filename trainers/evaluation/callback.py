"""Retrieval during training: how well queries find their documents among all, each time the trainer evaluates."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from trainers.base import ComaTrainer
from trainers.evaluation.retrieval import RetrievalSet, evaluate_set
from trainers.log_lines import shows_bars


__all__ = ["RetrievalCallback"]

logger = logging.get_logger(__name__)

METRICS = {"hit@1": "p@1", "recall@10": "r@10", "ndcg_linear@10": "ndcg@10"}


class RetrievalCallback(TrainerCallback):
    r"""
    Adds `eval_p@1`, `eval_r@10` and `eval_ndcg@10` to every evaluation. The processes share the embedding. Where the
    training skips bad rows, so does this, and `eval_retrieval_rows_skipped` says how many.

    Args:
        trainer ([`ComaContrastiveTrainer`]):
            The trainer that evaluates, with any `eval_dataset`.
        retrieval ([`RetrievalSet`]):
            What is to be found.
        name (`str`, *optional*):
            Tells several sets apart: `eval_NAME_p@1`.

    Example:

        >>> trainer.add_callback(RetrievalCallback(trainer, RetrievalSet.from_rows(held_out)))
    """

    def __init__(self, trainer: ComaTrainer, retrieval: RetrievalSet, name: str | None = None) -> None:
        self.trainer, self.retrieval = trainer, retrieval
        self.prefix = "eval_" if name is None else f"eval_{name}_"
        self.metric_names = [f"{self.prefix}{short}".removeprefix("eval_") for short in METRICS.values()]

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Embeds, ranks and logs; what picks the best checkpoint sees these metrics, too."""
        trainer = self.trainer
        scores, left_out = evaluate_set(
            self.retrieval,
            trainer.coma,
            trainer.processing_class,
            skip_bad_rows=trainer.args.on_bad_row == "skip",
            batch_tokens=trainer.args.mini_batch_tokens,
            description="Retrieval" if shows_bars(trainer.args) else None,
        )
        for reason in left_out:
            logger.warning_once(f"A row of the retrieval is skipped. {reason}")
        logged = {f"{self.prefix}{short}": scores[name] for name, short in METRICS.items()}
        if "rows_skipped" in scores:
            logged[f"{self.prefix}retrieval_rows_skipped"] = scores["rows_skipped"]
        metrics.update(logged)
        trainer.log(logged)
