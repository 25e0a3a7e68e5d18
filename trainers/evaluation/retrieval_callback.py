"""Retrieval during training: how well queries find their documents among all, each time the trainer evaluates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from trainers.contrastive.trainer import ComaContrastiveTrainer
from trainers.data.answers import Answers
from trainers.data.items import ContrastiveInput, to_item
from trainers.data.rows import ROW, BadRows
from trainers.encoding.shared import embed_shared
from trainers.evaluation.metrics import Relevance, rank_embeddings, retrieval_metrics
from trainers.evaluation.retrieval import rows_without
from trainers.evaluation_rows import EVALUATION


__all__ = ["RetrievalCallback", "RetrievalSet"]

logger = logging.get_logger(__name__)

METRICS = {"hit@1": "p@1", "recall@10": "r@10", "ndcg@10": "ndcg@10"}


class RetrievalSet(NamedTuple):
    """
    Queries, and the documents that they are to find.

    Args:
        queries, documents (`list[list[dict]]`): as chat messages.
        relevance ([`~trainers.evaluation.metrics.Relevance`]): which documents each query is to find.
        names (`tuple[list[str], list[str]]`, *optional*): what queries and documents are called in messages.
        documents_of (`list[list[int]]`, *optional*): of a set of rows, numbers of the documents in each of them.
        rows_skipped (`int`, *optional*, defaults to 0): rows left out as bad.
    """

    queries: list[list[dict]]
    documents: list[list[dict]]
    relevance: Relevance
    names: tuple[list[str], list[str]] | None = None
    documents_of: list[list[int]] | None = None
    rows_skipped: int = 0

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[dict[str, Any]],
        instructions: dict[str, str] | None = None,
        on_bad_row: str | BadRows = "raise",
    ) -> RetrievalSet:
        """
        The rows of stage 2 as a task: each query is to find, among the positives and hard negatives of all rows, the
        positives of the rows that ask the same, instruction included, and those of their groups. Equal documents are
        one; of equal queries each counts.

        Args:
            rows (`Iterable[dict]`): as for [`ComaContrastiveCollator`]; they may know their number, `row`.
            instructions (`dict[str, str]`, *optional*): those of the training, by source.
            on_bad_row (`str` or [`BadRows`], *optional*, defaults to `"raise"`): `"raise"`, or `"skip"` to leave bad
                rows out and count them.

        Returns:
            `RetrievalSet`

        Raises:
            ValueError: for a row that is bad.
        """
        bad_rows = on_bad_row if isinstance(on_bad_row, BadRows) else BadRows(on_bad_row, EVALUATION)
        queries, names, documents_of, groups, skipped = [], [], [], [], 0
        unique: dict[int, tuple[int, str, ContrastiveInput]] = {}
        for place, row in enumerate(rows):
            number = row.get(ROW, place)
            try:
                query, *documents = _inputs(row, f"Row {number}", (instructions or {}).get(row.get("source")))
            except ValueError as error:
                if bad_rows.policy == "raise":
                    raise
                bad_rows.report(number, str(error))
                skipped += 1
                continue
            for name, one in documents:
                unique.setdefault(one.content, (len(unique), name, one))
            documents_of.append([unique[one.content][0] for _, one in documents])
            queries.append(query[1])
            names.append(query[0])
            groups.append(row.get("group"))
        asked = [one.key for one in queries]
        answers = Answers(asked, [numbers[0] for numbers in documents_of], groups)
        found = {key: sorted(answers.of(key)) for key in dict.fromkeys(asked)}
        documents = [one.messages for _, _, one in unique.values()]
        relevance = Relevance.from_lists([found[key] for key in asked])
        names = (names, [name for _, name, _ in unique.values()])
        return cls([one.messages for one in queries], documents, relevance, names, documents_of, skipped)


def _inputs(row: dict[str, Any], name: str, instruction: str | None) -> list[tuple[str, ContrastiveInput]]:
    """The query of a row, its positive and its negatives, and what they are called."""
    items = [("query", row["query"], instruction), ("positive", row["positive"], None)]
    items += [(f"negative {place}", item, None) for place, item in enumerate(row.get("negatives") or [])]
    return [(f"{name}: {part}", to_item(item, f"{name}: {part}", told)) for part, item, told in items]


class RetrievalCallback(TrainerCallback):
    r"""
    Adds `eval_p@1`, `eval_r@10` and `eval_ndcg@10` to every evaluation. The processes share the embedding. Where the
    training skips bad rows, so does this, and `eval_retrieval_rows_skipped` says how many.

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
        task = self.retrieval
        skip = self.trainer.args.on_bad_row == "skip" and task.documents_of is not None
        named = task.names or ([f"Query {n}" for n in range(len(task.queries))], None)
        bad_queries, queries = self._embed(task.queries, named[0], skip)
        bad_documents, documents = self._embed(task.documents, named[1], skip)
        relevance, skipped = task.relevance, task.rows_skipped
        if bad_queries.any() or bad_documents.any():
            kept = rows_without(relevance, task.documents_of, bad_queries, bad_documents)
            skipped += len(queries) - len(kept.queries)
            queries, documents, relevance = queries[kept.queries], documents[kept.documents], kept.relevance
        found = retrieval_metrics(rank_embeddings(queries, documents, relevance), (1, 10))
        found = {f"{self.prefix}{short}": found[name] for name, short in METRICS.items()}
        found |= {f"{self.prefix}retrieval_rows_skipped": skipped} if skipped else {}
        metrics.update(found)
        self.trainer.log(found)

    def _embed(
        self, items: list[list[dict]], names: list[str] | None, skip: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Which items are bad, and embeddings of all on every process, which has embedded its share of them."""
        trainer, failures = self.trainer, {} if skip else None
        called = (names or [f"Document {n}" for n in range(len(items))]).__getitem__
        options = {"batch_tokens": trainer.args.mini_batch_tokens, "description": "Retrieval"}
        embeddings = embed_shared(
            trainer.coma, trainer.processing_class, items, names=called, failures=failures, **options
        )
        bad = torch.zeros(len(items), dtype=torch.bool)
        for place, reason in (failures or {}).items():
            bad[place] = True
            logger.warning_once(f"A row of the retrieval is skipped. {reason}")
        return bad, embeddings
