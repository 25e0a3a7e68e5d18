"""The curves of a training: `loss.png` beside each checkpoint and in the final folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainers.files import LOSS_PICTURE


__all__ = ["draw_losses"]

RETRIEVAL = ("p@1", "r@10", "ndcg@10")  # as RetrievalCallback calls them
EVALUATION = "eval_"


def draw_losses(history: Sequence[dict[str, Any]], folder: Path) -> None:
    """
    Draws the loss of training and evaluation over the steps, and below it retrieval if it was measured. Without a
    loss in the history nothing is drawn.

    Args:
        history (`Sequence[dict]`):
            The `log_history` of a trainer.
        folder (`Path`):
            Where `loss.png` goes.
    """
    names = dict.fromkeys(name for entry in history for name in entry if name.startswith(EVALUATION))
    losses = {"training": "loss"} | {_label(name): name for name in names if "loss" in name}
    losses = {label: name for label, name in losses.items() if any(name in entry for entry in history)}
    retrieval = {name.removeprefix(EVALUATION): name for name in names if name.endswith(RETRIEVAL)}
    if not losses:
        return
    panels = [("loss", losses)] + ([("retrieval", retrieval)] if retrieval else [])
    figure = Figure(figsize=(7, 1 + 3 * len(panels)), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, curves) in zip(all_axes, panels, strict=True):
        for number, (title, name) in enumerate(curves.items()):
            _draw(axes, history, name, title, f"C{number}")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
    if retrieval:
        all_axes[-1].set_ylim(bottom=0)
    all_axes[-1].set_xlabel("step")
    all_axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(folder / LOSS_PICTURE, dpi=100)


def _label(name: str) -> str:
    """`evaluation`, or what it is the loss with: `evaluation, shuffled tokens`."""
    rest = " ".join(name.removeprefix(EVALUATION).split("_")).replace("loss", "").strip()
    return f"evaluation, {rest}" if rest else "evaluation"


def _draw(axes: Axes, history: Sequence[dict[str, Any]], name: str, title: str, colour: str) -> None:
    points = [(entry["step"], entry[name]) for entry in history if name in entry]
    style: dict[str, Any] = {"marker": "o", "markersize": 4}
    if name == "loss" and len(points) > 1:
        style = {"linewidth": 1}
    elif "loss_" in name:  # with other tokens, or none: it may lie upon the loss, which is to be seen below it
        style = {"linestyle": "--", "linewidth": 1, "marker": "x", "markersize": 5}
    axes.plot(*zip(*points, strict=True), label=title, color=colour, **style)
