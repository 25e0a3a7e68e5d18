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


def vision_parameters(backbone: PreTrainedModel) -> Iterator[torch.nn.Parameter]:
    """What of a backbone is no part of its language model: the vision tower, what projects it, a token of its own."""
    decoder = backbone.get_decoder()
    for child in backbone.model.children():
        if child is not decoder:
            yield from child.parameters()
    yield from backbone.model.parameters(recurse=False)


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


def input_position_ids(
    backbone: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, is_image: Tensor, images: dict[str, Tensor]
) -> Tensor:
    """Position ids of rows with images. They are computed here, because a backbone computes others for batches that
    are padded, or cut, in another way."""
    find = getattr(type(backbone.model), "get_rope_index", None)
    if find is None or not is_image.any():
        return text_positions(backbone, count_positions(attention_mask))
    sizes = {name: images[name] for name in images.keys() & argument_names(find)}
    if not sizes:
        raise ValueError("Image tokens need what the processor says of their sizes: their positions follow from it.")
    types = is_image.int()
    ids, _ = find(backbone.model, input_ids, mm_token_type_ids=types, attention_mask=attention_mask, **sizes)
    return ids


__all__ = ["argument_names", "count_positions", "first_axis", "input_position_ids", "text_positions"]
__all__ += ["token_types", "vision_parameters"]
