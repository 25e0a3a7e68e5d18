"""A page of queries and what they found, for a person to look at."""

from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor


__all__ = ["draw_page"]

QUERIES = 7
RIGHT, WRONG = "#1a7f37", "#6e7781"


def draw_page(path: Path, unseen: Any, other: Any, images: Tensor, names: Tensor, others: Tensor) -> None:
    r"""
    Draws some queries of each task with their five nearest candidates, the right one in green.

    Args:
        path (`Path`):
            Where the PNG goes.
        unseen, other (`EmojiRetrieval`):
            The emoji in the style of the queries, and in that of the candidates of image-to-image search.
        images, names, others (`torch.FloatTensor` of shape `(num_emoji, hidden_size)`):
            Embeddings of the images and the names of `unseen`, and of the images of `other`.
    """
    step = len(unseen.names) // QUERIES
    shown = range(step // 2, step * QUERIES, step)  # spread over the groups, chosen before anything is known
    searches = {
        "An image of the unseen style finds names": (unseen.images, images, unseen.names, names),
        "A name finds images of the unseen style": (unseen.names, names, unseen.images, images),
        "An image of the unseen style finds images of another": (unseen.images, images, other.images, others),
    }
    figure = Figure(figsize=(12, 3 * (QUERIES + 1)), dpi=80)
    for part, (title, search) in zip(figure.subfigures(3, 1), searches.items(), strict=True):
        queries, query_embeddings, candidates, candidate_embeddings = search
        nearest = (query_embeddings @ candidate_embeddings.T).topk(5).indices.tolist()
        part.suptitle(title, fontsize=14, fontweight="bold")
        part.subplots_adjust(left=0.02, right=0.98, top=0.93, bottom=0.01)
        axes = part.subplots(QUERIES, 6, gridspec_kw={"wspace": 0.08, "hspace": 0.12})
        for row, query in zip(axes, shown, strict=True):
            _draw(row[0], queries[query], "black")
            for axis, candidate in zip(row[1:], nearest[query], strict=True):
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
