"""Images in the size in which a model sees them, before its image processor copies all of their pixels about."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from modeling_coma import ComaProcessor
from modeling_coma.backbone_coma import argument_names
from modeling_coma.inputs_coma import open_image, to_rgb


__all__ = ["PictureReader"]

SIZE_ARGUMENTS = {"height", "width", "factor", "min_pixels", "max_pixels"}
# A JPEG decoded at a reduced scale has at least so many pixels along a side for each that is needed.
SPARE = 2
ON_THEIR_SIDE = (5, 6, 7, 8)  # orientations of EXIF by which width and height change places


class PictureReader:
    """
    Decodes images and makes large ones as small as the image processor would, which then finds nothing to resize. It
    would do the same, number for number, but goes through three copies of all pixels of a photograph before.

    Where the image processor resizes in another way (torchvision, tiles, a cache of pixels) images are left to it.

    Args:
        processor ([`ComaProcessor`]): says how large images are seen.
        reduced_jpeg (`bool`, *optional*, defaults to `False`): whether JPEG files are decoded at a half, a quarter or
            an eighth of their scale, where that leaves twice the width and height that are needed. It is faster, and
            not the same: pixels differ by a few levels of 255.

    Raises:
        ValueError: if `reduced_jpeg` cannot act.
    """

    def __init__(self, processor: ComaProcessor, reduced_jpeg: bool = False) -> None:
        self.processor, self.reduced_jpeg = processor, reduced_jpeg
        self.size = _size_finder(processor)
        if reduced_jpeg and self.size is None:
            what = type(processor.image_processor).__name__
            raise ValueError(f"reduced_jpeg cannot act: {what} resizes images in a way of its own. Leave it out.")

    def read(self, image: Any) -> Any:
        """An image in its final size; or what was given, where there is nothing to gain, which the header says, or
        something is wrong."""
        if self.size is None:
            return image
        limit = self.processor.max_image_pixels
        try:
            with open_image(image, 0, limit, self.processor.page_pixels) as opened:
                size = self.size(*opened.size)
                is_final = self.size(*size) == size  # not so of extreme shapes
                if not is_final or size[0] * size[1] >= opened.width * opened.height:
                    return image
                is_on_its_side = opened.getexif().get(ExifTags.Base.Orientation, 1) in ON_THEIR_SIDE
                box = self._reduce(opened, size) if self.reduced_jpeg and opened is not image else None
                rgb = to_rgb(opened, max_pixels=limit)
        except ValueError:  # whoever makes the tensors will say what it is
            return image
        return rgb.resize(size[::-1] if is_on_its_side else size, self.processor.image_processor.resample, box)

    @staticmethod
    def _reduce(opened: Image.Image, size: tuple[int, int]) -> tuple[float, ...] | None:
        """Has a JPEG file decoded at a reduced scale, and says which part of that is the image."""
        if not isinstance(opened, JpegImageFile):
            return None
        is_turned = opened.getexif().get(ExifTags.Base.Orientation, 1) != 1
        if is_turned and (opened.width % 8 or opened.height % 8):  # the last pixels, less than whole ones, come first
            return None
        reduced = opened.draft(None, (SPARE * size[0], SPARE * size[1]))
        return None if is_turned or reduced is None else reduced[1]


def _size_finder(processor: ComaProcessor) -> Callable[[int, int], tuple[int, int]] | None:
    """Gives the width and height in which a model sees an image of some width and height, where that is known."""
    images = processor.image_processor
    find = getattr(sys.modules[type(images).__module__], "smart_resize", None)
    is_known = find is not None and argument_names(find) == SIZE_ARGUMENTS and getattr(images, "backend", "") == "pil"
    if not is_known or processor.stock_processor is not None or not images.do_resize:
        return None
    if type(processor).process_images is not ComaProcessor.process_images:  # it may know images by what they are
        return None
    factor, size = images.patch_size * images.merge_size, images.size

    def final_size(width: int, height: int) -> tuple[int, int]:
        pixels = size["shortest_edge"], size["longest_edge"]
        return find(height, width, factor, *pixels)[::-1]

    return final_size
