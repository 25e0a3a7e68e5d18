"""What a vision-language backbone has and takes. What it has decides; no family is asked for by its name."""

import functools
import inspect
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput


# What is seen: the types of its tokens, and the names of its pixels.
KINDS = {"image": 1, "video": 2}
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


@functools.lru_cache(maxsize=64)
def argument_names(function: Callable) -> frozenset[str]:
    """Names of the arguments of a function; of a method, as the class has it, for the same function every time."""
    return frozenset(inspect.signature(function).parameters)


def vision_parts(backbone: PreTrainedModel) -> list[str]:
    """Names in `backbone.model` of what is no part of its language model: towers, what projects their features,
    embeddings such as a line break."""
    decoder = backbone.get_decoder()
    parts = [name for name, module in backbone.model.named_children() if module is not decoder]
    return parts + [name for name, _ in backbone.model.named_parameters(recurse=False)]


def vision_parameters(backbone: PreTrainedModel) -> Iterator[torch.nn.Parameter]:
    """Parameters of these parts."""
    parts = set(vision_parts(backbone))
    return (weight for name, weight in backbone.model.named_parameters() if name.split(".")[0] in parts)


def visual_types(backbone: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """1 at the tokens of images, 2 at those of videos, 0 elsewhere."""
    video_token_id = getattr(backbone.config, "video_token_id", None)
    is_video = input_ids == (-1 if video_token_id is None else video_token_id)
    return (input_ids == backbone.config.image_token_id).long() + 2 * is_video.long()


def token_types(backbone: PreTrainedModel, types: Tensor) -> dict[str, Tensor]:
    """These, under the names by which a backbone takes them, if it does."""
    names = argument_names(type(backbone.model).forward) & {"token_type_ids", "mm_token_type_ids"}
    return dict.fromkeys(names, types)


def feature_inputs(backbone: PreTrainedModel, kind: str) -> frozenset[str]:
    """Names of what the vision tower takes of an `"image"` or a `"video"`; none of what there is no way for."""
    find = getattr(type(backbone.model), f"get_{kind}_features", None)
    return frozenset() if find is None else argument_names(find)


def tower_inputs(backbone: PreTrainedModel, visuals: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What the vision tower takes of images and of videos, of those of which there are pixels. Raises `TypeError` for
    what nothing of the backbone takes."""
    takes = {kind: visuals.keys() & feature_inputs(backbone, kind) for kind in KINDS}
    if unknown := visuals.keys() - takes["image"] - takes["video"] - position_inputs(backbone):
        raise TypeError(f"forward() knows no {sorted(unknown)}, and nor does the vision tower of this backbone.")
    return {kind: {name: visuals[name] for name in takes[kind]} for kind in KINDS if PIXELS[kind] in visuals}


def encode_visuals(backbone: PreTrainedModel, kind: str, pixels: Tensor, **others: Tensor) -> ModelOutput:
    """Features of images or videos. A frozen vision tower runs without gradients."""
    trainable = any(parameter.requires_grad for parameter in vision_parameters(backbone))
    with torch.set_grad_enabled(trainable and torch.is_grad_enabled()):
        return getattr(backbone.model, f"get_{kind}_features")(pixels, **others, return_dict=True)


def check_features(types: Tensor, features: dict[str, ModelOutput]) -> None:
    """Raises `ValueError` where there are tokens of images or videos without features."""
    for kind, type_id in KINDS.items():
        if kind not in features and (types == type_id).any():
            what = f"what the processor makes of {kind}s, or `mm_encoder_outputs`"
            raise ValueError(f"{kind.title()} tokens need {what}.")


def count_positions(attention_mask: Tensor) -> Tensor:
    """0, 1, 2, … over the tokens of each row; 0 at padding."""
    return (attention_mask.long().cumsum(dim=1) - 1).masked_fill(attention_mask == 0, 0)


def text_positions(backbone: PreTrainedModel, positions: Tensor) -> Tensor:
    """Position ids of text: `(batch_size, length)`, and thrice that where images have three axes (M-RoPE)."""
    return positions.expand(3, -1, -1) if hasattr(backbone.model, "get_rope_index") else positions


def first_axis(position_ids: Tensor) -> Tensor:
    """Position ids along the only axis, or along the first, time, in which text and compression tokens count on."""
    return position_ids if position_ids.ndim == 2 else position_ids[0]


def position_inputs(backbone: PreTrainedModel) -> frozenset[str]:
    """Names of what the positions of image tokens follow from; of nothing where positions are counted."""
    find = getattr(type(backbone.model), "get_rope_index", None)
    return frozenset() if find is None else argument_names(find)


def input_position_ids(
    backbone: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, types: Tensor, visuals: dict[str, Tensor]
) -> Tensor:
    """Position ids of rows with images and videos. They are computed here, because a backbone computes others for
    batches that are padded, or cut, in another way."""
    names = position_inputs(backbone)
    if not names or not types.any():
        return text_positions(backbone, count_positions(attention_mask))
    sizes = {name: visuals[name] for name in visuals.keys() & names}
    for kind, type_id in KINDS.items():
        if (types == type_id).any() and not sizes.keys() & feature_inputs(backbone, kind):
            why = "their positions follow from it"
            raise ValueError(f"{kind.title()} tokens need what the processor says of their sizes: {why}.")
    types, mask = types.int(), attention_mask
    ids, _ = backbone.model.get_rope_index(input_ids, mm_token_type_ids=types, attention_mask=mask, **sizes)
    return ids


__all__ = ["argument_names", "check_features", "count_positions", "encode_visuals", "feature_inputs", "first_axis"]
__all__ += ["input_position_ids", "position_inputs", "text_positions", "token_types", "tower_inputs"]
__all__ += ["vision_parameters", "vision_parts", "visual_types"]
