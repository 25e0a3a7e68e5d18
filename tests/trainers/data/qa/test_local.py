"""A model on this machine answers as it does alone, whoever shares its batch."""

import asyncio
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from trainers.data.qa.chat import ImageFile, Message, Reply, read_image
from trainers.data.qa.local import LocalChat


@pytest.fixture
def pictures(picture: Callable[..., Image.Image], tmp_path: Path) -> list[ImageFile]:
    made = []
    for number in range(5):
        picture(28 * (1 + number % 3), 28 + 28 * (number % 2), number).save(tmp_path / f"{number}.png")
        made.append(read_image(str(tmp_path / f"{number}.png")))
    return made


def conversations(pictures: list[ImageFile]) -> list[list[Message]]:
    first = [{"role": "user", "content": "what is this? " * (1 + number)} for number in range(len(pictures))]
    more = [{"role": "assistant", "content": "an apple"}, {"role": "user", "content": "red?"}]
    return [
        [message | {"image": picture}, *(more if number % 2 else [])]
        for number, (message, picture) in enumerate(zip(first, pictures, strict=True))
    ]


def answers(chat: LocalChat, asked: list[list[Message]]) -> list[Reply]:
    async def run() -> list[Reply]:
        return await asyncio.gather(*(chat.complete(messages, 0) for messages in asked))

    return asyncio.run(run())


def test_answers_do_not_depend_on_the_batch(
    make_backbone: Callable, model_type: str, pictures: list[ImageFile]
) -> None:
    chat = LocalChat.from_pretrained(str(make_backbone(model_type)), batch_size=3, max_tokens=6, device="cpu")
    sizes, generate = [], chat._generate
    chat._generate = lambda batch: sizes.append(len(batch)) or generate(batch)
    asked = conversations(pictures)
    together = answers(chat, asked)
    assert sizes == [3, 2]
    assert together == [answers(chat, [one])[0] for one in asked]
    assert all(reply.completion_tokens <= 6 and reply.prompt_tokens > 10 for reply in together)
    assert len({reply.text for reply in together}) > 1


def test_it_is_the_model_and_template_of_the_backbone(make_backbone: Callable, pictures: list[ImageFile]) -> None:
    """The reply is what the parts of transformers give when put together by hand."""
    folder = str(make_backbone("qwen2_5_vl"))
    model, tokenizer = AutoModelForImageTextToText.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    image = AutoImageProcessor.from_pretrained(folder)(
        [Image.open(io.BytesIO(pictures[1].data)).convert("RGB")], return_tensors="pt"
    )
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this?"}]}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    text = text.replace("<|image_pad|>", "<|image_pad|>" * int(image["image_grid_thw"].prod() // 4))
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    types = (ids == model.config.image_token_id).long()
    with torch.no_grad():
        whole = model.generate(ids, mm_token_type_ids=types, **image, max_new_tokens=8, do_sample=False)[0]
    expected = tokenizer.decode(whole[ids.shape[1] :], skip_special_tokens=True).strip()

    chat = LocalChat.from_pretrained(folder, max_tokens=8, device="cpu")
    asked = [{"role": "user", "content": "what is this?", "image": pictures[1]}]
    (reply,) = answers(chat, [asked])
    assert expected and reply.text == expected and reply.prompt_tokens == ids.shape[1]


def test_the_end_of_a_reply(make_backbone: Callable, pictures: list[ImageFile]) -> None:
    """What follows the token of the end, in a batch with longer replies, is not a part of it."""
    chat = LocalChat.from_pretrained(str(make_backbone("qwen2_5_vl")), max_tokens=5, device="cpu")
    end = chat.model.generation_config.eos_token_id
    end = end[0] if isinstance(end, list) else end
    word = chat.processor.tokenizer("apple")["input_ids"][-1]

    def generate(input_ids: torch.Tensor, **_) -> torch.Tensor:
        written = torch.tensor([[word, end, word, word, word], [word] * 5])
        return torch.cat([input_ids, written], dim=1)

    chat.model.generate = generate
    short, long = answers(chat, conversations(pictures[:2]))
    assert (short.cut_off, short.completion_tokens) == (False, 2) and (long.cut_off, long.completion_tokens) == (
        True,
        5,
    )
    assert len(short.text) < len(long.text)


def test_a_fault_reaches_everybody_who_waits(make_backbone: Callable, pictures: list[ImageFile]) -> None:
    chat = LocalChat.from_pretrained(str(make_backbone("qwen2_5_vl")), batch_size=2, max_tokens=2, device="cpu")
    bad = [{"role": "user", "content": "<|image_pad|>", "image": pictures[0]}]

    async def run() -> list:
        return await asyncio.gather(*(chat.complete(bad, 0) for _ in range(3)), return_exceptions=True)

    assert [type(error) for error in asyncio.run(run())] == [ValueError] * 3


def test_pictures_are_shrunk(make_backbone: Callable, pictures: list[ImageFile]) -> None:
    folder = str(make_backbone("qwen2_5_vl"))
    asked = [[{"role": "user", "content": "what?", "image": picture}] for picture in pictures]
    whole = answers(LocalChat.from_pretrained(folder, max_tokens=1, device="cpu"), asked)
    chat = LocalChat.from_pretrained(folder, max_tokens=1, device="cpu", max_pixels=28 * 28)
    shrunk = answers(chat, asked)
    assert len({reply.prompt_tokens for reply in shrunk}) == 1 < len({reply.prompt_tokens for reply in whole})
    assert chat.fingerprint["pixels"][1] == 28 * 28


def test_known_again_by_name_and_weights(make_backbone: Callable) -> None:
    chat = LocalChat.from_pretrained(str(make_backbone("qwen2_5_vl")), device="cpu")
    before = chat.fingerprint
    with torch.no_grad():
        next(chat.model.parameters()).add_(1)
    assert before["model"] == str(make_backbone("qwen2_5_vl")) and chat.fingerprint != before


def test_settings_and_models_that_cannot_be(make_backbone: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        LocalChat.from_pretrained(str(make_backbone("qwen2_5_vl")), batch_size=0)
    folder = shutil.copytree(make_backbone("qwen2_5_vl"), tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="is no Qwen vision-language model with a chat template"):
        LocalChat.from_pretrained(str(folder))
