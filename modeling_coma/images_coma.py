"""Images and videos to what a backbone takes of them, and to the tokens that stand for them.

Each of them is made on its own, so that its tokens and its pixels are the same wherever it stands, and can be kept,
counted and put together at will. What they are, the backbone's own processor says (tiles, thumbnails, breaks, and of
videos times).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image


def make_stock_processor(settings: dict[str, Any], image_processor: Any, tokenizer: Any, what: str = "Images") -> Any:
    """The processor of the backbone from its settings, which [`ComaProcessor`] keeps, with our tokenizer."""
    name = settings["processor_class"]
    try:
        stock = getattr(transformers, name)
        # Those of videos, of sounds.
        parts = {part: settings[part] for part in settings.keys() & set(stock.get_attributes())}
        parts = {part: getattr(transformers, of[f"{part}_type"])(**of) for part, of in parts.items()}
        parts |= {"image_processor": image_processor, "tokenizer": tokenizer}
        return stock(**{key: value for key, value in settings.items() if key != "processor_class"} | parts)
    except ImportError as error:
        why = f"{what} of this backbone need its {name}, and {first_sentence(error)}"
        raise ImportError(f"{why}: install what is missing (`pip install torchvision`).") from error


def first_sentence(error: Exception) -> str:
    """What is wrong, on one line: transformers goes on with where to read about it."""
    return " ".join(str(error).split()).partition(". ")[0].rstrip(".")


def images_by_grid(image_processor: Any, image_token_id: int, images: list[Image.Image], **kwargs: Any) -> list[dict]:
    """Of an image processor that says how many patches an image has: of `merge_size²` of them comes one token."""
    features = image_processor(images, return_tensors="pt", **kwargs)  # which all its backends know
    patches, grids = features["pixel_values"].numpy(), features["image_grid_thw"].numpy()
    counts = grids.prod(axis=1)
    parts = zip(np.split(patches, counts.cumsum()[:-1]), grids, counts // image_processor.merge_size**2, strict=True)
    return [
        {"input_ids": np.full(tokens, image_token_id), "pixel_values": pixels, "image_grid_thw": grid[None]}
        for pixels, grid, tokens in parts
    ]


def images_by_stock(stock: Any, image_token: str, images: list[Image.Image], **kwargs: Any) -> dict[str, np.ndarray]:
    """Of any other: the tokens by which it replaces `image_token`, a row for each image, and all its tensors."""
    # A limit of the tokenizer is one of whole rows.
    text_kwargs = {"add_special_tokens": False, "max_length": None, "padding": len(images) > 1}
    options = {"images_kwargs": kwargs, "text_kwargs": text_kwargs, "return_tensors": "pt"}
    return _as_arrays(stock(images=[[image] for image in images], text=[image_token] * len(images), **options))


def videos_by_stock(
    stock: Any, video_token: str, videos: list[np.ndarray], metadata: list[dict[str, Any]]
) -> dict[str, np.ndarray]:
    """The same of videos whose frames are chosen, `(num_frames, height, width, 3)`, with what is known of them."""
    text_kwargs = {"add_special_tokens": False, "max_length": None, "padding": len(videos) > 1}
    videos_kwargs = {"do_sample_frames": False, "video_metadata": metadata}
    if hasattr(stock.video_processor, "cap_pixels_per_frame"):  # frames have been shrunk to a budget of ours
        videos_kwargs["cap_pixels_per_frame"] = False
    options = {"videos_kwargs": videos_kwargs, "text_kwargs": text_kwargs, "return_tensors": "pt"}
    # Metadata is for the tokens; nothing of it is a tensor.
    made = stock(videos=[[video] for video in videos], text=[video_token] * len(videos), **options)
    return _as_arrays({name: value for name, value in made.items() if isinstance(value, torch.Tensor)})


def _as_arrays(made: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: (value.float() if value.is_floating_point() else value).numpy() for name, value in made.items()}


def join_images(images: list[dict[str, np.ndarray]], axes: dict[str, int]) -> dict[str, np.ndarray]:
    """The tensors of several images as one batch, each along its axis. Where they differ along others, as tiles do in
    number, zeros follow the smaller ones, as they do in a batch of the backbone's own processor. Nothing of none."""
    joined = {}
    axes = axes if images else {}
    for name, axis in axes.items():
        parts = [image[name] for image in images]
        if axis == 0 and (whole := _cut_into(parts)) is not None:
            joined[name] = whole
            continue
        shapes = np.array([part.shape for part in parts])
        shapes[:, axis] = 0
        missing = shapes.max(axis=0) - shapes
        if missing.any():
            parts = [np.pad(part, [(0, size) for size in sizes]) for part, sizes in zip(parts, missing, strict=True)]
        joined[name] = np.concatenate(parts, axis=axis)
    return joined


def _cut_into(parts: list[np.ndarray]) -> np.ndarray | None:
    """The array of which these are all the parts, in their order: large ones need not be copied."""
    whole = parts[0].base
    if not isinstance(whole, np.ndarray) or whole.ndim != parts[0].ndim or not whole.flags.c_contiguous:
        return None
    ends = np.cumsum([0] + [part.nbytes for part in parts]).tolist()
    starts = [part.ctypes.data - whole.ctypes.data if part.base is whole else None for part in parts]
    return whole if [*starts, whole.nbytes] == ends else None


__all__ = ["first_sentence", "images_by_grid", "images_by_stock", "join_images", "make_stock_processor"]
__all__ += ["videos_by_stock"]
