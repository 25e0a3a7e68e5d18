"""The page of `coma evaluate --html`: queries of each set with what they found, right and wrong, in one file."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image

from hub_scripts.common.terminal import one_line
from modeling_coma.inputs_coma import to_rgb
from modeling_coma.videos_coma import Sampling, read_frames
from trainers.evaluation.metrics import COSINE_TOLERANCE, rank_embeddings
from trainers.evaluation.retrieval import RetrievalSet
from trainers.files import whole_file


__all__ = ["ResultsPage"]

QUERIES = 10  # of a set, as many whose first document is right as whose first is wrong
FOUND = 5  # documents of a query
SIDE = 112  # pixels of a thumbnail
FRAMES = 3  # of a video
LONGEST = 240  # characters of a text
MARK = "<!-- coma evaluate --html -->"

HEAD = f"""<!DOCTYPE html>
{MARK}
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>TITLE</title>
<style>
body {{ font: 14px/1.35 system-ui, sans-serif; margin: 2em auto; max-width: 64rem; padding: 0 1em; color: #1f2328; }}
table {{ border-collapse: collapse; }}
td, th {{ border-bottom: 1px solid #d0d7de; padding: .2em .8em .2em 0; text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }}
.query {{ border-bottom: 1px solid #d0d7de; display: flex; flex-wrap: wrap; gap: .6em; padding: .8em 0; }}
.card {{ border: 2px solid #d0d7de; border-radius: 6px; flex: 0 0 {SIDE + 10}px; padding: 4px; }}
.card {{ overflow-wrap: anywhere; }}
.card img {{ display: block; margin: 0 auto .3em; max-width: {SIDE}px; }}
.asked {{ background: #f6f8fa; margin-right: 1em; }}
.right {{ border-color: #1a7f37; }}
.wrong {{ border-color: #cf222e; }}
.note {{ color: #6e7781; font-size: 12px; margin: 0; }}
.right .note {{ color: #1a7f37; }}
</style>
</head>
<body>
<h1>TITLE</h1>
"""


class _Found(NamedTuple):
    """A document of a query: its number, its cosine, whether it is right, and its rank where that is known."""

    document: int
    score: float
    is_right: bool
    rank: int


class ResultsPage:
    """
    Collects sets and writes the page.

    Args:
        path (`str` or `Path`): where it goes; an older page is written anew.
        model (`str`): what the model is called.
        max_pixels (`int`): images that are larger are not decoded.

    Raises:
        ValueError: for a file that is there and is no such page.
    """

    def __init__(self, path: str | Path, model: str, max_pixels: int) -> None:
        self.path, self.model, self.max_pixels = Path(path), model, max_pixels
        self.sections: list[str] = []
        if self.path.is_dir() or (self.path.exists() and MARK.encode() not in self.path.read_bytes()[:200]):
            raise ValueError(f"{self.path} is there already and is no page of coma evaluate: give another --html.")

    def add(self, name: str, retrieval: RetrievalSet, embeddings: torch.Tensor) -> None:
        """
        Adds queries of a set: of those whose first document is right and of those whose first is wrong some that are
        spread over the data, always the same of the same results.

        Args:
            name (`str`): of the set.
            retrieval ([`RetrievalSet`]): the set.
            embeddings (`torch.Tensor` of shape `(len(items), dim)`): of its inputs.
        """
        cards = _Cards(retrieval.items, self.max_pixels)
        queries, documents = embeddings[retrieval.queries], embeddings[retrieval.documents]
        ranking = rank_embeddings(queries, documents, retrieval.relevance, candidates=retrieval.candidates)
        is_first = ranking.ranks[:, 0] == 1
        lines = [f"<h2>{_text(name)}</h2>"]
        for is_right, what in ((False, "wrong"), (True, "right")):
            numbers = (is_first == is_right).nonzero()[:, 0].tolist()
            step = max(1, len(numbers) / QUERIES)
            shown = [numbers[int(place * step)] for place in range(min(QUERIES, len(numbers)))]
            title = f"First document {what}: {len(shown)} of {len(numbers)}, of {len(queries)} queries in all"
            lines.append(f"<h3>{title}</h3>")
            for query in shown:
                found = _found(query, queries, documents, retrieval, int(ranking.ranks[query, 0]))
                lines.append(_query(cards, retrieval, query, found))
        self.sections.append("\n".join(lines))

    def write(self, table: Sequence[str]) -> None:
        """Writes the page, with the table of the scores above the queries, whole or not at all."""
        title = f"What {_text(self.model)} finds"
        content = [HEAD.replace("TITLE", title), f"<pre>{escape(chr(10).join(map(one_line, table)))}</pre>"]
        note = (
            f"Of each query the nearest {FOUND} documents with their cosine, then the best right one if it is another."
        )
        content += [f'<p class="note">{note}</p>', *self.sections, "</body>\n</html>\n"]
        with whole_file(self.path) as file:
            file.write_text("\n".join(content), encoding="utf-8")


def _found(
    query: int, queries: torch.Tensor, documents: torch.Tensor, retrieval: RetrievalSet, best_rank: int
) -> list[_Found]:
    """The nearest documents of a query, a right one after others of its score, and the best right one at the end."""
    numbers = torch.arange(len(documents))
    if retrieval.candidates is not None:
        numbers = retrieval.candidates[query]
        numbers = numbers[numbers >= 0].unique()
    scores = F.normalize(documents[numbers].float(), dim=1) @ F.normalize(queries[query].float(), dim=0)
    is_right = torch.isin(numbers, retrieval.relevance.documents[query])
    order = (scores - COSINE_TOLERANCE * is_right).sort(descending=True, stable=True).indices
    first_right = order[is_right[order]][:1]
    places = [*order[:FOUND].tolist(), *(place for place in first_right.tolist() if place not in order[:FOUND])]
    return [
        _Found(int(numbers[place]), float(scores[place]), bool(is_right[place]), rank if rank <= FOUND else best_rank)
        for rank, place in enumerate(places, 1)
    ]


def _query(cards: "_Cards", retrieval: RetrievalSet, query: int, found: Sequence[_Found]) -> str:
    asked = cards.card(int(retrieval.queries[query]), "asked", f"query {query}")
    answers = [
        cards.card(
            int(retrieval.documents[one.document]),
            "right" if one.is_right else "wrong",
            f"{one.rank}. {'right' if one.is_right else 'wrong'}, {one.score:.3f}",
        )
        for one in found
    ]
    return f'<div class="query">\n{asked}\n{chr(10).join(answers)}\n</div>'


class _Cards:
    """Inputs as HTML; each is made once."""

    def __init__(self, items: Sequence[list[dict]], max_pixels: int) -> None:
        self.items, self.max_pixels = items, max_pixels
        self._contents: dict[int, str] = {}

    def card(self, place: int, kind: str, note: str) -> str:
        """An input in a frame, with a note above it."""
        if place not in self._contents:
            self._contents[place] = "".join(self._content(message) for message in self.items[place])
        return f'<div class="card {kind}"><p class="note">{note}</p>{self._contents[place]}</div>'

    def _content(self, message: dict[str, Any]) -> str:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        shown = {"image": self._image, "video": self._video, "text": _text}
        html = "\n".join(shown[block["type"]](block[block["type"]]) for block in blocks)
        return f'<p class="note">{html}</p>' if message["role"] == "system" else html

    def _video(self, video: Any) -> str:
        """A few of its frames."""
        clip = Sampling(fps=1e6, max_frames=FRAMES, max_pixels=FRAMES * (2 * SIDE) ** 2).clip(
            video, max_image_pixels=self.max_pixels
        )
        frames = read_frames(video, clip, max_image_pixels=self.max_pixels)
        return "\n".join(self._image(frame) for frame in frames)

    def _image(self, image: Any) -> str:
        thumbnail = to_rgb(image, max_pixels=self.max_pixels).copy()  # which may be the image itself
        thumbnail.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        thumbnail.save(buffer, "JPEG", quality=85)
        return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _text(text: str) -> str:
    """A text as one line in which nothing is a command to a browser or changes the direction of the page."""
    return escape(one_line(" ".join(text.split()), LONGEST))
