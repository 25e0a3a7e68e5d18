"""How error messages speak of a bad value: what was found in which column, and what was expected."""

from __future__ import annotations

from typing import Any

import PIL.Image


__all__ = ["describe", "fault"]


def fault(column: str, found: str, expected: str) -> ValueError:
    """What is wrong with a value of a row; whoever knows the number of the row puts it before."""
    return ValueError(f"column {column}: found {found}, expected {expected}")


def describe(value: Any) -> str:
    """A value in an error message: its type and its beginning."""
    if value is None:
        return "nothing"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, PIL.Image.Image):  # whose own description is an address in memory
        return f"the image {getattr(value, 'filename', '') or value.size}"
    # A path is of no use without its end.
    try:
        return _cut(repr(value), 400) if isinstance(value, str) else f"{type(value).__name__} {_cut(repr(value), 80)}"
    except RecursionError:
        return f"{type(value).__name__} that is nested too deep to be shown"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
