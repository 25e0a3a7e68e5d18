"""What a frozen vision tower makes of the images of a batch, once, for any mini-batch of their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput

from modeling_coma import ComaForEmbedding
from trainers.contrastive.packing import PackedInputs, ranges
from trainers.samplers import pack


__all__ = ["ImageFeatures", "encode_images"]

# What the language model does not look at, and is several times as large as the features.
OF_THE_TOWER = {"last_hidden_state", "hidden_states", "attentions"}

# A vector for each image token, in their order: one tensor of them, or several.
Features = torch.Tensor | list[torch.Tensor] | tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """
    Features of images, of which some can be taken.

    Args:
        output (`ModelOutput`): those of all images together, each a tensor of shape `(num_features, dim)`, or a list
            with it.
        lengths (`torch.LongTensor` of shape `(num_images,)`): how many each image has.
    """

    output: ModelOutput
    lengths: torch.LongTensor

    def select(self, images: torch.LongTensor) -> dict[str, ModelOutput]:
        """`mm_encoder_outputs` of some images, as if the tower had seen these alone; empty for none."""
        if not len(images):
            return {}
        lengths = self.lengths[images]
        places = ranges((self.lengths.cumsum(0) - self.lengths)[images], lengths)

        def take(features: Features) -> Features:
            if isinstance(features, torch.Tensor):
                return features[places]
            return list(features[0][places].split(lengths.tolist()))

        return {"image": type(self.output)(**_changed(take, self.output))}


def encode_images(model: ComaForEmbedding, packed: PackedInputs, max_tokens: int) -> ImageFeatures:
    """
    The features of all images, made of those of `max_tokens` image tokens at a time.

    Raises:
        ValueError: if they are not as many as the image tokens.
    """
    lengths = packed.images.num_features(model.config.backbone_config.image_token_id)
    device, parts = packed.input_ids.device, []
    for images in pack(lengths, max_tokens, padded=False):
        output = model.encode_images(**packed.images.select(torch.tensor(images), device))["image"]
        parts.append({name: value for name, value in output.items() if name not in OF_THE_TOWER})

    def join(*parts: Features) -> Features:
        is_one = isinstance(parts[0], torch.Tensor)
        joined = torch.cat([one.flatten(0, -2) for part in parts for one in ([part] if is_one else part)])
        if len(joined) != lengths.sum():
            raise ValueError(
                f"The vision tower gives {len(joined)} features for {int(lengths.sum())} image tokens: use the "
                "processor that was made with this model."
            )
        return joined if is_one else [joined]

    return ImageFeatures(type(output)(**_changed(join, *parts)), lengths.to(device))


def _changed(change: Callable[..., Features], *outputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a function makes of the features in outputs of the tower: those at its end and, where the language model
    takes them, those of several of its layers, with the number of a layer beside them or not."""
    values = dict(outputs[0])
    if "pooler_output" in values:
        values["pooler_output"] = change(*(output["pooler_output"] for output in outputs))
    if "deepstack_features" in values:
        layers = zip(*(output["deepstack_features"] for output in outputs), strict=True)
        values["deepstack_features"] = [
            (parts[0][0], change(*(features for _, features in parts))) if _is_numbered(parts[0]) else change(*parts)
            for parts in layers
        ]
    return values


def _is_numbered(layer: Any) -> bool:
    return isinstance(layer, tuple) and isinstance(layer[0], int)
