"""A second pass from the last hidden states of the compression tokens, as soft tokens at the head of a dialogue.

This is not the form of the paper, whose memory is the key-value cache of these tokens. It needs no cache, so that any
layers will do: linear attention and convolutions carry a state from token to token, and what that state has seen of
the input cannot be taken out of it again. Here nothing of the input is left but K vectors, so that nothing else of it
can leak into an answer; and the last layer is trained, too, whose states no cache keeps.
"""

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicIndexedLayer, LinearAttentionCacheLayerMixin

from .backbone_coma import count_positions, text_positions
from .memory_coma import gather_columns


def keeps_keys_and_values(config: PreTrainedConfig) -> bool:
    """Whether keys and values are all that the layers of a backbone keep of a token."""
    layers = DynamicCache(config=config.get_text_config()).layers
    return not any(isinstance(layer, LinearAttentionCacheLayerMixin | DynamicIndexedLayer) for layer in layers)


def pad_left(inputs: dict, mask: Tensor) -> tuple[dict, Tensor]:
    r"""
    Moves what a mask leaves out of rows to their left, where layers that carry a state have none yet.

    Args:
        inputs (`dict`): tensors of shape `(…, batch_size, length)`, `inputs_embeds`, and what is no tensor.
        mask (`torch.LongTensor` of shape `(batch_size, length)`): 1 at what stays.
    Returns the same in that order with its `attention_mask`, and for every column of before where it stands now.
    """
    order = mask.argsort(dim=1, stable=True)
    moved = dict(inputs)
    for name, tensor in inputs.items():
        if name == "inputs_embeds":
            moved[name] = gather_columns(tensor, order)
        elif isinstance(tensor, Tensor):
            moved[name] = tensor.gather(-1, order.expand_as(tensor))
    return {**moved, "attention_mask": mask.gather(1, order)}, order.argsort(dim=1)


def behind_states(
    backbone: PreTrainedModel, soft_tokens: Tensor, next_position: Tensor, input_ids: Tensor, mask: Tensor
) -> tuple[dict, Tensor]:
    r"""
    Inputs of the backbone for dialogues behind soft tokens, which stand where the compression tokens stood.

    Args:
        backbone (`PreTrainedModel`): its embedding matrix, and its kind of positions.
        soft_tokens (`torch.Tensor` of shape `(batch_size, K, hidden_size)`): one for each compression token.
        next_position (`torch.LongTensor` of shape `(batch_size,)`): position of the first token behind them.
        input_ids, mask (`torch.LongTensor` of shape `(batch_size, length)`): dialogues.
    Returns these, padded on the left, and the columns in which the dialogues stand now.
    """
    k, embeddings = soft_tokens.shape[1], backbone.get_input_embeddings()(input_ids)
    first = next_position.to(mask.device)[:, None]
    positions = [first + torch.arange(-k, 0, device=mask.device), first + count_positions(mask)]
    mask = torch.cat([mask.new_ones(len(mask), k), mask], dim=1)
    inputs = {"inputs_embeds": torch.cat([soft_tokens.to(embeddings), embeddings], dim=1)}
    inputs["position_ids"] = text_positions(backbone, torch.cat(positions, dim=1))
    inputs, columns = pad_left(inputs, mask)
    return inputs, columns[:, k:]


__all__ = ["behind_states", "keeps_keys_and_values", "pad_left"]
