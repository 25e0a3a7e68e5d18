"""What is trained: adapters on the language model and the compression tokens, or more where asked."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, PeftModel

from modeling_coma import ComaForEmbedding


__all__ = ["freeze_vision", "lora_config", "merge_adapter"]


def lora_config(model: ComaForEmbedding, r: int = 16, lora_alpha: int = 64, **kwargs: Any) -> LoraConfig:
    r"""
    The adapter of the official recipe: DoRA on the attention projections of the language model, rank 16, alpha 64,
    dropout 0.1, Gaussian initialisation. The rows of the compression tokens are trained beside it, and only they: the
    adapter file has K rows of the embedding matrix, never the matrix.

    Args:
        model ([`ComaForEmbedding`]):
            The model to be adapted.
        r (`int`, *optional*, defaults to 16):
            Rank.
        lora_alpha (`int`, *optional*, defaults to 64):
            Scale of the adapter, divided by the rank.
        kwargs:
            Any other field of `LoraConfig`, in place of those of the recipe.

    Returns:
        `LoraConfig` for `peft.get_peft_model` or the `peft_config` of a trainer.
    """
    recipe = {
        "lora_dropout": 0.1,
        "use_dora": True,
        "init_lora_weights": "gaussian",
        "target_modules": r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)",
        "trainable_token_indices": {"embed_tokens": list(model.config.compression_token_ids)},
    }
    return LoraConfig(r=r, lora_alpha=lora_alpha, **{**recipe, **kwargs})


def freeze_vision(model: ComaForEmbedding, train_merger: bool = False) -> None:
    """Freezes the vision tower (paper, section 4.1), all of it or all but the merger that feeds the language model."""
    visual = model.backbone.model.visual
    visual.requires_grad_(False)
    visual.merger.requires_grad_(train_merger)


def merge_adapter(model: PeftModel) -> ComaForEmbedding:
    """The model with the adapter and the trained rows of the compression tokens folded into its weights."""
    return model.merge_and_unload()
