"""The name of a key-value cache: `cache` for newer versions of transformers, `past_key_values` for older ones.

Here alone is it decided, by what a function or an output of this version has. The forward of a model, `generate` and
what makes a mask change their names at different times, so each is asked for its own.
"""

import inspect
from collections.abc import Callable, Iterable

from transformers import DynamicCache
from transformers.utils import ModelOutput


def cache_argument(function: Callable) -> str:
    """The argument by which a function takes a cache."""
    return _name(inspect.signature(function).parameters)


def cache_of(output: ModelOutput) -> DynamicCache | None:
    """The cache of an output of a model."""
    return output.get(_name(output.keys()))


def _name(names: Iterable[str]) -> str:
    names = set(names)  # the new one wherever there is no telling, and where both are known
    return "past_key_values" if "past_key_values" in names and "cache" not in names else "cache"


__all__ = ["cache_argument", "cache_of"]
