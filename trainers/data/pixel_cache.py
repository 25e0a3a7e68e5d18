"""Preprocessed pixels of small data sets, kept so that no image is decoded and resized twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils import logging

from modeling_coma import ComaProcessor
from trainers.data.images import image_key, images_of, without_decoding


__all__ = ["CachingProcessor"]

logger = logging.get_logger(__name__)


class CachingProcessor(ComaProcessor):
    r"""
    A [`ComaProcessor`] that remembers the pixels of every image it has seen. The key is the content of the image,
    so the same image in two stages, two columns or two files is preprocessed once.

    It is for sets that fit into memory: an image takes four bytes for every number that the vision tower gets of it.
    Workers of a data loader begin every epoch with what it has then, and what they add is lost, so fill it first with
    [`~CachingProcessor.fill_from`]. Give it to collators only: what a trainer saves beside its checkpoints is the
    processor itself.

    Example:

        >>> caching = CachingProcessor.of(processor)
        >>> caching.fill_from(dataset, num_workers=2)
        >>> collator = ComaCompressionCollator(caching)
    """

    @classmethod
    def of(cls, processor: ComaProcessor) -> CachingProcessor:
        """A caching twin of a processor, whose tokenizer, image processor and settings it shares."""
        caching = cls.__new__(cls)
        caching.__dict__.update(processor.__dict__)
        caching.pixels = {}  # key -> what `process_images` makes of one image
        return caching

    def process_images(self, images: list, rows: list[int], **images_kwargs: Any) -> list[dict[str, np.ndarray]]:
        """As in [`ComaProcessor`]. Options of a call are part of the key."""
        keys = [(image_key(*pair), str(images_kwargs)) for pair in zip(images, rows, strict=True)]
        first = {key: place for place, key in reversed(list(enumerate(keys))) if key not in self.pixels}
        self.pixels |= self._preprocess([(key, images[i], rows[i]) for key, i in first.items()], **images_kwargs)
        return [self.pixels[key] for key in keys]

    def fill_from(self, dataset: Dataset, num_workers: int = 0) -> None:
        """Preprocesses all images of the rows of either stage beforehand, as [`~CachingProcessor.fill`]."""
        if not isinstance(dataset, Dataset):
            raise ValueError(f"The images of a stream cannot be kept ({type(dataset).__name__}); load a data set.")
        rows = without_decoding(dataset)
        self.fill((image for row in rows for _, image in images_of(row)), num_workers)

    def fill(self, images: Iterable[Any], num_workers: int = 0, batch_size: int = 64) -> None:
        """Preprocesses images beforehand, in `num_workers` processes, with a progress bar. What cannot be decoded
        is left for the collator, which knows its row."""
        keyed = {(image_key(image), "{}"): image for image in images}
        todo = [(key, image, 0) for key, image in keyed.items() if key not in self.pixels]
        loader = DataLoader(todo, batch_size, num_workers=num_workers, collate_fn=self._preprocess_good)
        with tqdm(total=len(todo), desc="Preprocessing", unit="image", disable=not todo) as progress:
            for made in loader:
                self.pixels |= made
                progress.update(min(batch_size, len(todo) - progress.n))

    def _preprocess_good(self, keyed: list[tuple[tuple, Any, int]]) -> dict[tuple, dict[str, np.ndarray]]:
        try:
            return self._preprocess(keyed)
        except ValueError as error:
            if len(keyed) == 1:
                logger.warning(f"An image is not kept: {error}")
                return {}
        return {key: made for one in keyed for key, made in self._preprocess_good([one]).items()}

    def _preprocess(
        self, keyed: list[tuple[tuple, Any, int]], **images_kwargs: Any
    ) -> dict[tuple, dict[str, np.ndarray]]:
        if not keyed:
            return {}
        keys, images, rows = zip(*keyed, strict=True)
        return dict(zip(keys, super().process_images(list(images), list(rows), **images_kwargs), strict=True))
