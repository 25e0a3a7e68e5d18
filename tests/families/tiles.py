"""Families that cut an image into tiles, each an image of its own to the vision tower, and add one of the whole."""

from transformers import (
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlamaTokenizer,
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Ovis2Config,
    Ovis2ImageProcessor,
    Ovis2Processor,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tests.families.parts import SQUARE, Parts, text_config, vision_config
from tests.families.templates import LLAVA_NEXT, chatml, content, idefics, images_first
from tests.families.tokenizer import byte_level, metaspace, qwen


__all__ = ["idefics3", "internvl", "llava_next", "llava_onevision", "ovis2", "smolvlm"]

GRIDS = [[28, 56], [56, 28], [56, 56]]
PLACES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
IDEFICS_TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *PLACES]


def smolvlm() -> Parts:
    tokenizer = byte_level(
        ["<|endoftext|>", "<|im_start|>", *IDEFICS_TOKENS],
        {
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|endoftext|>",
    )
    sizes = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(**sizes),
        image_seq_len=4,
        chat_template=idefics("<|im_start|>"),
    )
    config = SmolVLMConfig(
        text_config=text_config(tokenizer, "llama", spare_rows=0),
        vision_config=vision_config(),
        image_token_id=processor.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
        tie_word_embeddings=True,
    )
    return config, processor


def idefics3() -> Parts:
    tokenizer = byte_level(
        ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>", *IDEFICS_TOKENS],
        bos_token="<|begin_of_text|>",
        eos_token="<end_of_utterance>",
        pad_token="<|finetune_right_pad_id|>",
        adds_bos=True,
    )
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=idefics("<|begin_of_text|>"),
    )
    config = Idefics3Config(
        text_config=text_config(tokenizer, "llama"),
        vision_config=vision_config(),
        image_token_id=processor.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
        tie_word_embeddings=False,
    )
    return config, processor


def internvl() -> Parts:
    tokenizer = qwen(
        ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=SQUARE),
        image_seq_length=4,
        chat_template=chatml(content("<IMG_CONTEXT>\n", "<video>\n")),
    )
    config = InternVLConfig(
        text_config=text_config(tokenizer, "qwen2"),
        vision_config=vision_config(image_size=[28, 28], patch_size=[7, 7]),
        image_token_id=processor.image_token_id,
        downsample_ratio=0.5,
        image_seq_length=4,
    )
    return config, processor


def llava_next() -> Parts:
    tokenizer = metaspace(
        LlamaTokenizer,
        ["<unk>", "<s>", "</s>", "<image>", "<pad>"],
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": 28}, crop_size=SQUARE, image_grid_pinpoints=GRIDS
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_NEXT,
    )
    config = LlavaNextConfig(
        text_config=text_config(tokenizer, "mistral", sliding_window=None),
        vision_config=vision_config("clip_vision_model", patch_size=14, projection_dim=32),
        image_token_index=processor.image_token_id,
        image_grid_pinpoints=GRIDS,
        image_seq_length=4,
    )
    return config, processor


def llava_onevision() -> Parts:
    tokenizer = qwen(["<image>", "<video>"])
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=GRIDS),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=SQUARE),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=chatml(images_first("<image>\n")),
    )
    config = LlavaOnevisionConfig(
        text_config=text_config(tokenizer, "qwen2"),
        vision_config=vision_config("siglip_vision_model", patch_size=14, vision_use_head=False),
        image_token_index=processor.image_token_id,
        video_token_index=processor.video_token_id,
        image_grid_pinpoints=GRIDS,
    )
    return config, processor


def ovis2() -> Parts:
    indicators = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tokenizer = qwen(["<image>", "<IMG_ATOM>", *indicators])
    processor = Ovis2Processor(
        image_processor=Ovis2ImageProcessor(size=SQUARE, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=chatml(content("<image>\n")),
    )
    text = text_config(tokenizer, "qwen2")
    config = Ovis2Config(
        text_config=text,
        vision_config=vision_config(vocab_size=40, hidden_stride=2, num_visual_indicator_tokens=len(indicators)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(indicators),
        hidden_size=text["hidden_size"],
        vocab_size=text["vocab_size"],
    )
    return config, processor
