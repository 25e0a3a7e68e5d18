"""Families that nothing was written for: they must work as they are."""

from transformers import (
    Cohere2VisionConfig,
    Cohere2VisionImageProcessor,
    Cohere2VisionProcessor,
    DeepseekVLConfig,
    DeepseekVLImageProcessor,
    DeepseekVLProcessor,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
    MiniCPMV4_6Config,
    MiniCPMV4_6ImageProcessor,
    MiniCPMV4_6Processor,
    MiniCPMV4_6VideoProcessor,
)

from tests.families.mixed_layers import LINEAR, SLIDING, cohere_tokenizer, gemma_tokenizer
from tests.families.parts import SQUARE, Parts, text_config, vision_config
from tests.families.templates import COHERE, DEEPSEEK, GEMMA4, chatml, content
from tests.families.tokenizer import byte_level, qwen


__all__ = ["cohere2_vision", "deepseek_vl", "gemma4", "minicpmv4_6"]


def cohere2_vision() -> Parts:
    named = {
        "image_token": "<|IMG_PATCH|>",
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    tokenizer = cohere_tokenizer(list(named.values()), named)
    processor = Cohere2VisionProcessor(
        # Its "patch size" is the number of tokens on the side of a tile.
        image_processor=Cohere2VisionImageProcessor(size=SQUARE, max_patches=4, patch_size=2),
        tokenizer=tokenizer,
        chat_template=COHERE.replace("<image>", named["image_token"]),
    )
    config = Cohere2VisionConfig(
        text_config=text_config(tokenizer, "cohere2", **SLIDING),
        vision_config=vision_config("siglip_vision_model", vision_use_head=False),
        image_token_id=processor.image_token_id,
        downsample_factor=2,
        alignment_intermediate_size=32,
    )
    return config, processor


def deepseek_vl() -> Parts:
    named = {"image_token": "<image_placeholder>"}
    tokenizer = byte_level(
        ["<|begin_of_sentence|>", "<|end_of_sentence|>", "<|pad|>", *named.values()],
        named,
        bos_token="<|begin_of_sentence|>",
        eos_token="<|end_of_sentence|>",
        pad_token="<|pad|>",
        adds_bos=True,
    )
    processor = DeepseekVLProcessor(
        image_processor=DeepseekVLImageProcessor(size=SQUARE),
        tokenizer=tokenizer,
        num_image_tokens=4,
        chat_template=DEEPSEEK,
    )
    config = DeepseekVLConfig(
        text_config=text_config(tokenizer, "llama"),
        vision_config=vision_config("siglip_vision_model", patch_size=14, vision_use_head=False),
        image_token_id=processor.image_token_id,
        tie_word_embeddings=False,
    )
    return config, processor


def gemma4() -> Parts:
    """It has a second table of embeddings, with a row for each token and layer, and shares keys and values."""
    named = {
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "image_token": "<|image|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
        "audio_token": "<|audio|>",
    }
    tokenizer = gemma_tokenizer([*named.values(), "<|video|>", "<|turn>", "<turn|>"], named)
    sizes = {"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70}
    processor = Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=Gemma4VideoProcessor(**sizes),
        chat_template=GEMMA4,
    )
    layers = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    text = text_config(tokenizer, spare_rows=0, sliding_window=8, num_hidden_layers=4, layer_types=layers)
    config = Gemma4Config(
        text_config={
            **text,
            "global_head_dim": 16,
            "vocab_size_per_layer_input": text["vocab_size"],
            "hidden_size_per_layer_input": 16,
            "num_kv_shared_layers": 2,
        },
        vision_config=vision_config(
            patch_size=4, head_dim=16, num_key_value_heads=2, pooling_kernel_size=2, position_embedding_size=64
        ),
        audio_config=None,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
        audio_token_id=tokenizer.audio_token_id,
    )
    return config, processor


def minicpmv4_6() -> Parts:
    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    tokenizer = qwen(list(named.values()), named)
    sizes = {"max_slice_nums": 4, "scale_resolution": 32, "patch_size": 4}
    processor = MiniCPMV4_6Processor(
        image_processor=MiniCPMV4_6ImageProcessor(**sizes),
        video_processor=MiniCPMV4_6VideoProcessor(**sizes),
        tokenizer=tokenizer,
        chat_template=chatml(content(named["image_token"], named["video_token"])),
    )
    config = MiniCPMV4_6Config(
        text_config=text_config(tokenizer, "qwen3_5_text", **LINEAR),
        vision_config=vision_config(image_size=32, patch_size=4),
        insert_layer_id=0,
        image_size=32,
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
    )
    return config, processor
