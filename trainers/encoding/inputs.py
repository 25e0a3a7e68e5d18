"""Tensors of batches of tokenized rows, made in this process or in workers, and what is wrong with some rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from modeling_coma import ComaProcessor
from modeling_coma.inputs_coma import to_rgb
from trainers.encoding.pictures import PictureReader
from trainers.encoding.tokenize import ItemReader, TokenizedRow


__all__ = ["Batch", "Fault", "Inputs"]

BAD_ROW = (ValueError, OSError)


class Fault(NamedTuple):
    """
    What is wrong with a row, which a worker cannot call by its name.

    Args:
        message (`str`): what is wrong.
        image (`str`): which image of several it is.
        is_whole (`bool`, *optional*, defaults to `False`): whether that says it all, of a batch for instance.
    """

    message: str
    image: str = ""
    is_whole: bool = False

    def named(self, row: str) -> str:
        """The same about a row with this name."""
        name = f"{row}{self.image}"
        message, replaced = re.subn(r"^Row 0\b", lambda _: name, self.message)
        is_named = replaced or message.startswith(name)  # whoever has read it may have named it
        return message if is_named or self.is_whole else f"{name}: {message.replace(' of row 0', '')}"


class Batch(NamedTuple):
    """
    Rows as the model takes them.

    Args:
        rows (`list[TokenizedRow]`): the rows.
        tensors (`dict[str, torch.Tensor]`): its arguments; none without rows.
        faults (`dict[int, Fault]`): by place, what is wrong with others.
    """

    rows: list[TokenizedRow]
    tensors: dict[str, torch.Tensor]
    faults: dict[int, Fault]


class Inputs(torch.utils.data.Dataset):
    """
    Makes batches.

    Args:
        processor ([`ComaProcessor`]): makes the tensors.
        pictures ([`PictureReader`]): decodes the images.
        items ([`ItemReader`], *optional*): has the images of rows that do not bring them along.
    """

    def __init__(self, processor: ComaProcessor, pictures: PictureReader, items: ItemReader | None = None) -> None:
        self.processor, self.pictures, self.items = processor, pictures, items

    def __getitem__(self, rows: list[TokenizedRow]) -> Batch:
        faults = {row.place: Fault(str(row.error)) for row in rows if row.error is not None}
        rows = [row for row in rows if row.error is None]
        try:
            return Batch(rows, self.process(rows), faults)
        except BAD_ROW:  # somewhere in the batch
            faults |= self.one_by_one(rows, self.process)[1]
        rows = [row for row in rows if row.place not in faults]
        return Batch(rows, self.process(rows), faults)

    def one_by_one(
        self, rows: list[TokenizedRow], act: Callable[[list[TokenizedRow]], Any]
    ) -> tuple[dict[int, Any], dict[int, Fault]]:
        """By place, what comes of each row of a batch, and what is wrong with those of which nothing comes."""
        results, faults = {}, {}
        for row in rows:
            try:
                results[row.place] = act([row])
            except BAD_ROW as error:
                faults[row.place] = Fault(str(error), self._bad_image(row))
        return results, faults

    def process(self, rows: list[TokenizedRow]) -> dict[str, torch.Tensor]:
        """Tensors of some rows."""
        if not rows:
            return {}
        images, videos = self._visuals(rows)
        images = [[self.pictures.read(image) for image in of_row] for of_row in images]
        texts, ids = [row.text for row in rows], [row.ids for row in rows]
        return dict(self.processor(images, texts, videos, text_ids=ids, return_tensors="pt"))

    def _visuals(self, rows: list[TokenizedRow]) -> tuple[list[list[Any]], list[list[Any]]]:
        if self.items is None:
            return [row.images for row in rows], [row.videos for row in rows]
        return self.items.visuals([row.place for row in rows])

    def _bad_image(self, row: TokenizedRow) -> str:
        try:
            (images,), _ = self._visuals([row])
        except BAD_ROW:
            return ""
        for number, image in enumerate(images if len(images) > 1 else ()):
            try:
                to_rgb(image, max_pixels=self.processor.max_image_pixels)
            except ValueError:
                return f", image[{number}]"
        return ""
