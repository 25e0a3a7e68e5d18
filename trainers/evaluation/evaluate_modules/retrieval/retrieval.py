"""Retrieval metrics as a module of the `evaluate` library, which `evaluate.load` takes from this folder."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import torch

from trainers.evaluation.metrics import Relevance, rank_scores, retrieval_metrics


__all__ = ["Retrieval"]

CITATION = "@misc{coma2025, title={Compression then Matching}, note={arXiv 2511.08480}}"


class Retrieval(evaluate.Metric):
    """
    hit@k (hit@1 is P@1), recall@k, NDCG@k with linear gain, and MRR, from the scores of all candidates of each query.
    Queries may have different numbers of candidates. Documents with the score of a relevant one are ranked before it:
    ties count against the model.
    """

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.List(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=Retrieval.__doc__,
            citation=CITATION,
            inputs_description=Retrieval._compute.__doc__,
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[Sequence[float]],
        cutoffs: Sequence[int] = (1, 5, 10),
    ) -> dict[str, float]:
        """
        Args:
            predictions (`list[list[float]]`): for each query, a score for each of its candidates; higher is better.
            references (`list[list[float]]`): for each query, what each of these is worth to it, 0 for nothing.
            cutoffs (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`): the k.

        Returns:
            `dict[str, float]`: `mrr`, and `hit@k`, `recall@k`, `ndcg@k` for each k: means over the queries.

        Example:

            >>> metric = evaluate.load("trainers/evaluation/evaluate_modules/retrieval")
            >>> metric.compute(predictions=[[0.9, 0.2, 0.4]], references=[[0, 0, 1]], cutoffs=[1, 2])
            {'mrr': 0.5, 'hit@1': 0.0, 'recall@1': 0.0, 'ndcg@1': 0.0, 'hit@2': 1.0, 'recall@2': 1.0, 'ndcg@2': 0.63…}
        """
        for query, (scores, gains) in enumerate(zip(predictions, references, strict=True)):
            if len(scores) != len(gains):
                raise ValueError(
                    f"Query {query} has {len(scores)} scores and {len(gains)} gains: give one for each candidate."
                )
        rows = [torch.tensor(scores, dtype=torch.float64) for scores in predictions]
        scores = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-torch.inf)
        numbers = [range(len(gains)) for gains in references]
        return retrieval_metrics(rank_scores(scores, Relevance.from_lists(numbers, references)), cutoffs)
