"""The HTML of the page. All that comes from an index or from a person goes through `shown`."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from PIL import Image

from hub_scripts.app_page.pictures import thumbnail
from hub_scripts.app_page.session import Answer, Session
from hub_scripts.common.terminal import one_line
from hub_scripts.embedding.nearest import Hit


__all__ = ["answer_of", "heading", "in_hand", "more_like", "note", "problem", "query", "results", "shown"]

LONGEST = 160  # characters of a text or a path
LONGEST_PROBLEM = 400


def shown(text: object, length: int = LONGEST) -> str:
    """A text as one line of HTML in which nothing is a command to a browser or turns the letters around it."""
    return escape(one_line(" ".join(str(text).split()), length))


def heading(session: Session) -> str:
    """What the page searches."""
    made = session.index.metadata
    facts = [f"{session.num_rows:,} rows", f"{made['dims']:,} dimensions", f"model {shown(made['model'])}"]
    facts = "".join(f"<span>{fact}</span>" for fact in [shown(session.index.path.name), *facts])
    return f'<h1>CoMa <em>compression, then matching</em></h1><p class="facts">{facts}</p>'


def note(text: str) -> str:
    """A quiet line."""
    return f'<p class="note">{shown(text, LONGEST_PROBLEM)}</p>'


def problem(error: Exception) -> str:
    """What went wrong, in one line."""
    return f'<p class="problem" role="alert">{shown(error, LONGEST_PROBLEM)}</p>'


def results(session: Session, hits: Sequence[Hit], asked: str) -> str:
    """Rows that were found, best first, each a button with its number; `asked` is HTML already."""
    cards = "".join(_card(session, rank, hit) for rank, hit in enumerate(hits, 1))
    count = f"{len(hits)} of {session.num_rows:,}"
    return f'<p class="asked">{asked}<span class="count">{count}</span></p><div class="cards">{cards}</div>'


def _card(session: Session, rank: int, hit: Hit) -> str:
    row, share = hit.row, session.pairs.share_below(hit.score)
    name = shown(_name(row))
    bar = "" if share is None else f'<span class="bar"><i style="width:{100 * share:.1f}%"></i></span>'
    lines = [f'<b class="id" title="{name}">{name}</b>']
    for kind in ("text", "image"):
        if row[kind] and row[kind] != _name(row):
            lines.append(f'<span class="{kind}" title="{shown(row[kind], 1000)}">{shown(row[kind])}</span>')
    return (
        f'<button type="button" class="card" data-row="{int(row["row"])}" title="More like {name}">'
        f'{_picture(session, row)}<span class="score"><strong>{hit.score:.3f}</strong><small>{rank}</small></span>'
        f'{bar}<span class="share">{_share(share)}</span>{"".join(lines)}</button>'
    )


def _name(row: dict[str, Any]) -> str:
    return row["id"] or f"row {row['row']}"


def _picture(session: Session, row: dict[str, Any]) -> str:
    if row["image"] is None:
        return f'<span class="picture words">{shown(row["text"] or "no image path in the index")}</span>'
    try:
        return f'<span class="picture"><img alt="" src="{thumbnail(session.pictures.open(row["image"]))}"></span>'
    except ValueError as error:
        return f'<span class="picture missing">not shown: {shown(error)}</span>'


def _share(share: float | None) -> str:
    if share is None:
        return ""
    return "above all random pairs" if share == 1 else f"above {math.floor(1000 * share) / 10:.1f} % of random pairs"


def query(session: Session, words: str, upload: str | None) -> str:
    """What was looked for: an image, words, or both."""
    image = "" if upload is None else f'<img alt="your image" src="{thumbnail(session.given(upload))}">'
    return image + (f"<span>“{shown(words, 80)}”</span>" if words.strip() else "")


def more_like(session: Session, row: dict[str, Any]) -> str:
    """The row that was clicked."""
    try:
        image = f'<img alt="" src="{thumbnail(session.pictures.open(row["image"]))}">' if row["image"] else ""
    except ValueError:  # its card has said why
        image = ""
    return f"{image}<span>more like <b>{shown(_name(row))}</b></span>"


def in_hand(name: str, image: Image.Image) -> str:
    """The image that is asked about."""
    return f'<p class="hand"><img alt="" src="{thumbnail(image)}"><span>{shown(name)}</span></p>'


def answer_of(answer: Answer) -> str:
    """What the memory answers, and from how much."""
    read_from = (
        f"Read from {answer.num_columns} compression tokens, {answer.num_bytes / 1024:,.1f} KB, and nothing else."
    )
    text = shown(answer.text, 2000) or "<i>nothing</i>"
    return f'<p class="answer">{text}</p><p class="note">{read_from}</p>'
