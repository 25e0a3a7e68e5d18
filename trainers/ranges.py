"""What values settings may have, said in one line where one has another: numbers in their range, words of a list."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple


__all__ = [
    "AT_LEAST_0",
    "BELOW_1",
    "COUNT",
    "FINITE",
    "POSITIVE",
    "SWITCH",
    "WHOLE",
    "Range",
    "check_choices",
    "check_ranges",
]


class Range(NamedTuple):
    """The values that a setting may have, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


FINITE = Range("a number", _is_number)
POSITIVE = Range("a number above 0", lambda value: _is_number(value) and value > 0)
AT_LEAST_0 = Range("a number from 0", lambda value: _is_number(value) and value >= 0)
BELOW_1 = Range("a number from 0 and below 1", lambda value: _is_number(value) and 0 <= value < 1)
COUNT = Range("a whole number from 1", lambda value: _is_whole(value) and value >= 1)
WHOLE = Range("a whole number from 0", lambda value: _is_whole(value) and value >= 0)
SWITCH = Range("true or false", lambda value: isinstance(value, bool))


def check_ranges(settings: Any, ranges: Mapping[str, Range]) -> None:
    """
    Raises for the first setting that is out of its range.

    Args:
        settings (dataclass instance):
            What has the settings.
        ranges (`Mapping[str, Range]`):
            Range of each; `None` is fine where it is the default.

    Raises:
        ValueError: names the setting, its value, and what it may be.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    for name in ranges.keys() & defaults.keys():
        value = getattr(settings, name)
        if not (value is None and defaults[name] is None) and not ranges[name].holds(value):
            raise ValueError(f"{name} must be {ranges[name].words}, got {value!r}.")


def check_choices(settings: Any) -> None:
    """
    Raises for the first setting that is none of the words of its `Literal`, and for a `bool` that is none.

    Args:
        settings (dataclass instance):
            What has the settings.

    Raises:
        ValueError: names the setting, its value, and the words.
    """
    for name, hint in typing.get_type_hints(type(settings)).items():
        value = getattr(settings, name, None)
        if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
            raise ValueError(f"{name} must be one of {', '.join(typing.get_args(hint))}, got {value!r}.")
        if hint is bool and not SWITCH.holds(value):
            raise ValueError(f"{name} must be {SWITCH.words}, got {value!r}.")
