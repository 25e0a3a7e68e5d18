"""What a backbone can do as a CoMa model, found in what it has: embeddings, and stage 1 from either kind of memory."""

import copy
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.masking_utils import create_masks_for_generate

from modeling_coma.backbone_coma import argument_names, token_types
from modeling_coma.cache_coma import cache_argument
from modeling_coma.states_coma import keeps_keys_and_values
from trainers.token_rows import token_tables


__all__ = ["Capabilities", "capabilities"]


@dataclass(frozen=True)
class Capabilities:
    r"""
    What works (`None`), or why it does not, in a sentence.

    Args:
        embedding (`str`, *optional*):
            Embeddings and stage 2; without them nothing works.
        cache (`str`, *optional*):
            Stage 1 with `memory="cache"`.
        states (`str`, *optional*):
            Stage 1 with `memory="states"`.
    """

    embedding: str | None = None
    cache: str | None = None
    states: str | None = None

    @property
    def memory(self) -> str:
        """The form of the paper where it works, else the other where that does."""
        return "states" if self.cache is not None and self.states is None else "cache"

    def __str__(self) -> str:
        parts = {
            "embeddings and stage 2": self.embedding,
            'stage 1 with memory="cache"': self.cache,
            'stage 1 with memory="states"': self.states,
        }
        return "; ".join(f"{name}: {'yes' if why is None else f'no, {why}'}" for name, why in parts.items())


def capabilities(backbone: PreTrainedModel) -> Capabilities:
    r"""
    Args:
        backbone (`PreTrainedModel`): a vision-language model of transformers.
    """
    if why := _no_embedding(backbone):
        return Capabilities(why, why, why)
    cache = states = None
    if not keeps_keys_and_values(backbone.config):
        cache = "some of its layers keep more of an input than keys and values, which its mask cannot hide"
    if len(token_tables(backbone)) > 1:
        states = "its layers look tokens up in a table of their own, where soft tokens have no row"
    elif "inputs_embeds" not in argument_names(type(backbone).prepare_inputs_for_generation):
        states = "its `generate` takes no soft tokens (`inputs_embeds`)"
    return Capabilities(None, cache, states)


def _no_embedding(backbone: PreTrainedModel) -> str | None:
    config, model = backbone.config.get_text_config(), getattr(backbone, "model", None)
    why = None
    if backbone.config.is_encoder_decoder:
        why = "it is an encoder-decoder, whose answers do not stand in one row with their input"
    elif not backbone.can_generate():
        why = "it generates no text"
    elif model is None:
        why = "it has no `model` without a head"
    elif not hasattr(model, "get_image_features"):
        why = "its `model` has no `get_image_features`: images are no tokens of its rows (cross attention)"
    elif "mm_encoder_outputs" not in argument_names(type(model).forward):
        why = "the `forward` of its `model` takes no image features (`mm_encoder_outputs`)"
    elif getattr(config, "attention_chunk_size", None):
        why = "its attention is cut into chunks, of which the compression tokens see the last alone"
    elif not _is_causal(backbone):
        why = "its text attends both ways (prefix-LM): an input would see the dialogue about it"
    return why


def _is_causal(backbone: PreTrainedModel) -> bool:
    """Whether no token of a plain text sees a later one in the masks that a backbone makes for `generate`."""
    config = copy.deepcopy(backbone.config)
    config.get_text_config()._attn_implementation = "eager"  # which writes every mask out
    ids = torch.zeros(1, 4, dtype=torch.long)
    make = getattr(type(backbone), "create_masks_for_generate", create_masks_for_generate)
    masks = make(
        config=config,
        inputs_embeds=torch.empty(1, 4, 1),
        attention_mask=torch.ones_like(ids),
        position_ids=torch.arange(4)[None],
        **{cache_argument(make): None},
        **token_types(backbone, ids),
    )
    masks = masks.values() if isinstance(masks, dict) else [masks]
    return not any((mask[0, 0] == 0).triu(1).any() for mask in masks if mask is not None and mask.ndim == 4)
