"""A small tokenizer of the Qwen family, trained on the spot: byte-level BPE, its special tokens, a ChatML template."""

import json
from collections.abc import Iterable

from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2Tokenizer


__all__ = ["train_tokenizer"]

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *VISION_TOKENS)
SMALLEST_VOCABULARY = len(ByteLevel.alphabet()) + len(SPECIAL_TOKENS)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}"
    "{% else %}{{ raise_exception('unknown content type: ' ~ part.type) }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Qwen2Tokenizer:
    """
    Trains a byte-level BPE tokenizer with Qwen's normalisation, pre-tokenisation and special tokens.

    Args:
        texts (`Iterable[str]`): what to train on.
        vocab_size (`int`): largest number of tokens, special tokens included.

    Returns:
        `Qwen2Tokenizer`: any text (in Unicode form NFC, as for Qwen) survives encoding and decoding.

    Raises:
        ValueError: if `vocab_size` cannot hold the 256 bytes and the special tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(
            f"vocab_size={vocab_size} is less than {SMALLEST_VOCABULARY}: "
            f"256 bytes and {len(SPECIAL_TOKENS)} special tokens"
        )
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS), initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    raw = Qwen2Tokenizer(vocab={}, merges=[]).backend_tokenizer
    raw.train_from_iterator(texts, trainer)
    trained = json.loads(raw.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", *VISION_TOKENS],
        model_max_length=32768,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
