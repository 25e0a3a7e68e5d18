"""How a backbone makes tokens and tensors of an image, found by letting its own processor make some."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from os import PathLike
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from modeling_coma.backbone_coma import argument_names
from modeling_coma.images_coma import (
    first_sentence,
    images_by_grid,
    images_by_stock,
    join_images,
    make_stock_processor,
)
from trainers.chat_format import image_placeholder


__all__ = ["CANNOT_MAKE", "growing_axis", "image_format", "load_processors", "processor_settings"]

# What `AutoProcessor` raises where a library is missing, or where a backbone has no processor of its own.
CANNOT_MAKE = (AttributeError, ImportError, OSError, RuntimeError, TypeError, ValueError)
# Of these our processor has its own.
OURS = ("image_processor", "tokenizer", "chat_template", "auto_map")


def load_processors(name_or_path: str | PathLike[str], **hub_kwargs: Any) -> tuple[ProcessorMixin | None, Any]:
    """
    The processor of a backbone and the image processor in it. Without torchvision many of the first cannot be made;
    then there is only the second, of one that counts patches.

    Raises:
        ValueError: if the backbone has no processor of images and texts, or it cannot be made here.
    """
    try:
        stock = AutoProcessor.from_pretrained(name_or_path, **hub_kwargs)
        if not isinstance(stock, ProcessorMixin):
            raise TypeError(f"it is a {type(stock).__name__}, which is none of images and texts")
        return stock, stock.image_processor
    except CANNOT_MAKE as error:
        return None, _image_processor_that_counts(name_or_path, error, **hub_kwargs)


def image_format(
    stock: ProcessorMixin | None, image_processor: Any, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    r"""
    What a [`ComaProcessor`] has to know to show images to a backbone.

    A processor that repeats one token by the size of an image in patches is not needed afterwards: ours does the same,
    and needs no torchvision. Any other is kept by its settings, and made again where images are.

    Args:
        stock, image_processor: what [`load_processors`] has found.
        backbone (`PreTrainedModel`): whose vision tower takes the tensors.
        tokenizer (`PreTrainedTokenizerBase`): of the backbone.

    Returns:
        `dict`: arguments of [`ComaProcessor`]: `image_processor`, `image_token`, `image_placeholder` and, if needed,
        `stock_processor` and `image_inputs`.

    Raises:
        ValueError: if what stands for an image is no token, or tensors of several images cannot be joined.
    """
    if stock is None:
        image_token = tokenizer.convert_ids_to_tokens(backbone.config.image_token_id)
    else:
        image_token = stock.image_token
    if tokenizer.convert_tokens_to_ids(image_token) in (None, tokenizer.unk_token_id):
        raise ValueError(f"{image_token!r}, which stands for an image, is no token of the backbone's tokenizer.")
    common = {
        "image_processor": image_processor,
        "image_token": image_token,
        "image_placeholder": image_placeholder(stock or tokenizer, image_token),
    }
    counts_patches = hasattr(image_processor, "merge_size")
    if stock is None or (counts_patches and _repeats_one_token(stock, image_token, backbone.config.image_token_id)):
        return common
    settings = processor_settings(stock)
    made_again = make_stock_processor(settings, image_processor, tokenizer)
    takes = argument_names(type(backbone.model).get_image_features)
    return {**common, "stock_processor": settings, "image_inputs": _axes(made_again, image_token, takes)}


def _image_processor_that_counts(name_or_path: str | PathLike[str], why: Exception, **hub_kwargs: Any) -> Any:
    """That of a backbone whose processor cannot be made, if it is one that counts patches."""
    try:
        image_processor = AutoImageProcessor.from_pretrained(name_or_path, **hub_kwargs)
    except CANNOT_MAKE:  # for want of the same library
        image_processor = None
    if not hasattr(image_processor, "merge_size"):
        way_out = "install what is missing (torchvision: `pip install coma-embedding[vision]`)"
        raise ValueError(f"{name_or_path}: its processor cannot be made, {first_sentence(why)}: {way_out}.") from why
    return image_processor


def _picture(width: int = 160, height: int = 96) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _axes(stock: ProcessorMixin, image_token: str, takes: Collection[str]) -> dict[str, int]:
    """Along which axis the tensors of several images are joined, of those that the vision tower takes."""
    one, two = (images_by_stock(stock, image_token, [_picture()] * number) for number in (1, 2))
    axes = {name: growing_axis(name, one[name], two[name]) for name in sorted(one.keys() & takes)}
    for size in ((400, 40), (60, 90)):  # of other tiles; of other patches
        pictures = [_picture(), _picture(*size)]
        try:
            theirs = images_by_stock(stock, image_token, pictures)
        except CANNOT_MAKE:  # these two at one time
            continue
        ours = join_images([images_by_stock(stock, image_token, [picture]) for picture in pictures], axes)
        if other := [name for name in axes if not np.array_equal(ours[name], theirs[name])]:
            raise ValueError(
                f"{type(stock).__name__} makes other {other} of two images of different sizes than of each: images "
                "that are made one by one would not be what the vision tower expects."
            )
    return axes


def growing_axis(name: str, one: np.ndarray, two: np.ndarray) -> int:
    """Along which the tensor of two images, or videos, is longer than that of one of them."""
    longer = [axis for axis in range(one.ndim) if two.shape[axis] == 2 * one.shape[axis] != 0]
    if len(longer) != 1 or one.ndim != two.ndim:
        raise ValueError(f"{name} of one has the shape {one.shape}, of two {two.shape}: they cannot be joined.")
    return longer[0]


def _repeats_one_token(stock: ProcessorMixin, image_token: str, image_token_id: int) -> bool:
    """Whether `images_by_grid` gives the same."""
    (ours,) = images_by_grid(stock.image_processor, image_token_id, [_picture()])
    theirs = images_by_stock(stock, image_token, [_picture()])
    theirs["input_ids"] = theirs["input_ids"][0]
    return ours.keys() <= theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def processor_settings(stock: ProcessorMixin) -> dict[str, Any]:
    """By which the same processor can be made: its class, and the arguments that it was made with."""
    arguments = inspect.signature(type(stock)).parameters.keys() - set(OURS)
    settings = stock.to_dict()
    return {name: settings[name] for name in settings if name in arguments or name == "processor_class"}
