"""What `coma evaluate` prints at its end: a table of the scores of every set, beside what chance would score."""

from collections.abc import Sequence
from typing import Any

from hub_scripts.evaluation.files import ALL, main_metric
from trainers.data.mmeb.sets import SETS, groups_of


__all__ = ["results_table"]

COLUMNS = {"hit@1": "hit@1", "recall@10": "R@10", "ndcg_linear@10": "NDCG@10"}
MISSING = "-"  # in results of an earlier version


def results_table(results: dict[str, Any]) -> list[str]:
    """
    The results as lines.

    Args:
        results (`dict`): what `results.json` has.

    Returns:
        `list[str]`: of each set the number of queries and of candidates, scores in percent (those above, and the one
        that counts where it is another), and hit@1 of a random order; below it a line for each budget of several
        vectors, 2x4 those of a query and of a document. Then means of the scores that count, of which sets there is
        none for some being absent, and how many rows some scores are not of.
    """
    named = {name: scores for sets in results["metrics"].values() for name, scores in sets.items()}
    columns = {**COLUMNS}
    for name in named:
        columns.setdefault(main_metric(name), main_metric(name).replace("ndcg_linear", "NDCG"))
    rows = [["set", "queries", "candidates", *columns.values(), "chance"]]
    lines_of = [line for name, scores in named.items() for line in _with_budgets(name, scores)]
    for name, scores in lines_of:
        percents = [_percent(scores.get(column)) for column in (*columns, "chance_hit@1")]
        rows.append([name, str(scores.get("num_data", MISSING)), _candidates(scores), *percents])
    lines = _aligned(rows)
    means = [
        [f"{modality}: {group}", "mean", _percent(mean)]
        for modality, means in _all_means(results)
        for group, mean in means.items()
        if mean is not None
    ]
    lines += _aligned(means) if means else []
    lines += _parts_of_wholes(results)
    skipped = {name: scores["rows_skipped"] for name, scores in named.items() if scores.get("rows_skipped")}
    return lines + [f"{name}: {rows} bad rows were left out of its scores" for name, rows in skipped.items()]


def _with_budgets(name: str, scores: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The scores of a set, and of each of its budgets of several vectors."""
    return [(name, scores), *((f"  {budget}", of_budget) for budget, of_budget in scores.get("vectors", {}).items())]


def _all_means(results: dict[str, Any]) -> list[tuple[str, dict[str, float | None]]]:
    """Means by modality, and by modality and budget."""
    of_budgets = [
        (f"{modality}, {budget}", means)
        for budget, its in results.get("vectors", {}).items()
        for modality, means in its["means"].items()
    ]
    return [*results["means"].items(), *of_budgets]


def _parts_of_wholes(results: dict[str, Any]) -> list[str]:
    """What has no mean, since some of its sets were not evaluated."""
    lines = []
    for name, means in results["means"].items():
        if "overall" not in means or means["overall"] is not None:
            continue
        wanted = list(SETS) if name == ALL else groups_of(name)["overall"]
        there = sum(one in sets for sets in results["metrics"].values() for one in wanted)
        lines.append(f"{name}: {there} of {len(wanted)} sets were evaluated, and there is no mean of a part")
    return lines


def _candidates(scores: dict[str, Any]) -> str:
    if "num_candidates" not in scores:
        return MISSING
    least, most = scores["num_candidates"]
    return str(least) if least == most else f"{least}-{most}"


def _percent(score: float | None) -> str:
    """Small ones, as of chance, with a digit more."""
    if score is None:
        return MISSING
    return f"{100 * score:.2f}" if 0 < score < 0.01 else f"{100 * score:.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"{first:<{widths[0]}}", *cells]))
    return lines
