"""What commands print: text of anybody's making as one harmless line, and a standard output that can be gone.

Texts, names and messages come from tables, file systems and servers. A terminal would obey the control sequences in
them: move its cursor, change its title, show the letters of a line in another order.
"""

import contextlib
import os
import select
import sys
import unicodedata
from typing import TextIO


__all__ = ["drop_unwritten", "flush", "is_read", "one_line", "show_every_letter"]

# Control characters, surrogates and separators of lines, by their category in Unicode …
ESCAPED = frozenset({"Cc", "Cs", "Zl", "Zp"})
# … and what changes the direction of the letters around it, or cannot be seen at all.
DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def one_line(text: object, length: int | None = None) -> str:
    r"""
    A text as one line in which nothing is a command to the terminal.

    Args:
        text (`object`): what is to be shown.
        length (`int`, *optional*): the most characters of it, before any is written in another way; the last one is
            `…` where there are more.

    Returns:
        `str`: the text with `\x1b`, `\n`, `\u202e` … where such a character was.
    """
    text = str(text)
    if length is not None and len(text) > length:
        text = f"{text[: length - 1]}…"
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if unicodedata.category(character) in ESCAPED or character in DIRECTIONS:
        return character.encode("unicode_escape").decode()
    return character


def show_every_letter(stream: TextIO | None) -> None:
    """Lets a stream write letters that its encoding lacks as escapes, as in `LANG=C`, where they would be errors."""
    if stream is not None and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def is_read() -> bool:
    """Whether somebody reads the standard output; after `coma search … | head -1` nobody does."""
    if not hasattr(select, "poll"):  # Windows, where nothing tells
        return False
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # there is none, or one that is no file
        return True
    poll = select.poll()
    poll.register(output, select.POLLOUT)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def flush() -> None:
    """Writes what was printed so far; an `OSError` if that is not possible."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def drop_unwritten() -> None:
    """What was printed and cannot be written goes nowhere: Python would try it again at its end, and complain."""
    try:
        flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # a stream that is no file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
