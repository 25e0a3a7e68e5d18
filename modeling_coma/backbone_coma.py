"""What a vision-language backbone has and takes. What it has decides; no family is asked for by its name."""

import functools
import inspect
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel


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


def token_types(backbone: PreTrainedModel, is_image: Tensor) -> dict[str, Tensor]:
    """1 at image tokens, under the names by which a backbone takes it, if it does."""
    names = argument_names(type(backbone.model).forward) & {"token_type_ids", "mm_token_type_ids"}
    return {name: is_image.long() for name in names}


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
    backbone: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, is_image: Tensor, images: dict[str, Tensor]
) -> Tensor:
    """Position ids of rows with images. They are computed here, because a backbone computes others for batches that
    are padded, or cut, in another way."""
    names = position_inputs(backbone)
    if not names or not is_image.any():
        return text_positions(backbone, count_positions(attention_mask))
    sizes = {name: images[name] for name in images.keys() & names}
    if not sizes:
        raise ValueError("Image tokens need what the processor says of their sizes: their positions follow from it.")
    types, mask = is_image.int(), attention_mask
    ids, _ = backbone.model.get_rope_index(input_ids, mm_token_type_ids=types, attention_mask=mask, **sizes)
    return ids


__all__ = ["argument_names", "count_positions", "first_axis", "input_position_ids", "position_inputs"]
__all__ += ["text_positions", "token_types", "vision_parameters", "vision_parts"]
