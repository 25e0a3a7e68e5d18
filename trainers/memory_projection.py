"""The projection of states to soft tokens, as a new model has it."""

import torch
from torch import nn
from transformers import PreTrainedModel


__all__ = ["memory_projection"]


@torch.no_grad()
def memory_projection(backbone: PreTrainedModel, compression_token_ids: list[int]) -> nn.Linear:
    """
    A multiple of the identity, by which states become as long as embedding rows: what a decoder gives is many times
    longer than what it takes, and a soft token of that length would hardly be changed by its layers.

    Args:
        backbone (`PreTrainedModel`): a vision-language model whose tokens have their rows.
        compression_token_ids (`list[int]`): tokens whose states and rows are compared.
    """
    ids = torch.tensor([compression_token_ids], device=backbone.device)
    rows = backbone.get_input_embeddings()(ids)
    states = backbone.model(input_ids=ids, use_cache=False, return_dict=True).last_hidden_state
    projection = nn.Linear(rows.shape[-1], rows.shape[-1], bias=False, device=rows.device, dtype=rows.dtype)
    nn.init.eye_(projection.weight).mul_(rows.float().norm() / states.float().norm())
    return projection
