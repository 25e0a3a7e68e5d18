"""The projection of states to soft tokens, as a new model has it."""

from torch import nn
from transformers import PreTrainedModel


__all__ = ["memory_projection"]


def memory_projection(backbone: PreTrainedModel) -> nn.Linear:
    size, like = backbone.config.get_text_config().hidden_size, backbone.get_input_embeddings().weight
    projection = nn.Linear(size, size, bias=False, dtype=like.dtype, device=like.device)
    nn.init.eye_(projection.weight)
    return projection
