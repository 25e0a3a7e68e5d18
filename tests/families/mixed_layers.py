"""Families whose decoder has several kinds of layers: sliding windows, convolutions, linear attention."""

from transformers import (
    AyaVisionConfig,
    AyaVisionProcessor,
    CohereTokenizer,
    Gemma3Config,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GemmaTokenizer,
    GotOcr2ImageProcessor,
    Lfm2VlConfig,
    Lfm2VlImageProcessor,
    Lfm2VlProcessor,
    PreTrainedTokenizerFast,
    Qwen3_5Config,
)

from tests.families.grids import qwen_processor, qwen_tokens, qwen_vision
from tests.families.parts import SQUARE, Parts, text_config, vision_config
from tests.families.templates import COHERE, GEMMA, chatml, content
from tests.families.tokenizer import byte_level, metaspace


__all__ = ["LINEAR", "SLIDING", "aya_vision", "cohere_tokenizer", "gemma3", "gemma_tokenizer", "lfm2_vl", "qwen3_5"]

# A window that an image and a few words outgrow.
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}

LINEAR = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [1, 1, 0],
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.25,
    },
}


def gemma_tokenizer(special: list[str], named: dict[str, str]) -> PreTrainedTokenizerFast:
    return metaspace(
        GemmaTokenizer,
        ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", *special],
        named,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        num_unused=24,
    )


def gemma3() -> Parts:
    """It splits an image only where the call says `do_pan_and_scan`: the folder may say so and is not heard."""
    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = gemma_tokenizer(list(named.values()), named)
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size=SQUARE),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=GEMMA,
    )
    config = Gemma3Config(
        text_config=text_config(tokenizer, spare_rows=0, query_pre_attn_scalar=16, **SLIDING),
        vision_config=vision_config("siglip_vision_model", vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    return config, processor


def cohere_tokenizer(special: list[str], named: dict[str, str] | None = None) -> PreTrainedTokenizerFast:
    roles = ["<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"]
    turns = ["<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"]
    return byte_level(
        ["<PAD>", "<BOS_TOKEN>", *turns, *roles, *special],
        named,
        tokenizer_class=CohereTokenizer,
        bos_token="<BOS_TOKEN>",
        eos_token="<|END_OF_TURN_TOKEN|>",
        pad_token="<PAD>",
        adds_bos=True,
    )


def aya_vision() -> Parts:
    borders = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL"]
    tokenizer = cohere_tokenizer(["<image>", "<|IMG_PATCH|>", *borders])
    processor = AyaVisionProcessor(
        image_processor=GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        patch_size=7,
        img_size=28,
        downsample_factor=2,
        chat_template=COHERE,
    )
    config = AyaVisionConfig(
        text_config=text_config(tokenizer, "cohere2", **SLIDING),
        vision_config=vision_config("siglip_vision_model", vision_use_head=False),
        image_token_index=processor.image_token_id,
        downsample_factor=2,
        alignment_intermediate_size=32,
    )
    return config, processor


def lfm2_vl() -> Parts:
    named = {
        "image_token": "<image>",
        "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>",
        "image_thumbnail_token": "<|img_thumbnail|>",
    }
    places = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = byte_level(
        ["<|pad|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>", *named.values(), *places],
        named,
        bos_token="<|startoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        adds_bos=True,
    )
    processor = Lfm2VlProcessor(
        image_processor=Lfm2VlImageProcessor(
            size=SQUARE,
            encoder_patch_size=7,
            tile_size=28,
            max_tiles=4,
            min_image_tokens=1,
            max_image_tokens=4,
            max_pixels_tolerance=1.0,
        ),
        tokenizer=tokenizer,
        chat_template=chatml(content("<image>"), begin="{{ bos_token }}"),
    )
    layers = ["conv", "full_attention", "conv"]
    config = Lfm2VlConfig(
        text_config=text_config(tokenizer, "lfm2", layer_types=layers, block_auto_adjust_ff_dim=False),
        vision_config=vision_config("siglip2_vision_model", num_patches=16, vision_use_head=False),
        image_token_id=processor.image_token_id,
        downsample_factor=2,
        projector_hidden_size=64,
    )
    return config, processor


def qwen3_5() -> Parts:
    processor = qwen_processor()
    config = Qwen3_5Config(
        text_config=text_config(processor.tokenizer, pad_token_id=None, **LINEAR),
        vision_config=qwen_vision(),
        **qwen_tokens(processor),
    )
    return config, processor
