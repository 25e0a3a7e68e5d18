"""Words of others in Markdown: names of data, models and metrics stay text, whatever signs are in them."""

import re
from typing import Any

from hub_scripts.hub.public_names import CONTROL


__all__ = ["code", "plain", "row"]

# Underscores within a word, as in `learning_rate`, are no mark-up.
MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_+|_+(?!\w)")
HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def plain(value: Any) -> str:
    """A value as text on one line that means in Markdown, HTML and a table what it says."""
    text = CONTROL.sub(" ", str(value)).strip()
    text = MARKUP.sub(lambda found: "".join(f"\\{sign}" for sign in found[0]), text)
    return re.sub("[&<>]", lambda found: HTML[found[0]], text)


def code(value: Any) -> str:
    """A value as a code span, where nothing is mark-up but the end of the span."""
    text = CONTROL.sub(" ", str(value)).strip() or " "
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"


def row(*cells: str) -> str:
    """A row of a table, of cells that are Markdown already."""
    return f"| {' | '.join(cells)} |"
