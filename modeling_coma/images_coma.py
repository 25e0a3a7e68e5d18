"""Images to what a backbone takes of them, and to the tokens that stand for them.

Every image is made on its own, so that its tokens and its pixels are the same wherever it stands, and can be kept,
counted and put together at will. What they are, the backbone's own processor says (tiles, thumbnails, breaks …).
"""

from typing import Any

import numpy as np
import transformers
from PIL import Image


def make_stock_processor(settings: dict[str, Any], image_processor: Any, tokenizer: Any) -> Any:
    """The processor of the backbone from its settings, which [`ComaProcessor`] keeps, with our tokenizer."""
    settings = dict(settings)
    parts = {"image_processor": image_processor, "tokenizer": tokenizer}
    name = settings.pop("processor_class")
    try:
        if video := settings.pop("video_processor", None):
            parts["video_processor"] = getattr(transformers, video["video_processor_type"])(**video)
        return getattr(transformers, name)(**parts, **settings)
    except ImportError as error:
        raise ImportError(f"Images of this backbone need libraries that are missing ({name}): {error}") from error


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


def image_by_stock(stock: Any, image_token: str, names: list[str], image: Image.Image, **kwargs: Any) -> dict:
    """Of any other: the tokens by which it replaces `image_token`, and the tensors with these `names`."""
    options = {"images_kwargs": kwargs, "text_kwargs": {"add_special_tokens": False}, "return_tensors": "pt"}
    made = stock(images=[[image]], text=[image_token], **options)
    tensors = {name: np.asarray(made[name]) for name in names if name in made}
    return {"input_ids": np.asarray(made["input_ids"][0]), **tensors}


def join_images(images: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The tensors of several images as one batch. Where they differ in size, as tiles do in number, zeros follow the
    smaller ones, as they do in a batch of the backbone's own processor."""
    joined = {}
    for name in images[0].keys() - {"input_ids"}:
        parts = [image[name] for image in images]
        shapes = np.array([(0, *part.shape[1:]) for part in parts])
        missing = shapes.max(axis=0) - shapes
        if missing.any():
            parts = [np.pad(part, [(0, size) for size in sizes]) for part, sizes in zip(parts, missing, strict=True)]
        joined[name] = np.concatenate(parts)
    return joined


def lengths_of(images: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """How much of every tensor each image has, and of `input_ids`, tokens."""
    names = images[0].keys() if images else ()
    return {name: np.array([len(image[name]) for image in images]) for name in names}


__all__ = ["image_by_stock", "images_by_grid", "join_images", "lengths_of"]
__all__ += ["make_stock_processor"]
