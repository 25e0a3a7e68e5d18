"""Retrieval during training: how well queries find their documents among all, each time the trainer evaluates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainers.contrastive import ComaContrastiveTrainer
from trainers.contrastive_collator import as_input
from trainers.metrics import Relevance, rank_embeddings, retrieval_metrics
from trainers.shared_encoding import embed_shared


__all__ = ["RetrievalCallback", "RetrievalSet"]

METRICS = {"hit@1": "p@1", "recall@10": "r@10", "ndcg@10": "ndcg@10"}


class RetrievalSet(NamedTuple):
    """
    Queries, and the documents that they are to find.

    Args:
        queries, documents (`list[list[dict]]`): as chat messages.
        relevance ([`~trainers.metrics.Relevance`]): which documents each query is to find.
    """

    queries: list[list[dict]]
    documents: list[list[dict]]
    relevance: Relevance

    @classmethod
    def from_rows(cls, rows: Iterable[dict[str, Any]], instructions: dict[str, str] | None = None) -> RetrievalSet:
        """
        The rows of stage 2 as a task: each query is to find its positive, or those of its `group`, among the positives
        and hard negatives of all rows. Equal documents are one.

        Args:
            rows (`Iterable[dict]`): as for [`ComaContrastiveCollator`].
            instructions (`dict[str, str]`, *optional*): those of the training, by source.

        Returns:
            `RetrievalSet`

        Raises:
            ValueError: for a row that is bad.
        """
        queries, positives, unique, numbers = [], [], {}, {}
        for place, row in enumerate(rows):
            instruction = (instructions or {}).get(row.get("source"))
            queries.append(as_input(row["query"], f"Row {place}: query", instruction))
            positives.append(as_input(row["positive"], f"Row {place}: positive"))
            negatives = [as_input(one, f"Row {place}: negative") for one in row.get("negatives") or []]
            for one in (positives[-1], *negatives):
                unique.setdefault(one.content, one)
            group = place if row.get("group") is None else row["group"]
            numbers.setdefault(group, []).append(place)
        order = {content: number for number, content in enumerate(unique)}
        relevant: list[list[int]] = [[]] * len(queries)
        for places in numbers.values():
            documents = sorted({order[positives[place].content] for place in places})
            for place in places:
                relevant[place] = documents
        documents = [one.messages for one in unique.values()]
        return cls([one.messages for one in queries], documents, Relevance.from_lists(relevant))


class RetrievalCallback(TrainerCallback):
    r"""
    Adds `eval_p@1`, `eval_r@10` and `eval_ndcg@10` to every evaluation. The processes share the embedding.

    Args:
        trainer ([`ComaContrastiveTrainer`]):
            The trainer that evaluates, with any `eval_dataset`.
        retrieval ([`RetrievalSet`]):
            The task.
        name (`str`, *optional*):
            Tells several tasks apart: `eval_NAME_p@1`.

    Example:

        >>> trainer.add_callback(RetrievalCallback(trainer, RetrievalSet.from_rows(held_out)))
    """

    def __init__(self, trainer: ComaContrastiveTrainer, retrieval: RetrievalSet, name: str | None = None) -> None:
        self.trainer, self.retrieval = trainer, retrieval
        self.prefix = "eval_" if name is None else f"eval_{name}_"

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Embeds, ranks and logs; what picks the best checkpoint sees these metrics, too."""
        queries, documents = self._embed(self.retrieval.queries), self._embed(self.retrieval.documents)
        found = retrieval_metrics(rank_embeddings(queries, documents, self.retrieval.relevance), (1, 10))
        found = {f"{self.prefix}{short}": found[name] for name, short in METRICS.items()}
        metrics.update(found)
        self.trainer.log(found)

    def _embed(self, items: list[list[dict]]) -> torch.Tensor:
        """Embeddings of all items on every process, which has embedded its share of them."""
        trainer = self.trainer
        options = {"batch_tokens": trainer.args.mini_batch_tokens, "description": "Retrieval"}
        return embed_shared(trainer.coma, trainer.processing_class, items, **options)
