"""Options of a call of the processor: which there are, in which groups, and what they may be."""

import math
import reprlib
from typing import Any

import numpy as np


# What an option of a call may be.
OPTIONS = {
    "compression_instruction": (None, False, True),
    "return_images": (None, False, True),
    "padding_side": (None, "left", "right"),
    "return_tensors": (None, "pt", "np"),
    "truncation": (None, True, False, "longest_first", "do_not_truncate"),
}
# What others pass, sentence-transformers settings of modalities that there are not, and does nothing. No other value.
WITHOUT_EFFECT = {
    "padding": (None, True, "longest"),
    "videos_kwargs": (None, {}),
    "audio_kwargs": (None, {}, {"padding": True}),
}


def set_limits(processor: Any, **limits: Any) -> None:
    """Sets limits of images and videos. Raises `ValueError` for one that is no number, or below 1, and for no frame
    rate."""
    for name, value in limits.items():
        is_rate = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
        if name == "video_fps" and not is_rate:
            raise ValueError(f"video_fps must be a number of frames a second, got {value!r}.")
        if name != "video_fps" and (not is_int(value) or value < 1):
            raise ValueError(f"{name} must be an int of 1 or more, got {value!r}.")
        setattr(processor, name, value)


def is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def call_options(kwargs: dict) -> dict:
    """Options of a call, alone or in the groups of transformers. What would do nothing is refused."""
    options = {}
    for group in (kwargs.pop("text_kwargs", None), kwargs.pop("common_kwargs", None), kwargs):
        for name, value in (group or {}).items():
            if options.setdefault(name, value) != value:
                raise ValueError(f"{name} is given twice: {options[name]!r} and {value!r}.")
    for name, value in options.items():
        if name == "max_length":
            if value is not None and not is_int(value):
                raise ValueError(f"max_length={value!r} is no number of tokens.")
        elif name in OPTIONS:
            if value not in OPTIONS[name]:
                choices = " or ".join(map(repr, OPTIONS[name]))
                raise ValueError(f"{name}={value!r} does not exist; choose {choices}.")
        elif value not in WITHOUT_EFFECT.get(name, ()):
            known = f"max_length, images_kwargs and {OPTIONS | WITHOUT_EFFECT}"
            raise TypeError(f"ComaProcessor has no options [{name}={reprlib.repr(value)}]; it has {known}.")
    return options


__all__ = ["call_options", "is_int", "set_limits"]
