"""A page of queries and what they found, for a person to look at."""

from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure


__all__ = ["draw_page"]

QUERIES = 7
TITLES = {
    "image_to_text": "An image of the unseen style finds names",
    "text_to_image": "A name finds images of the unseen style",
    "image_to_image": "An image of the unseen style finds images of another",
}
RIGHT, WRONG = "#1a7f37", "#6e7781"


def draw_page(path: Path, unseen: Any, other: Any, neighbours: dict[str, Any]) -> None:
    r"""
    Draws some queries of each task with their five nearest candidates, the right one in green.

    Args:
        path (`Path`):
            Where the PNG goes.
        unseen, other (`EmojiRetrieval`):
            The emoji in the style of the queries, and in that of the candidates of image-to-image search.
        neighbours (`dict[str, torch.LongTensor]`):
            For each task, the candidates of each query, best first, of shape `(num_queries, 5)`.
    """
    step = len(unseen.names) // QUERIES
    shown = range(step // 2, step * QUERIES, step)  # spread over the groups, chosen before anything is known
    columns = {
        "image_to_text": (unseen.images, unseen.names),
        "text_to_image": (unseen.names, unseen.images),
        "image_to_image": (unseen.images, other.images),
    }
    figure = Figure(figsize=(12, 3 * (QUERIES + 1)), dpi=80)
    for part, (task, (queries, candidates)) in zip(figure.subfigures(3, 1), columns.items(), strict=True):
        part.suptitle(TITLES[task], fontsize=14, fontweight="bold")
        part.subplots_adjust(left=0.02, right=0.98, top=0.93, bottom=0.01)
        axes = part.subplots(QUERIES, 6, gridspec_kw={"wspace": 0.08, "hspace": 0.12})
        for row, query in zip(axes, shown, strict=True):
            _draw(row[0], queries[query], "black")
            for axis, candidate in zip(row[1:], neighbours[task][query].tolist(), strict=True):
                _draw(axis, candidates[candidate], RIGHT if candidate == query else WRONG)
    figure.savefig(path)


def _draw(axis: Axes, content: Any, colour: str) -> None:
    """An image, or a text in its place, with a frame that says what it is."""
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(3 if colour == RIGHT else 1)
    if isinstance(content, str):
        axis.text(0.5, 0.5, fill(content, 16), ha="center", va="center", fontsize=10, color=colour)
    else:
        axis.imshow(content)
