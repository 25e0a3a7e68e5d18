"""What reranking gains and costs, and what an image is worth in the bytes that are kept of it: tables and a figure."""

import math
import statistics
from typing import Any

from matplotlib.figure import Figure

from benchmarks.emoji_study.results import spread


Found = dict[str, list[dict[str, Any]]]  # of each model, once for each seed
WAYS = ("vector", "memory", "full view")
MARKS = {"vector": "o", "several": "s", "memory": "D"}
AWAY = {"vector": 1, "several": -1, "memory": 1}  # names above and below, which are at the same bytes sometimes
POINTS = {"textcoords": "offset points"}


def table_of_reranking(title: str, found: Found) -> str:
    """P@1 of the vector and of both rerankings, seconds of a query, and P@1 of what is kept of an image."""
    lines = [f"| {title} | in the top 20 | {' | '.join(f'{way} P@1' for way in WAYS)} | "]
    lines[0] += "memory, s a query | full view, s a query | of it reading | seeds |"
    lines.append("|---" * (len(WAYS) + 6) + "|")
    for name, runs in found.items():
        cells = [spread([run["in the top"] for run in runs], 1)]
        cells += [spread([run["reranked"][way]["P@1"] for run in runs], 1) for way in WAYS]
        cells += [spread([run["reranked"][way]["seconds"] for run in runs], 3) for way in WAYS[1:]]
        cells.append(spread([run["reading seconds"] for run in runs], 3))
        lines.append(f"| {name} | {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(lines) + "\n\n" + _table_of_kept(found)


def _table_of_kept(found: Found) -> str:
    """A column for each way to keep an image."""
    ways = next(iter(found.values()))[0]["kept"]
    lines = ["| P@1 of what is kept | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    lines.append("| bytes | " + " | ".join(f"{way['bytes']:,.0f}" for way in ways.values()) + " |")
    for name, runs in found.items():
        cells = [spread([run["kept"][way]["P@1"] for run in runs], 1) for way in ways]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_bytes(found: Found) -> Figure:
    """P@1 against the bytes that are kept of an image, of each model."""
    lines = math.ceil(len(found) / 2)
    figure = Figure(figsize=(12, 4 * lines), layout="constrained")
    panels = figure.subplots(lines, 2, squeeze=False).flat
    for axes, (name, runs) in zip(panels, found.items(), strict=False):
        for way, first in runs[0]["kept"].items():
            values = [run["kept"][way]["P@1"] for run in runs]
            error = statistics.stdev(values) if len(values) > 1 else 0.0
            kind = "memory" if way == "memory" else "several" if "vectors" in way else "vector"
            at = first["bytes"], statistics.mean(values)
            axes.errorbar(*at, error, fmt=MARKS[kind], capsize=3, color=f"C{list(MARKS).index(kind)}")
            place = {"ha": "center", "va": "top" if kind == "several" else "bottom", "rotation": 90, "fontsize": 8}
            axes.annotate(way, (at[0], at[1] + AWAY[kind] * error), xytext=(0, 5 * AWAY[kind]), **place, **POINTS)
        axes.set(title=name, xlabel="bytes of an image", ylabel="P@1, text to image (%)", xscale="log")
        axes.margins(x=0.15, y=0.45)
        axes.grid(alpha=0.3)
    return figure
