"""The name of a key-value cache: `cache` for newer versions of transformers, `past_key_values` for older ones.

Here alone is it decided, by what a function of this version takes. The forward of a model, `generate` and what makes a
mask change their names at different times, so each is asked for its own.
"""

from collections.abc import Callable

from .backbone_coma import argument_names


def cache_argument(function: Callable) -> str:
    """The argument by which a function takes a cache: the new one wherever there is no telling, or both are known."""
    names = argument_names(function)
    return "past_key_values" if "past_key_values" in names and "cache" not in names else "cache"


__all__ = ["cache_argument"]
