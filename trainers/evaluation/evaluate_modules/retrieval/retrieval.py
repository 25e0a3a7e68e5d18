"""Retrieval metrics as a module of the `evaluate` library, which `evaluate.load` takes from this folder."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import torch

from trainers.evaluation.metrics import Relevance, query_metrics, rank_scores


__all__ = ["Retrieval"]

DESCRIPTION = """\
hit@k (hit@1 is P@1), recall@k, NDCG@k with linear gain, and MRR, from the scores of all candidates of each query.
Documents with the score of a relevant one are ranked before it: ties count against the model.
"""
INPUTS = """
Args:
    predictions (`list[list[float]]`): for each query, a score for each of its candidates; higher is better.
    references (`list[list[float]]`): for each query, what each of these is worth to it, 0 for nothing.
    cutoffs (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`): the k.
Returns:
    `mrr`, and `hit@k`, `recall@k`, `ndcg@k` for each k: means over the queries.
Example:
    >>> metric = evaluate.load("trainers/evaluation/evaluate_modules/retrieval")
    >>> metric.compute(predictions=[[0.9, 0.2, 0.4]], references=[[0, 0, 1]], cutoffs=[1, 2])
    {'mrr': 0.5, 'hit@1': 0.0, 'recall@1': 0.0, 'ndcg@1': 0.0, 'hit@2': 1.0, 'recall@2': 1.0, 'ndcg@2': 0.63…}
"""
CITATION = "@misc{coma2025, title={Compression then Matching}, note={arXiv 2511.08480}}"


class Retrieval(evaluate.Metric):
    """Metrics of rankings. Queries may have different numbers of candidates."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.List(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[Sequence[float]],
        cutoffs: Sequence[int] = (1, 5, 10),
    ) -> dict[str, float]:
        lengths = [(len(scores), len(gains)) for scores, gains in zip(predictions, references, strict=True)]
        for row, (found, expected) in enumerate(lengths):
            if found != expected:
                raise ValueError(f"Query {row} has {found} scores and {expected} gains: give one for each candidate.")
        rows = [torch.tensor(scores, dtype=torch.float64) for scores in predictions]
        scores = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-torch.inf)
        numbers = [range(length) for length, _ in lengths]
        metrics = query_metrics(rank_scores(scores, Relevance.from_lists(numbers, references)), cutoffs)
        return {name: values.mean().item() for name, values in metrics.items()}
