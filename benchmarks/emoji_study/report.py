"""Tables and plots of a study, from the files of its runs."""

import json
import statistics
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.emoji_study.arms import CLAIM, STUDIES, Arm
from benchmarks.emoji_study.results import Results, spread
from benchmarks.reranking import BUDGETS
from benchmarks.reranking_report import draw_bytes, table_of_reranking


COLUMNS = ("name P@1", "name R@10", "image P@1", "new P@1", "uniformity", "alignment")


def write_report(study: str, folder: Path) -> None:
    """Writes what can be written from the runs that there are: `STUDY.md`, and for some studies plots."""
    results: Results = {}
    for path in sorted((folder / "runs").glob("*.json")):
        results.setdefault(path.stem.rpartition(" ")[0], []).append(json.loads(path.read_text()))
    tables = {title: [arm for arm in arms if arm.key in results] for title, arms in STUDIES[study].items()}
    make = {"late": table_of_budgets, "rerank": table_of_ways}.get(study, table)
    text = "\n".join(make(title, arms, results) for title, arms in tables.items() if arms)
    (folder / f"{study}.md").write_text(text, encoding="utf-8")
    print(text)
    if study == "claim":
        draw_curves(tables["The claim"], results).savefig(folder / "curves.png", dpi=120)
        draw_ablations(tables, results).savefig(folder / "ablations.png", dpi=120)
    if study == "rerank":
        draw_bytes(examined(tables["Reranking"], results)).savefig(folder / "bytes.png", dpi=120)


def table(title: str, arms: list[Arm], results: Results) -> str:
    """Mean and standard deviation over the seeds."""
    lines = [f"| {title} | {' | '.join(COLUMNS)} | CPU s | seeds |", "|---" * (len(COLUMNS) + 3) + "|"]
    for arm in arms:
        runs = results[arm.key]
        cells = [spread([run[column] for run in runs], 1 if "@" in column else 2) for column in COLUMNS]
        seconds = statistics.mean(sum(run["seconds"].values()) for run in runs)
        lines.append(f"| {arm.name} | {' | '.join(cells)} | {seconds:.0f} | {len(runs)} |")
    return "\n".join(lines) + "\n"


def table_of_ways(title: str, arms: list[Arm], results: Results) -> str:
    """What reranking gives, and what the bytes of an image are worth."""
    return table_of_reranking(f"{title}, name to image", examined(arms, results))


def examined(arms: list[Arm], results: Results) -> Results:
    """What was found of each model, once for each seed; a stage 1 that came before has a row of its own."""
    found = {}
    for arm in arms:
        runs = results[arm.key]
        if runs[0]["before"]:
            found[f"{arm.name.partition(',')[0]} alone"] = [run["before"]["reranking"] for run in runs]
        found[arm.name] = [run["reranking"] for run in runs]
    return found


def table_of_budgets(title: str, arms: list[Arm], results: Results) -> str:
    """P@1 of one vector and of each budget, a table for each task."""
    tables = []
    for task in ("name", "image", "new"):
        lines = [f"| {title}, {task} P@1 | one vector | {' | '.join(BUDGETS)} | CPU s | seeds |"]
        lines.append("|---" * (len(BUDGETS) + 4) + "|")
        for arm in arms:
            runs = results[arm.key]
            cells = [spread([run[f"{task} P@1"] for run in runs], 1)]
            for budget in BUDGETS:
                cells.append(spread([run["budgets"][budget][task] for run in runs], 1) if arm.budgets else "–")
            seconds = statistics.mean(sum(run["seconds"].values()) for run in runs)
            lines.append(f"| {arm.name} | {' | '.join(cells)} | {seconds:.0f} | {len(runs)} |")
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def draw_curves(arms: list[Arm], results: Results) -> Figure:
    """P@1 in the course of stage 2, against all processor time, that of stage 1 included."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for arm in arms:
        runs = results[arm.key]
        steps = [step for step, _ in runs[0]["curve"]]
        precision = [[run["curve"][point][1] for run in runs] for point in range(len(steps))]
        stage_1, stage_2 = (statistics.mean(run["seconds"][s] for run in runs) for s in ("compression", "contrastive"))
        seconds = [stage_1 + stage_2 * step / steps[-1] for step in steps]
        error = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in precision]
        axes.errorbar(seconds, [statistics.mean(values) for values in precision], error, label=arm.name, capsize=3)
    axes.set(xlabel="processor seconds, stage 1 included", ylabel="P@1 among every fourth name, unseen style (%)")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def draw_ablations(tables: dict[str, list[Arm]], results: Results) -> Figure:
    """One panel for each table but the first."""
    titles = [title for title in CLAIM if title != "The claim" and tables[title]]
    figure = Figure(figsize=(5 * len(titles), 4.5), layout="constrained")
    for axes, title in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles, strict=True):
        _bars(axes, title, tables[title], results)
    return figure


def _bars(axes: Axes, title: str, arms: list[Arm], results: Results) -> None:
    values = [[run["name P@1"] for run in results[arm.key]] for arm in arms]
    error = [statistics.stdev(several) if len(several) > 1 else 0.0 for several in values]
    axes.bar(range(len(arms)), [statistics.mean(several) for several in values], yerr=error, capsize=4)
    axes.set_xticks(range(len(arms)), [arm.name for arm in arms], rotation=30, ha="right", fontsize=8)
    axes.set(title=title, ylabel="P@1, image to name (%)")
