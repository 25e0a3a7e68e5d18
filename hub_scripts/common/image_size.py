"""How large a model sees images: what its processor says of it, and in words."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from modeling_coma import ComaProcessor


__all__ = ["describe_image_size", "image_size", "image_tokens", "limit_image_pixels"]

ImageSize = list[int] | dict[str, Any]


def image_size(processor: "ComaProcessor") -> ImageSize:
    """Least and most pixels of an image, where these decide; else the size that the backbone's own processor has."""
    size = getattr(processor.image_processor, "size", None) or {}
    if processor.stock_processor is None:
        return [size["shortest_edge"], size["longest_edge"]]
    return {name: value for name, value in dict(size).items() if value is not None}


def describe_image_size(size: ImageSize) -> str:
    """What [`image_size`] gives, in words: "3136 to 200704", or "height 384, width 384"."""
    if isinstance(size, dict):
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in size.items()) or "as the backbone"
    return "{} to {}".format(*size)


def limit_image_pixels(processor: "ComaProcessor", max_image_pixels: int | None) -> None:
    """Has a processor refuse images with more pixels, before they are decoded; `None` changes nothing."""
    if max_image_pixels is None:
        return
    if max_image_pixels < 1:
        raise ValueError(f"max_image_pixels={max_image_pixels} must be 1 or more.")
    processor.max_image_pixels = max_image_pixels


def image_tokens(processor: "ComaProcessor", width: int, height: int) -> int:
    """Tokens of an image of this size."""
    from PIL import Image

    (image,) = processor.process_images([Image.new("RGB", (width, height))], [0])
    return len(image["input_ids"])
