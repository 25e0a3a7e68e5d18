"""The processor of the study: all images have one size, so that a batch of them is cut into patches at one time."""

from __future__ import annotations

from typing import Any

import numpy as np

from modeling_coma import ComaProcessor


class WorldProcessor(ComaProcessor):
    """A [`ComaProcessor`] for arrays of one size, which it neither resizes nor decodes."""

    @classmethod
    def of(cls, processor: ComaProcessor) -> WorldProcessor:
        """A twin of a processor, whose tokenizer, image processor and settings it shares."""
        fast = cls.__new__(cls)
        fast.__dict__.update(processor.__dict__)
        return fast

    def process_images(self, images: list, rows: list[int], **images_kwargs: Any) -> list[dict[str, np.ndarray]]:
        """As in [`ComaProcessor`], a batch at a time."""
        pixels = np.stack(images).astype(np.float32) / 127.5 - 1
        patch, merge = self.image_processor.patch_size, self.image_processor.merge_size
        number, side = len(pixels), pixels.shape[1] // patch
        blocks = pixels.reshape(number, side // merge, merge, patch, side // merge, merge, patch, 3)
        patches = blocks.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(number * side**2, -1)
        tokens = np.full((side // merge) ** 2, self.tokenizer.convert_tokens_to_ids(self.image_token))
        grid = np.array([[1, side, side]])
        return [
            {"input_ids": tokens, "pixel_values": part, "image_grid_thw": grid} for part in np.split(patches, number)
        ]
