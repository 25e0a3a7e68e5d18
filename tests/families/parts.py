"""What all tiny families share: sizes."""

from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin


__all__ = ["SQUARE", "Parts", "text_config", "vision_config"]

# What a folder is made from: the configuration of a model and the processor that fits it.
Parts = tuple[PreTrainedConfig, ProcessorMixin]
# The size of a tile.
SQUARE = {"height": 28, "width": 28}


def text_config(
    tokenizer: PreTrainedTokenizerBase, model_type: str | None = None, *, spare_rows: int = 24, **own: Any
) -> dict[str, Any]:
    """A decoder of three layers with `spare_rows` more rows than the tokenizer has tokens; `own` settings win."""
    return {
        **({"model_type": model_type} if model_type else {}),
        "vocab_size": len(tokenizer) + spare_rows,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **own,
    }


def vision_config(model_type: str | None = None, **own: Any) -> dict[str, Any]:
    """A vision tower of two layers for images of 28 x 28 in patches of 7 x 7; `own` settings win."""
    return {
        **({"model_type": model_type} if model_type else {}),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_channels": 3,
        "image_size": 28,
        "patch_size": 7,
        **own,
    }
