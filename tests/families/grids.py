"""Families that see an image as one grid of tokens: of a fixed size (LLaVA), or as large as the image."""

from transformers import (
    Glm4vConfig,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    LlamaTokenizer,
    LlavaConfig,
    LlavaImageProcessor,
    LlavaProcessor,
    Mistral3Config,
    PixtralImageProcessor,
    PixtralProcessor,
    Qwen2VLImageProcessor,
    Qwen3VLMoeConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from hub_scripts.tiny.tokenizer import CHAT_TEMPLATE, VISION_TOKENS
from tests.families.parts import SQUARE, Parts, text_config, vision_config
from tests.families.templates import GLM, LLAVA, MISTRAL
from tests.families.tokenizer import byte_level, metaspace, qwen


__all__ = ["glm4v", "llava", "mistral3", "qwen3_vl_moe", "qwen_processor", "qwen_tokens", "qwen_vision"]


def llava() -> Parts:
    tokenizer = metaspace(
        LlamaTokenizer,
        ["<unk>", "<s>", "</s>", "<image>", "<pad>"],
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )
    processor = LlavaProcessor(
        image_processor=LlavaImageProcessor(size={"shortest_edge": 28}, crop_size=SQUARE),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA,
    )
    config = LlavaConfig(
        text_config=text_config(tokenizer, "llama"),
        vision_config=vision_config("clip_vision_model", patch_size=14, projection_dim=32),
        image_token_index=processor.image_token_id,
        image_seq_length=4,
    )
    return config, processor


def mistral3() -> Parts:
    instruction = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    tokenizer = byte_level(
        ["<unk>", "<s>", "</s>", "<pad>", *instruction, "[IMG]", "[IMG_BREAK]", "[IMG_END]"],
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        adds_bos=True,
    )
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessor(size={"longest_edge": 56}, patch_size={"height": 7, "width": 7}),
        tokenizer=tokenizer,
        patch_size=7,
        spatial_merge_size=2,
        chat_template=MISTRAL,
    )
    config = Mistral3Config(
        text_config=text_config(tokenizer, "mistral", sliding_window=None),
        vision_config=vision_config("pixtral", image_size=56, head_dim=16),
        image_token_index=processor.image_token_id,
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    return config, processor


def glm4v() -> Parts:
    image = ["<|begin_of_image|>", "<|end_of_image|>", "<|image|>"]
    video = ["<|begin_of_video|>", "<|end_of_video|>", "<|video|>"]
    tokenizer = byte_level(
        ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", *image, *video],
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    size = {"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 16 * 28 * 28}
    processor = Glm4vProcessor(
        image_processor=Glm4vImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Glm4vVideoProcessor(size=size),
        chat_template=GLM,
    )
    ids = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
    config = Glm4vConfig(
        text_config=text_config(tokenizer, rope_parameters=rope),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "patch_size": 14,
            "image_size": 56,
        },
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        image_start_token_id=ids("<|begin_of_image|>"),
        image_end_token_id=ids("<|end_of_image|>"),
        video_start_token_id=ids("<|begin_of_video|>"),
        video_end_token_id=ids("<|end_of_video|>"),
    )
    return config, processor


def qwen3_vl_moe() -> Parts:
    processor = qwen_processor()
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    config = Qwen3VLMoeConfig(
        text_config=text_config(processor.tokenizer, rope_parameters=rope, pad_token_id=None, **experts),
        vision_config=qwen_vision(deepstack_visual_indexes=[0, 1]),
        **qwen_tokens(processor),
    )
    return config, processor


def qwen_processor() -> Qwen3VLProcessor:
    """That of Qwen3-VL and all that came after it."""
    size = {"shortest_edge": 32 * 32, "longest_edge": 16 * 32 * 32}
    normal = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, patch_size=16, **normal),
        tokenizer=qwen(VISION_TOKENS),
        video_processor=Qwen3VLVideoProcessor(size=size, patch_size=16, **normal),
        chat_template=CHAT_TEMPLATE,
    )


def qwen_vision(**own) -> dict:
    return {
        "depth": 3,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "out_hidden_size": 64,
        "patch_size": 16,
        "num_position_embeddings": 64,
        **own,
    }


def qwen_tokens(processor: Qwen3VLProcessor) -> dict[str, int]:
    return {
        "image_token_id": processor.image_token_id,
        "video_token_id": processor.video_token_id,
        "vision_start_token_id": processor.vision_start_token_id,
        "vision_end_token_id": processor.vision_end_token_id,
    }
