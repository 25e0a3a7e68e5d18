"""Inputs without padding: what travels from a collator to a step that cuts it into mini-batches of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any, Self

import torch
from transformers.utils import ModelOutput

from modeling_coma import ComaForEmbedding
from trainers.samplers import pack


__all__ = ["PackedInputs", "encode_images", "select_images"]


@dataclass(frozen=True, eq=False)
class PackedInputs:
    r"""
    Rows of tokens one after the other, with their images one after the other.

    Args:
        input_ids (`torch.LongTensor` of shape `(num_tokens,)`):
            The tokens of all rows.
        lengths (`torch.LongTensor` of shape `(num_rows,)`):
            Tokens of each row.
        images_per_row (`torch.LongTensor` of shape `(num_rows,)`):
            Images of each row.
        pixel_values (`torch.FloatTensor` of shape `(num_patches, patch_dim)`, *optional*):
            The patches of all images; none where no row has an image.
        image_grid_thw (`torch.LongTensor` of shape `(num_images, 3)`, *optional*):
            The sizes of all images, in patches.
    """

    input_ids: torch.LongTensor
    lengths: torch.LongTensor
    images_per_row: torch.LongTensor
    pixel_values: torch.FloatTensor | None = None
    image_grid_thw: torch.LongTensor | None = None

    @classmethod
    def from_batch(cls, batch: dict[str, torch.Tensor], images_per_row: torch.LongTensor) -> Self:
        """Packs a padded batch of the processor, given how many images each row has."""
        batch = dict(batch)
        mask = batch.pop("attention_mask").bool()
        batch["input_ids"] = batch["input_ids"][mask]
        return cls(lengths=mask.sum(dim=1), images_per_row=images_per_row, **batch)

    def to(self, device: torch.device | str, **kwargs: Any) -> Self:
        """The same inputs on another device. Pixels stay where they are: a part of them is moved when it is needed."""
        return self._with(lambda name, tensor: tensor if name == "pixel_values" else tensor.to(device, **kwargs))

    def pin_memory(self) -> Self:
        """The same inputs in page-locked memory, as a data loader asks for."""
        return self._with(lambda name, tensor: tensor.pin_memory())

    def _with(self, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Self:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {name: change(name, tensor) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **changed)

    def images_of(self, rows: torch.LongTensor) -> torch.LongTensor:
        """Numbers of the images of some rows, in the order of the rows."""
        first = self.images_per_row.cumsum(0) - self.images_per_row
        return _ranges(first[rows], self.images_per_row[rows])

    def batch(self, rows: torch.LongTensor, pad_token_id: int, pixels: bool = True) -> dict[str, torch.Tensor]:
        r"""
        A batch of some rows for the model, padded on the left to the longest of them.

        Args:
            rows (`torch.LongTensor` of shape `(batch_size,)`):
                Which rows, in any order.
            pad_token_id (`int`):
                What fills shorter rows.
            pixels (`bool`, *optional*, defaults to `True`):
                Whether `pixel_values` are wanted; not where the features of the images are there already.
        """
        lengths = self.lengths[rows]
        first = (self.lengths.cumsum(0) - self.lengths)[rows]
        width = int(lengths.max())
        column = torch.arange(width, device=lengths.device) - (width - lengths)[:, None]  # negative at padding
        mask = column >= 0
        tokens = self.input_ids[(first[:, None] + column).clamp(min=0)]
        batch = {"input_ids": tokens.masked_fill(~mask, pad_token_id), "attention_mask": mask.long()}
        images = self.images_of(rows)
        if len(images):
            batch["image_grid_thw"] = self.image_grid_thw[images]
            if pixels:
                batch["pixel_values"] = self.pixels_of(images)
        return batch

    def pixels_of(self, images: torch.LongTensor) -> torch.FloatTensor:
        """Patches of some images, where the inputs are."""
        patches = self.image_grid_thw.prod(dim=1)
        rows = _ranges((patches.cumsum(0) - patches)[images], patches[images])
        return self.pixel_values[rows.to(self.pixel_values.device)].to(rows.device, non_blocking=True)


def encode_images(model: ComaForEmbedding, packed: PackedInputs, max_patches: int) -> dict[str, ModelOutput]:
    """What `ComaForEmbedding.encode_images` returns for all images, made of `max_patches` patches at a time."""
    parts = []
    for numbers in pack(packed.image_grid_thw.prod(dim=1).cpu(), max_patches, padded=False):
        images = torch.tensor(numbers, device=packed.image_grid_thw.device)
        output = model.encode_images(packed.pixels_of(images), packed.image_grid_thw[images])["image"]
        output.last_hidden_state = None  # before merging, several times as large and needed no more
        parts.append(_features(output))
    features = [tuple(chain.from_iterable(of_layer)) for of_layer in zip(*parts, strict=True)]
    return {"image": _with_features(output, features)}


def select_images(outputs: dict[str, ModelOutput], images: torch.LongTensor) -> dict[str, ModelOutput]:
    """What [`encode_images`] returned, for some of its images; empty for none."""
    numbers = images.tolist()
    if not numbers:
        return {}
    features = [tuple(of_layer[number] for number in numbers) for of_layer in _features(outputs["image"])]
    return {"image": _with_features(outputs["image"], features)}


def _features(output: ModelOutput) -> list[tuple[torch.Tensor, ...]]:
    """Features of each image: those at the end of the tower and, of Qwen3-VL, those of several of its layers."""
    return [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]


def _with_features(output: ModelOutput, features: list[tuple[torch.Tensor, ...]]) -> ModelOutput:
    output = copy.copy(output)
    output.pooler_output, *layers = features
    if layers:
        output.deepstack_features = layers
    return output


def _ranges(first: torch.LongTensor, lengths: torch.LongTensor) -> torch.LongTensor:
    """`first[0], first[0] + 1, …` for `lengths[0]` numbers, then the same for the others, as one vector."""
    ends = lengths.cumsum(0)
    offsets = torch.arange(int(ends[-1]) if len(ends) else 0, device=lengths.device)
    return offsets + (first - (ends - lengths)).repeat_interleave(lengths)
