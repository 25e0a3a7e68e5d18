"""Options of a call of the processor: each acts, or is refused."""

import reprlib
from typing import Any

import numpy as np


# What an option of a call may be.
OPTIONS = {
    "compression_instruction": (None, False, True),
    "padding": (None, True, "longest"),
    "padding_side": (None, "left", "right"),
    "return_tensors": (None, "pt", "np"),
    "truncation": (None, True, False, "longest_first", "do_not_truncate"),
}
# sentence-transformers passes settings of modalities that there are not.
WITHOUT_EFFECT = {"videos_kwargs": (None, {}), "audio_kwargs": (None, {}, {"padding": True})}
# Others of the image processor do nothing to these images, or belong to the model, as the size of its patches.
IMAGE_OPTIONS = {"size", "resample", "do_resize", "do_rescale", "rescale_factor", "do_normalize"}
IMAGE_OPTIONS |= {"image_mean", "image_std", "device"}


def is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_pixel_budget(image_processor: Any, size: Any):
    try:
        least, most = size["shortest_edge"], size["longest_edge"]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(f"size={size!r} lacks shortest_edge and longest_edge, in pixels of an image.") from error
    side = image_processor.patch_size * image_processor.merge_size
    if not (is_int(least) and is_int(most) and 1 <= least <= most >= side**2):
        raise ValueError(f"The pixel budget, {size}, does not hold an image token, which is {side}x{side} pixels.")


def check_image_options(image_processor: Any, options: dict):
    """Raises `TypeError` for an option that does nothing in a call, and `ValueError` for a bad pixel budget."""
    if unknown := sorted(options.keys() - IMAGE_OPTIONS):
        raise TypeError(f"images_kwargs: there are no {unknown} to be set in a call, but {sorted(IMAGE_OPTIONS)}.")
    if "size" in options:
        check_pixel_budget(image_processor, options["size"])


def call_options(kwargs: dict) -> dict:
    """Options of a call, alone or in the groups of transformers. What would do nothing is refused."""
    options = {}
    for group in (kwargs.pop("text_kwargs", None), kwargs.pop("common_kwargs", None), kwargs):
        for name, value in (group or {}).items():
            if options.setdefault(name, value) != value:
                raise ValueError(f"{name} is given twice: {options[name]!r} and {value!r}.")
    options = {name: value for name, value in options.items() if value not in WITHOUT_EFFECT.get(name, ())}
    for name, value in options.items():
        if name == "max_length":
            if value is not None and not is_int(value):
                raise ValueError(f"max_length={value!r} is no number of tokens.")
        elif name not in OPTIONS or (name == "padding" and value not in OPTIONS[name]):
            known = f"max_length, images_kwargs and {OPTIONS}"
            raise TypeError(f"ComaProcessor has no options [{name}={reprlib.repr(value)}]; it has {known}.")
        elif value not in OPTIONS[name]:
            choices = " or ".join(map(repr, OPTIONS[name]))
            raise ValueError(f"{name}={value!r} does not exist; choose {choices}.")
    return options


__all__ = ["call_options", "check_image_options", "check_pixel_budget", "is_int"]
