"""Families that cannot become a CoMa backbone: a bidirectional prefix, chunked attention, cross attention."""

from transformers import (
    GemmaTokenizer,
    Llama4Config,
    Llama4ImageProcessor,
    Llama4Processor,
    MllamaConfig,
    MllamaImageProcessor,
    MllamaProcessor,
    PaliGemmaConfig,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
)

from tests.families.parts import SQUARE, Parts, text_config, vision_config
from tests.families.templates import llama3
from tests.families.tokenizer import byte_level, metaspace


__all__ = ["llama4", "mllama", "paligemma"]


def paligemma() -> Parts:
    """As published it has no chat template."""
    tokenizer = metaspace(
        GemmaTokenizer,
        ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<image>"],
        {"image_token": "<image>"},
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
    )
    image_processor = SiglipImageProcessor(size=SQUARE, image_seq_length=4)
    processor = PaliGemmaProcessor(image_processor=image_processor, tokenizer=tokenizer)
    config = PaliGemmaConfig(
        text_config=text_config(tokenizer, "gemma"),  # the processor has added its 1,152 tokens for places and shapes
        vision_config=vision_config("siglip_vision_model", patch_size=14, projection_dim=64, vision_use_head=False),
        image_token_index=processor.image_token_id,
        projection_dim=64,
    )
    return config, processor


def llama4() -> Parts:
    image = ["<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>"]
    tokenizer = llama_tokenizer(["<|header_start|>", "<|header_end|>", "<|eot|>", "<|image|>", *image], "<|eot|>")
    processor = Llama4Processor(
        image_processor=Llama4ImageProcessor(size=SQUARE, max_patches=4),
        tokenizer=tokenizer,
        patch_size=7,
        chat_template=llama3("<|header_start|>", "<|header_end|>", "<|eot|>"),
    )
    experts = {"num_local_experts": 2, "intermediate_size_mlp": 96, "attention_chunk_size": 16}
    config = Llama4Config(
        text_config=text_config(tokenizer, no_rope_layers=[1, 1, 0], **experts),
        vision_config=vision_config(
            intermediate_size=128, vision_output_dim=32, projector_input_dim=32, projector_output_dim=32
        ),
        boi_token_index=tokenizer.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<|image_end|>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
    )
    return config, processor


def mllama() -> Parts:
    tokenizer = llama_tokenizer(["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|image|>"], "<|eot_id|>")
    processor = MllamaProcessor(
        image_processor=MllamaImageProcessor(size=SQUARE, max_image_tiles=2),
        tokenizer=tokenizer,
        chat_template=llama3("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    )
    config = MllamaConfig(
        text_config=text_config(tokenizer, cross_attention_layers=[1]),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "vision_output_dim": 64,
            "image_size": 28,
            "patch_size": 14,
            "max_num_tiles": 2,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        image_token_index=processor.image_token_id,
    )
    return config, processor


def llama_tokenizer(special: list[str], end_of_turn: str) -> PreTrainedTokenizerFast:
    return byte_level(
        ["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad|>", *special],
        bos_token="<|begin_of_text|>",
        eos_token=end_of_turn,
        pad_token="<|finetune_right_pad|>",
        adds_bos=True,
    )
