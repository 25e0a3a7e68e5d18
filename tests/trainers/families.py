"""Small backbones of several families with random weights, made from their configurations alone."""

import copy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from modeling_coma import ComaConfig, ComaForEmbedding


VOCAB_SIZE = 60

TEXT: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
CLIP = {**TOWER, "model_type": "clip_vision_model", "projection_dim": 16}
SIGLIP = {**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False}
QWEN_TOWER = {
    "depth": 2,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 24,
    "out_hidden_size": 32,
    "patch_size": 14,
    "num_position_embeddings": 16,
}
QWEN_IDS = {"image_token_id": 50, "video_token_id": 51, "vision_start_token_id": 52}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_interleaved": True}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
PER_LAYER = {"vocab_size_per_layer_input": VOCAB_SIZE, "hidden_size_per_layer_input": 4, "num_kv_shared_layers": 2}
LINEAR = {
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "rope_parameters": {**ROPE, "mrope_section": [1, 0, 0], "partial_rotary_factor": 0.25},
}

# What is told apart here: untied and tied heads, scaled embeddings, a table per layer; full and sliding attention,
# fused and latent projections, an indexer in the attention, linear attention, convolutions; experts; a projector, a
# merger in the tower, a bare parameter.
FAMILIES: dict[str, dict[str, Any]] = {
    "llava": {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": CLIP, "image_token_index": 50},
    "llava_next": {
        "text_config": {**TEXT, "model_type": "phi3"},
        "vision_config": CLIP,
        "image_token_index": 50,
        "image_grid_pinpoints": [[28, 28], [28, 56]],
    },
    "llava_onevision": {  # with an indexer, which chooses what the attention sees
        "text_config": {
            **TEXT,
            **LATENT,
            "model_type": "deepseek_v32",
            "index_n_heads": 2,
            "index_head_dim": 16,
            "index_topk": 4,
        },
        "vision_config": SIGLIP,
        "image_token_index": 50,
        "image_grid_pinpoints": [[28, 28], [28, 56]],
    },
    "gemma3": {
        "text_config": {**TEXT, **SLIDING, "query_pre_attn_scalar": 8},
        "vision_config": SIGLIP,
        "image_token_index": 50,
        "mm_tokens_per_image": 4,
    },
    "gemma4": {
        "text_config": {**TEXT, **SLIDING, **PER_LAYER, "global_head_dim": 8},
        "vision_config": {**TOWER, "num_key_value_heads": 2, "head_dim": 8},
        "audio_config": None,
        "image_token_id": 50,
    },
    "qwen3_vl_moe": {
        "text_config": {
            **TEXT,
            "rope_parameters": {**ROPE, "mrope_section": [2, 1, 1]},
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
        },
        "vision_config": {**QWEN_TOWER, "deepstack_visual_indexes": [0]},
        **QWEN_IDS,
    },
    "qwen3_5": {"text_config": {**TEXT, **LINEAR}, "vision_config": QWEN_TOWER, **QWEN_IDS},
    "lfm2_vl": {
        "text_config": {
            **TEXT,
            "model_type": "lfm2",
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "block_auto_adjust_ff_dim": False,
        },
        "vision_config": {**TOWER, "model_type": "siglip2_vision_model", "num_patches": 16},
        "image_token_id": 50,
        "downsample_factor": 2,
        "projector_hidden_size": 16,
    },
    "ovis2": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": {**TOWER, "vocab_size": 20, "hidden_stride": 1, "num_visual_indicator_tokens": 5},
        "image_token_id": 50,
        "visual_indicator_token_ids": [51, 52, 53, 54, 55],
        "hidden_size": 32,
        "vocab_size": VOCAB_SIZE,
    },
}


def make_family(name: str) -> PreTrainedModel:
    """A backbone with random weights, the same every time."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **copy.deepcopy(FAMILIES[name]))
    return AutoModelForImageTextToText.from_config(config).float().eval()


def wrap(backbone: PreTrainedModel, ids: list[int]) -> ComaForEmbedding:
    """A CoMa model around a backbone that has its rows."""
    config = ComaConfig(backbone.config.to_dict(), compression_token_ids=ids)
    with torch.device("meta"):
        model = ComaForEmbedding(config)
    model.backbone = backbone
    return model.eval()
