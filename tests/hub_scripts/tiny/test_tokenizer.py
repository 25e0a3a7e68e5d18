"""The tiny tokenizer loses no character, and its template shows every part of a message."""

import unicodedata
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from hub_scripts.tiny.tokenizer import train_tokenizer


TEXTS = ["a red apple on a green tree", "grinning face with big eyes", "ein lachendes Gesicht", "笑顔 and 苹果"] * 4


@pytest.mark.parametrize(
    "text",
    [
        "plain words, 1234 and  two spaces\n\n\ttabs\r\n",
        "Grüße, ça va? ¿Qué? 日本語と中文 العربية हिन्दी ไทย",
        "👩‍👩‍👧‍👦🏳️‍🌈 \u200d\ufe0f \u0000\u0007\u2028 \U0010fffd",
        "".join(map(chr, range(32, 1024))),
    ],
)
def test_any_unicode_survives_saving_encoding_and_decoding(tmp_path: Path, text: str) -> None:
    trained = train_tokenizer(TEXTS, 400)
    trained.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded(text)["input_ids"]
    assert ids == trained(text)["input_ids"]
    assert loaded.decode(ids) == unicodedata.normalize("NFC", text)


def test_learns_from_the_texts() -> None:
    assert len(train_tokenizer(TEXTS, 400)("grinning face")["input_ids"]) == 2
    assert len(train_tokenizer([], 400)("grinning face")["input_ids"]) == len("grinning face")


def test_template_shows_strings_and_parts() -> None:
    parts = [{"type": "text", "text": "see "}, {"type": "image"}, {"type": "video"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "a cat"}]
    text = train_tokenizer([], 300).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\nsee <|vision_start|><|image_pad|><|vision_end|><|vision_start|><|video_pad|><|vision_end|>"
        "<|im_end|>\n<|im_start|>assistant\na cat<|im_end|>\n<|im_start|>assistant\n"
    )


def test_template_refuses_what_it_cannot_show() -> None:
    with pytest.raises(Exception, match="unknown content type: audio"):
        train_tokenizer([], 300).apply_chat_template([{"role": "user", "content": [{"type": "audio"}]}])


def test_a_vocabulary_too_small_for_all_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size=263 is less than 264"):
        train_tokenizer(TEXTS, 263)
