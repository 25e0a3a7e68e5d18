"""What a frozen vision tower makes of the images and videos of a batch, once, for any mini-batch of their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers.utils import ModelOutput

from modeling_coma import ComaForEmbedding
from trainers.contrastive.packing import PackedInputs, ranges
from trainers.samplers import pack


__all__ = ["ImageFeatures", "encode_visuals", "select_visuals"]

# What the language model does not look at, and is several times as large as the features.
OF_THE_TOWER = {"last_hidden_state", "hidden_states", "attentions"}

# A vector for each image token, in their order: one tensor of them, or several.
Features = torch.Tensor | list[torch.Tensor] | tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """
    Features of images, or of videos, of which some can be taken.

    Args:
        output (`ModelOutput`): those of all of them together, each a tensor of shape `(num_features, dim)`, or a list
            with it.
        lengths (`torch.LongTensor` of shape `(num_images,)`): how many each has.
    """

    output: ModelOutput
    lengths: torch.LongTensor

    def select(self, images: torch.LongTensor) -> ModelOutput:
        """Those of some of them, as if the tower had seen these alone."""
        lengths = self.lengths[images]
        places = ranges((self.lengths.cumsum(0) - self.lengths)[images], lengths)

        def take(features: Features) -> Features:
            if isinstance(features, torch.Tensor):
                return features[places]
            return list(features[0][places].split(lengths.tolist()))

        return type(self.output)(**_changed(take, self.output))


def encode_visuals(model: ComaForEmbedding, packed: PackedInputs, max_tokens: int) -> dict[str, ImageFeatures]:
    """
    The features of all images (`"image"`) and videos (`"video"`), made of `max_tokens` of their tokens at a time.

    Raises:
        ValueError: if they are not as many as their tokens.
    """
    device, features = packed.input_ids.device, {}
    for kind, there in packed.visuals.items():
        lengths = there.num_features(getattr(model.config.backbone_config, f"{kind}_token_id"))
        encode, parts = getattr(model, f"encode_{kind}s"), []
        for numbers in pack(lengths, max_tokens, padded=False):
            output = encode(**there.select(torch.tensor(numbers), device))[kind]
            parts.append({name: value for name, value in output.items() if name not in OF_THE_TOWER})
        joined = _changed(partial(_join, kind, int(lengths.sum())), *parts)
        features[kind] = ImageFeatures(type(output)(**joined), lengths.to(device))
    return features


def select_visuals(
    features: Mapping[str, ImageFeatures], packed: PackedInputs, rows: torch.LongTensor
) -> dict[str, ModelOutput]:
    """`mm_encoder_outputs` of some rows; empty where none has an image or a video."""
    places = {kind: packed.places_of(kind, rows) for kind in features}
    return {kind: features[kind].select(numbers) for kind, numbers in places.items() if len(numbers)}


def _join(kind: str, expected: int, *parts: Features) -> Features:
    """All features in one tensor, or in a list with it, as those of the parts are."""
    is_one = isinstance(parts[0], torch.Tensor)
    joined = torch.cat([one.flatten(0, -2) for part in parts for one in ([part] if is_one else part)])
    if len(joined) != expected:
        raise ValueError(
            f"The vision tower gives {len(joined)} features for {expected} {kind} tokens: use the processor that was "
            "made with this model."
        )
    return joined if is_one else [joined]


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
