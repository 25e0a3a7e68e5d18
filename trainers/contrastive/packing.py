"""Inputs without padding: what travels from a collator to a step that cuts it into mini-batches of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch

from modeling_coma import ComaProcessor
from modeling_coma.images_coma import join_images


__all__ = ["PackedImages", "PackedInputs", "ranges"]


@dataclass(frozen=True, eq=False)
class PackedImages:
    r"""
    What the backbone takes of images, or of videos, one after the other; it stays in the memory of the host.

    Args:
        tensors (`dict[str, torch.Tensor]`):
            By name, those of all of them in one; `input_ids` are the tokens that stand for them.
        lengths (`dict[str, torch.LongTensor]` of shape `(num_images,)`):
            How much of every tensor each image has along its axis.
        axes (`dict[str, int]`):
            Along which axis images follow each other.
    """

    tensors: dict[str, torch.Tensor]
    lengths: dict[str, torch.LongTensor]
    axes: dict[str, int]

    @classmethod
    def of(cls, images: list[dict[str, np.ndarray]], axes: dict[str, int], **tensors: torch.Tensor) -> Self:
        """Packs what the processor made of each image; `tensors` are those that are joined already."""
        missing = {name: axis for name, axis in {"input_ids": 0, **axes}.items() if name not in tensors}
        joined = {name: torch.from_numpy(array) for name, array in join_images(images, missing).items()}
        axes = {**missing, **axes}
        lengths = {name: torch.tensor([one[name].shape[axis] for one in images]) for name, axis in axes.items()}
        return cls({**joined, **tensors}, lengths, axes)

    def pin_memory(self) -> Self:
        """The same in page-locked memory."""
        return replace(self, tensors={name: tensor.pin_memory() for name, tensor in self.tensors.items()})

    def num_features(self, token_id: int) -> torch.LongTensor:
        """How many features of the vision tower each of them has: one for each of its tokens of this id."""
        is_image = self.tensors["input_ids"] == token_id
        before = torch.nn.functional.pad(is_image.cumsum(0), (1, 0))
        ends = self.lengths["input_ids"].cumsum(0)
        return before[ends] - before[ends - self.lengths["input_ids"]]

    def select(
        self, images: torch.LongTensor, device: torch.device, names: Collection[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """The tensors of some of them on a device: those of these names, or all that the backbone takes."""
        images, selected = images.cpu(), {}
        wanted = self.axes.keys() - {"input_ids"}
        for name in wanted if names is None else wanted & names:
            lengths = self.lengths[name]
            places = ranges((lengths.cumsum(0) - lengths)[images], lengths[images])
            of_images = self.tensors[name].index_select(self.axes[name], places)
            selected[name] = of_images.to(device, non_blocking=True)
        return selected


@dataclass(frozen=True, eq=False)
class PackedInputs:
    r"""
    Rows of tokens one after the other, with their images one after the other, and their videos.

    Args:
        input_ids (`torch.LongTensor` of shape `(num_tokens,)`):
            The tokens of all rows.
        lengths (`torch.LongTensor` of shape `(num_rows,)`):
            Tokens of each row.
        images_per_row (`torch.LongTensor` of shape `(num_rows,)`):
            Images of each row.
        videos_per_row (`torch.LongTensor` of shape `(num_rows,)`):
            Videos of each row; those that are images to the backbone are among the images.
        images, videos ([`PackedImages`], *optional*):
            All of them; none where no row has one.
    """

    input_ids: torch.LongTensor
    lengths: torch.LongTensor
    images_per_row: torch.LongTensor
    videos_per_row: torch.LongTensor
    images: PackedImages | None = None
    videos: PackedImages | None = None

    @classmethod
    def from_batch(cls, batch: dict[str, Any], processor: ComaProcessor) -> Self:
        """
        Packs a padded batch.

        Args:
            batch (`dict`): of the processor, with what it made of each image and video (`return_images`).
            processor ([`ComaProcessor`]): knows the axes of their tensors.
        """
        batch = dict(batch)
        mask = batch.pop("attention_mask").bool()
        batch["input_ids"] = batch["input_ids"][mask]
        for kind, axes in (("images", processor.image_inputs), ("videos", processor.video_inputs)):
            made = batch.pop(kind)
            joined = {name: batch.pop(name) for name in axes if name in batch}
            batch[f"{kind}_per_row"] = torch.tensor([len(of_row) for of_row in made])
            if any(made):
                batch[kind] = PackedImages.of(sum(made, []), axes, **joined)
        return cls(lengths=mask.sum(dim=1), **batch)

    def to(self, device: torch.device | str, **kwargs: Any) -> Self:
        """The same inputs on another device. Images stay where they are: a part of them is moved when it is needed."""
        return self._with(lambda value: value if isinstance(value, PackedImages) else value.to(device, **kwargs))

    def pin_memory(self) -> Self:
        """The same inputs in page-locked memory, as a data loader asks for."""
        return self._with(lambda value: value.pin_memory())

    def _with(self, change: Callable[[Any], Any]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if value is not None})

    @property
    def visuals(self) -> dict[str, PackedImages]:
        """What there is of images and videos, by the names under which the backbone takes their features."""
        there = {"image": self.images, "video": self.videos}
        return {kind: packed for kind, packed in there.items() if packed is not None}

    def places_of(self, kind: str, rows: torch.LongTensor) -> torch.LongTensor:
        """Numbers of the images, or of the videos, of some rows, in the order of the rows."""
        per_row = self.images_per_row if kind == "image" else self.videos_per_row
        return ranges((per_row.cumsum(0) - per_row)[rows], per_row[rows])

    def batch(
        self, rows: torch.LongTensor, pad_token_id: int, names: Collection[str] | None = None
    ) -> dict[str, torch.Tensor]:
        r"""
        A batch of some rows for the model, padded on the left to the longest of them.

        Args:
            rows (`torch.LongTensor` of shape `(batch_size,)`):
                Which rows, in any order.
            pad_token_id (`int`):
                What fills shorter rows.
            names (`Collection[str]`, *optional*):
                Which tensors of images and videos are wanted, all by default; no pixels where there are features.
        """
        lengths = self.lengths[rows]
        first = (self.lengths.cumsum(0) - self.lengths)[rows]
        width = int(lengths.max())
        column = torch.arange(width, device=lengths.device) - (width - lengths)[:, None]  # negative at padding
        mask = column >= 0
        tokens = self.input_ids[(first[:, None] + column).clamp(min=0)]
        batch = {"input_ids": tokens.masked_fill(~mask, pad_token_id), "attention_mask": mask.long()}
        for kind, packed in self.visuals.items():
            if len(places := self.places_of(kind, rows)):
                batch |= packed.select(places, rows.device, names)
        return batch


def ranges(first: torch.LongTensor, lengths: torch.LongTensor) -> torch.LongTensor:
    """`first[0], first[0] + 1, …` for `lengths[0]` numbers, then the same for the others, as one vector."""
    ends = lengths.cumsum(0)
    offsets = torch.arange(int(ends[-1]) if len(ends) else 0, device=lengths.device)
    return offsets + (first - (ends - lengths)).repeat_interleave(lengths)
