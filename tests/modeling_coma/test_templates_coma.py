"""Inputs and dialogues as text: two templates, the marks of the answers, and what a saved folder keeps of them."""

import json
import re

import pytest
import torch
from transformers import AutoProcessor

from modeling_coma import ComaProcessor
from modeling_coma.inputs_coma import to_messages
from modeling_coma.processing_coma import compression_tokens


K = 4
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
TAIL = "".join(compression_tokens(K))


def test_chat_templates_render_and_tokenize_as_sentence_transformers_asks(processor, mixed_inputs):
    messages = [to_messages(item) for item in mixed_inputs]
    batch = processor.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        load_audio_from_video=False,
        processor_kwargs={
            "text_kwargs": {"padding": True, "truncation": "longest_first"},
            "images_kwargs": {},
            "audio_kwargs": {"padding": True},
            "videos_kwargs": {},
            "common_kwargs": {"return_tensors": "pt"},
        },
    )
    expected = processor.process(mixed_inputs)
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(batch[name], value), name


def test_a_system_message_is_a_line_before_the_input(qwen, picture, unpadded, read):
    user = {"role": "user", "content": [{"type": "image", "image": picture()}, {"type": "text", "text": "red"}]}
    (ids,) = unpadded(qwen.process([[{"role": "system", "content": "Find it."}, user]]))
    assert read(qwen, ids) == "Find it.\n" + IMAGE + "red" + TAIL


def test_dialogues_are_chatml_and_their_answers_are_marked(processor, mixed_dialogues):
    rows = processor.process_dialogues(mixed_dialogues)
    assert len(rows["input_ids"]) == len(rows["assistant_masks"]) == len(mixed_dialogues)
    for messages, ids, marks in zip(mixed_dialogues, rows["input_ids"], rows["assistant_masks"], strict=True):
        text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        assert processor.tokenizer.decode(ids) == text
        said = processor.tokenizer.decode([token for token, mark in zip(ids, marks, strict=True) if mark])
        assert said == "".join(m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant")
        assert len(ids) == len(marks) and marks[0] == 0
        runs = "".join(map(str, marks)).replace("0", " ").split()
        answers = [m["content"] for m in messages if m["role"] == "assistant"]
        lengths = [len(processor.tokenizer(answer)["input_ids"]) + 1 for answer in answers]
        assert [len(run) for run in runs] == lengths


def test_a_dialogue_may_end_where_the_model_speaks(qwen):
    (ids,) = qwen.process_dialogues([[{"role": "user", "content": "red?"}]], add_generation_prompt=True)["input_ids"]
    assert qwen.tokenizer.decode(ids) == "<|im_start|>user\nred?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|vision_start|>", "<|ctoken_pad_3|>"])
def test_tokens_of_inputs_are_refused_in_dialogues(qwen, mixed_dialogues, token):
    typed = [{"role": "user", "content": f"is {token} red?"}, {"role": "assistant", "content": "no"}]
    with pytest.raises(ValueError, match=re.escape(f"Row 1: its text types {token!r}, a special token")):
        qwen.process_dialogues([mixed_dialogues[0], typed, mixed_dialogues[1]])


def test_everything_survives_saving(processor, mixed_inputs, mixed_dialogues, tmp_path):
    processor.image_instruction, processor.text_instruction = "\nSay it.", "\nSay it short."
    processor.max_length = 123
    expected = processor.process(mixed_inputs, compression_instruction=True)
    dialogues = processor.process_dialogues(mixed_dialogues)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert (saved["num_compression_tokens"], saved["max_length"], saved["image_instruction"]) == (K, 123, "\nSay it.")
    for loaded in (ComaProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is ComaProcessor
        assert loaded.chat_template == processor.chat_template
        assert loaded.chat_template.keys() == {"default", "dialogue"}
        assert loaded.max_length == 123
        for name, value in loaded.process(mixed_inputs, compression_instruction=True).items():
            assert torch.equal(value, expected[name]), name
        again = loaded.process_dialogues(mixed_dialogues)
        assert (again["input_ids"], again["assistant_masks"]) == (dialogues["input_ids"], dialogues["assistant_masks"])


def test_other_templates_may_be_given(qwen, tmp_path, unpadded, read):
    templates = {**qwen.chat_template, "default": "query: " + qwen.chat_template["default"]}
    parts = (qwen.image_processor, qwen.tokenizer)
    processor = ComaProcessor(*parts, chat_template=templates, num_compression_tokens=K)
    processor.save_pretrained(tmp_path)
    for loaded in (processor, ComaProcessor.from_pretrained(tmp_path)):
        (ids,) = unpadded(loaded.process(["red"]))
        assert read(loaded, ids) == "query: red" + TAIL
