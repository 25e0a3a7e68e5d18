"""Tables and heat maps of the runs that there are."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from benchmarks.world_study.arms import (
    ARMS,
    FEW,
    FULL,
    LONGEST,
    MANY,
    PAIRS,
    SEVERAL,
    SEVERAL_ARMS,
    UNITS,
    USUAL,
    Arm,
    at_equal_cost,
    both_long,
    plan,
    without,
)
from benchmarks.world_study.questions import ATTRIBUTE_OF_KIND
from benchmarks.world_study.results import missing
from benchmarks.world_study.settings import BACKBONES, USUAL_SIZE


Rows = list[dict[str, Any]]
SEEDS = [0, 1, 2]
TAKEN = [units for units in UNITS if units]
MOST = 20  # points of the scale of colours
MEMORIES = ("states", "cache")
LINES = [("states", 0.25), ("states", 1.0), ("states", 4.0), ("cache", 1.0), ("cache", 4.0)]


def write_report(of_size: dict[str, Rows], folder: Path) -> None:
    """Writes `report.md` and `map.png` from what is there, and says what is missing."""
    rows = of_size[USUAL_SIZE]
    tables = (map_table, gain_table, arm_table, answer_table, several_table)
    text = "\n".join([progress(rows), *(table(rows) for table in tables), size_table(of_size)])
    (folder / "report.md").write_text(text, encoding="utf-8")
    print(text)
    draw_map(rows).savefig(folder / "map.png", dpi=110)


def progress(rows: Rows) -> str:
    """How many runs there are, how many are missing, and which do not count."""
    arms = plan()
    left = len(missing(rows, arms, SEEDS))
    weights = len({row["weights"] for row in rows})
    empty = [f"{row['arm']}, seed {row['seed']}" for row in rows if not row["counts"]]
    text = f"{len(arms) * len(SEEDS) - left} of {len(arms) * len(SEEDS)} runs are there, {left} are missing; "
    text += f"backbones with the same recipe and other weights: {weights}."
    if empty:
        text += f" {len(empty)} do not count, because their tokens carry too little after stage 1: {'; '.join(empty)}."
    return text + "\n"


def of_arm(rows: Rows, arm: Arm, split: str, task: str = "mean") -> dict[tuple[str, int], float]:
    """P@1 by the weights of the backbone and the seed, of runs that count."""
    own = [row for row in rows if row["arm"] == arm.key and row["counts"]]
    return {(row["weights"], row["seed"]): row[split][task] for row in own}


def gains(rows: Rows, arm: Arm, other: Arm, split: str, task: str = "mean") -> list[float]:
    """How many points an arm is better than another, seed by seed from the same backbone."""
    own, others = of_arm(rows, arm, split, task), of_arm(rows, other, split, task)
    return [own[both] - others[both] for both in sorted(own.keys() & others.keys())]


def spread(values: list[float]) -> str:
    """`mean ± standard deviation (number)`."""
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} (1)" if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f} ({len(values)})"


def map_table(rows: Rows) -> str:
    """P@1 of every cell of the map, and of stage 2 alone for the cost of both."""
    lines = [
        "| stage 1 | | " + " | ".join(f"{pairs:,} pairs" for pairs in PAIRS) + " |",
        "|---" * (len(PAIRS) + 2) + "|",
    ]
    settings = {"none": {"stage_1": 0.0}}
    settings |= {f"none, cost of {units:g}": {"stage_1": 0.0, "extra": units} for units in TAKEN}
    settings |= {f"{units:g} through {memory}": {"stage_1": units, "memory": memory} for memory, units in LINES}
    for name, of_line in settings.items():
        for split in ("ind", "ood"):
            cells = [spread(list(of_arm(rows, Arm(pairs, **of_line), split).values())) for pairs in PAIRS]
            lines.append(f"| {name} | {split.upper()} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def gain_table(rows: Rows) -> str:
    """What stage 1 gains in each task that the pairs are about, against each of [`comparisons`]."""
    tasks = ("mean", "description to scene", "question to answer")
    lines = [f"| gain; IND | pairs | against stage 2 alone | {' | '.join(tasks)} |", "|---" * 6 + "|"]
    arms = [Arm(pairs, units, memory=memory) for (memory, units), pairs in itertools.product(LINES, PAIRS)]
    for arm in (*arms, *FULL):
        told = f"{arm.stage_1:g} through {arm.memory}" + (", all weights" if arm.training == "full" else "")
        for against, (one, other) in comparisons(arm).items():
            found = [gains(rows, one, other, "ind", task) for task in tasks]
            if found[0]:
                cells = " | ".join(spread(values) for values in found)
                lines.append(f"| {told} | {arm.pairs:,} | {against} | {cells} |")
    return "\n".join(lines) + "\n"


def comparisons(arm: Arm) -> dict[str, tuple[Arm, Arm]]:
    """Arms with a stage 1, and those that tell what it gains."""
    return {
        "at equal pairs": (arm, without(arm)),
        "at equal cost": (arm, at_equal_cost(arm)),
        "as long as both": (both_long(arm), at_equal_cost(arm)),
    }


def arm_table(rows: Rows) -> str:
    """P@1 of every arm, how much better it is than others with the same backbone, and what its tokens carry."""
    heads = (f"arm, {FEW} pairs", "IND", "OOD", "IND, against no stage 1", "at equal cost", "against stage 1")
    lines = [f"| {' | '.join(heads)} | carried, nats |", "|---" * (len(heads) + 1) + "|"]
    for name, arm in ARMS.items():
        several = [spread(list(of_arm(rows, arm, split).values())) for split in ("ind", "ood")]
        for other in (without(USUAL), at_equal_cost(USUAL), USUAL):
            several.append("" if other == arm else spread(gains(rows, arm, other, "ind")))
        carried = [row["carried"] for row in rows if row["arm"] == arm.key and row["carried"]]
        mean = f"{statistics.mean(one['shuffled'] - one['own'] for one in carried):.2f}" if carried else "–"
        lines.append(f"| {name} | {' | '.join(several)} | {mean} |")
    return "\n".join(lines) + "\n"


def several_table(rows: Rows) -> str:
    """P@1 by the mean and by all states, of models that were trained for both by late interaction."""
    splits = ("ind", "ind, by states", "ood", "ood, by states")
    lines = [f"| stage 1; {FEW} pairs | IND | IND, by states | OOD | OOD, by states |", "|---" * 5 + "|"]
    for name, arm in SEVERAL_ARMS.items():
        cells = [spread(list(of_arm(rows, arm, split).values())) for split in splits]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, other in (("pairs", without(SEVERAL)), ("cost", at_equal_cost(SEVERAL))):
        cells = [spread(gains(rows, SEVERAL, other, split)) for split in splits]
        lines.append(f"| gain, equal {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def size_table(of_size: dict[str, Rows]) -> str:
    """What the longest stage 1 gains with backbones of every size, and what its tokens know before stage 2."""
    heads = ["layers", "width", "stage 1", "right answers", "IND, stage 2 alone", *comparisons(LONGEST[0])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    there = [size for size, rows in of_size.items() if rows]
    for size, arm in itertools.product(there, LONGEST):
        rows, (layers, width) = of_size[size], BACKBONES[size]
        cells = [[row["answers"]["before stage 2"]["mean"] for row in rows if row["arm"] == arm.key]]
        cells.append(list(of_arm(rows, without(arm), "ind").values()))
        cells += [gains(rows, one, other, "ind") for one, other in comparisons(arm).values()]
        told = f"{arm.stage_1:g} through {arm.memory}"
        lines.append(f"| {layers} | {width} | {told} | {' | '.join(spread(values) for values in cells)} |")
    return "\n".join(lines) + "\n"


def answer_table(rows: Rows) -> str:
    """Right answers from the tokens alone, by attribute, before stage 2 and after it, over the seeds."""
    attributes = list(dict.fromkeys(ATTRIBUTE_OF_KIND.values()))
    lines = ["| stage 1; pairs | | mean | " + " | ".join(attributes) + " |", "|---" * (len(attributes) + 3) + "|"]
    for units, pairs, memory in itertools.product((0.0, 1.0, 4.0), (FEW, MANY), MEMORIES):
        arm = Arm(pairs, units, memory=memory)
        of_cell = [row["answers"] for row in rows if row["arm"] == arm.key]
        for moment in ("before stage 2", "after stage 2") if of_cell else ():
            found = [[one[moment]["mean"] for one in of_cell]]
            for name in attributes:
                kinds = [kind for kind, attribute in ATTRIBUTE_OF_KIND.items() if attribute == name]
                found.append([one[moment][kind] for one in of_cell for kind in kinds])
            cells = [f"{statistics.mean(values):.0f}" for values in found]
            told = f"{units:g} through {memory}" if units else "none"
            lines.append(f"| {told}; {pairs:,} | {moment} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_map(rows: Rows) -> Figure:
    """Gain by stage 1, points of P@1 with their standard deviation: IND and OOD, at equal pairs and at equal cost."""
    figure = Figure(figsize=(14, 7), layout="constrained")
    panels = figure.subplots(2, 2)
    comparisons = {"equal pairs": without, "equal cost": at_equal_cost}
    for line, (title, other) in zip(panels, comparisons.items(), strict=True):
        for axes, split in zip(line, ("ind", "ood"), strict=True):
            arms = [[Arm(pairs, units, memory=memory) for pairs in PAIRS] for memory, units in LINES]
            image = _draw_gains(axes, [[gains(rows, arm, other(arm), split) for arm in of_line] for of_line in arms])
            axes.set(title=f"{split.upper()}, gain in P@1 at {title}")
    figure.colorbar(image, ax=panels, label="points of P@1")
    return figure


def _draw_gains(axes: Axes, found: list[list[list[float]]]) -> AxesImage:
    """A cell for each sort of stage 1 and number of pairs."""
    means = [[statistics.mean(values or [float("nan")]) for values in line] for line in found]
    for row, column in itertools.product(range(len(LINES)), range(len(PAIRS))):
        values = found[row][column]
        colour = "white" if abs(means[row][column]) > 0.6 * MOST else "black"
        text = spread(values).replace(" (", "\n(")
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(PAIRS)), [f"{pairs:,}" for pairs in PAIRS])
    axes.set_yticks(range(len(LINES)), [f"{units:g}, {memory}" for memory, units in LINES])
    axes.set(xlabel="contrastive pairs", ylabel="units of stage 1, through")
    return axes.imshow(means, vmin=-MOST, vmax=MOST, cmap="RdBu", aspect="auto")
