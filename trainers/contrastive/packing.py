"""Inputs without padding: what travels from a collator to a step that cuts it into mini-batches of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

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
    def from_batch(cls, batch: dict[str, torch.Tensor], images_per_row: torch.LongTensor) -> PackedInputs:
        """Packs a padded batch of the processor, given how many images each row has."""
        mask = batch["attention_mask"].bool()
        return cls(
            input_ids=batch["input_ids"][mask],
            lengths=mask.sum(dim=1),
            images_per_row=images_per_row,
            pixel_values=batch.get("pixel_values"),
            image_grid_thw=batch.get("image_grid_thw"),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str, **kwargs: Any) -> PackedInputs:
        """The same inputs on another device. Pixels stay where they are: a part of them is moved when it is needed."""
        return self._with(lambda name, tensor: tensor if name == "pixel_values" else tensor.to(device, **kwargs))

    def pin_memory(self) -> PackedInputs:
        """The same inputs in page-locked memory, as a data loader asks for."""
        return self._with(lambda name, tensor: tensor.pin_memory())

    def _with(self, change: Callable[[str, torch.Tensor], torch.Tensor]) -> PackedInputs:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return PackedInputs(**{n: tensor if tensor is None else change(n, tensor) for n, tensor in tensors.items()})

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
    patches = packed.image_grid_thw.prod(dim=1).cpu()
    outputs = []
    for part in pack(patches, max_patches, padded=False):
        images = torch.tensor(part, device=packed.image_grid_thw.device)
        outputs.append(model.encode_images(packed.pixels_of(images), packed.image_grid_thw[images])["image"])
        outputs[-1].last_hidden_state = None  # before merging, several times as large and needed no more
    whole = outputs[0]
    whole.pooler_output = tuple(chain.from_iterable(output.pooler_output for output in outputs))
    if getattr(whole, "deepstack_features", None) is not None:  # Qwen3-VL: features of several layers
        layers = zip(*(output.deepstack_features for output in outputs), strict=True)
        whole.deepstack_features = [tuple(chain.from_iterable(parts_of_layer)) for parts_of_layer in layers]
    return {"image": whole}


def select_images(features: dict[str, ModelOutput], images: torch.LongTensor) -> dict[str, ModelOutput]:
    """What [`encode_images`] returned, for some of its images; empty for none."""
    numbers = images.tolist()
    if not numbers:
        return {}
    output = copy.copy(features["image"])
    output.pooler_output = tuple(output.pooler_output[number] for number in numbers)
    if getattr(output, "deepstack_features", None) is not None:
        output.deepstack_features = [tuple(layer[number] for number in numbers) for layer in output.deepstack_features]
    return {"image": output}


def _ranges(first: torch.LongTensor, lengths: torch.LongTensor) -> torch.LongTensor:
    """`first[0], first[0] + 1, …` for `lengths[0]` numbers, then the same for the others, as one vector."""
    ends = lengths.cumsum(0)
    offsets = torch.arange(int(ends[-1]) if len(ends) else 0, device=lengths.device)
    return offsets + (first - (ends - lengths)).repeat_interleave(lengths)
