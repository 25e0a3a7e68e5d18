"""Values of a row that a set of MMEB cannot do without."""

from __future__ import annotations

from typing import Any

from trainers.data.faults import describe, fault


__all__ = ["name_in", "text_in", "texts_in"]


def text_in(row: dict[str, Any], column: str) -> str:
    """A text of a row. Raises `ValueError` for anything else, and for an empty one."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise fault(column, describe(value), "a text")
    return value


def texts_in(row: dict[str, Any], column: str) -> list[str]:
    """A list of texts of a row. Raises `ValueError` for anything else, and for an empty one."""
    values = row.get(column)
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise fault(column, describe(values), "a list of texts")
    return values


def name_in(row: dict[str, Any], column: str) -> str:
    """A name in a row, which may be a number. Raises `ValueError` for anything else."""
    value = row.get(column)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text_in(row, column)
