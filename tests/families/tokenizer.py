"""Small tokenizers of the kinds that published checkpoints have, trained on the spot."""

import json
from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer


__all__ = ["byte_level", "metaspace", "qwen"]

TEXTS = [
    "a red apple on a green tree, and a blue one below it",
    "what is this? it is an apple. what is around it? leaves, and a little sky",
    "Summarize above image and text in a few words. user assistant system model User Assistant",
]
NUM_MERGES = 80
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(
    special: Sequence[str],
    named: dict[str, str] | None = None,
    *,
    tokenizer_class: type[PreTrainedTokenizerFast] = PreTrainedTokenizerFast,
    bos_token: str | None = None,
    eos_token: str,
    pad_token: str,
    adds_bos: bool = False,
) -> PreTrainedTokenizerFast:
    """
    A byte-level BPE tokenizer, as of GPT-2, Llama 3 or Qwen: the special tokens come after the text vocabulary.

    Args:
        special (`Sequence[str]`): special tokens, in the order of their ids.
        named (`dict[str, str]`, *optional*): tokens by the attribute that the processor looks them up with, as in
            `{"image_token": "<image>"}`; those that are not in `special` come after it.
        tokenizer_class (*optional*): a class that pre-tokenizes its own way, as `Qwen2Tokenizer`.
        bos_token (`str`, *optional*): the first token of a text, where there is one.
        eos_token (`str`): the token that ends a turn.
        pad_token (`str`): the token that fills a batch.
        adds_bos (`bool`, *optional*, defaults to `False`): every text that is tokenized begins with `bos_token`.
    """
    trainer = BpeTrainer(
        vocab_size=256 + NUM_MERGES, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False
    )
    raw = Tokenizer(BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.train_from_iterator(TEXTS, trainer)
    raw.add_special_tokens(list(special))
    if adds_bos:
        raw.post_processor = beginning(bos_token, raw.token_to_id(bos_token))
    roles = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token, "unk_token": None}
    known = {"extra_special_tokens": list(special), "model_specific_special_tokens": named or {}}
    if tokenizer_class is PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast(tokenizer_object=raw, **roles, **known)
    vocab, merges = vocabulary(raw)
    return tokenizer_class(vocab=vocab, merges=merges, add_bos_token=adds_bos, **roles, **known)


def qwen(special: Sequence[str], named: dict[str, str] | None = None) -> PreTrainedTokenizerFast:
    """Qwen's tokenizer with more special tokens, as families have it whose language model is Qwen's."""
    return byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special],
        named,
        tokenizer_class=Qwen2Tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


def metaspace(
    tokenizer_class: type[GemmaTokenizer | LlamaTokenizer],
    special: Sequence[str],
    named: dict[str, str] | None = None,
    *,
    bos_token: str,
    eos_token: str,
    pad_token: str,
    num_unused: int = 0,
) -> PreTrainedTokenizerFast:
    """
    A tokenizer as sentencepiece makes them, for Gemma and Llama 2: a space is `▁`, bytes stand for what is unknown,
    the special tokens come before the text vocabulary, and every text that is tokenized begins with `bos_token`.

    Args:
        tokenizer_class: `GemmaTokenizer` or `LlamaTokenizer`.
        special (`Sequence[str]`): special tokens, in the order of their ids, those with a role among them.
        named (`dict[str, str]`, *optional*): tokens by the attribute that the processor looks them up with.
        bos_token (`str`): the first token of a text.
        eos_token (`str`): the last token of a text.
        pad_token (`str`): the token that fills a batch.
        num_unused (`int`, *optional*, defaults to 0): tokens `<unused0>`, `<unused1>` … after the special ones.
    """
    unused = [f"<unused{number}>" for number in range(num_unused)]
    first = [*special, *unused, *BYTES]
    trainer = BpeTrainer(vocab_size=len(first) + 40 + NUM_MERGES, special_tokens=first, show_progress=False)
    raw = Tokenizer(BPE())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.train_from_iterator(TEXTS, trainer)
    vocab, merges = vocabulary(raw)
    tokenizer = tokenizer_class(
        vocab=vocab,
        merges=merges,
        unk_token="<unk>",
        bos_token=bos_token,
        eos_token=eos_token,
        pad_token=pad_token,
        add_bos_token=True,
        extra_special_tokens=[token for token in special if token != "<unk>"],
        model_specific_special_tokens=named or {},
    )
    tokenizer.add_tokens(unused)
    return tokenizer


def beginning(token: str, token_id: int) -> TemplateProcessing:
    return TemplateProcessing(single=f"{token} $A", pair=f"{token} $A $B", special_tokens=[(token, token_id)])


def vocabulary(raw: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a trained tokenizer, without its added tokens."""
    model = json.loads(raw.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]
