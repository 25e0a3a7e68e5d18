"""A vision-language model on this machine that writes dialogues, many at one time."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import sys
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, PreTrainedModel

from modeling_coma import ComaProcessor
from trainers.data.qa.chat import Message, Reply


__all__ = ["LocalChat"]


@dataclass(eq=False)
class _Request:
    messages: list[Message]
    reply: Reply | None = None


class LocalChat:
    """
    Generates in batches; a [`Chat`]. There are twice as many conversations as a batch has room for, so that while one
    batch is computed the next one comes together.

    Args:
        model (`PreTrainedModel`): a backbone that CoMa knows, where it is to compute.
        processor ([`ComaProcessor`]): one without compression tokens, whose template is that of the backbone.
        name (`str`): name of the model.
        batch_size (`int`, *optional*, defaults to 8): conversations in a batch.
        temperature (`float`, *optional*, defaults to 0.0): at 0 the likeliest token is taken.
        max_tokens (`int`, *optional*, defaults to 1024): limit of a reply.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ComaProcessor,
        name: str,
        batch_size: int = 8,
        temperature: float = 0.0,
        max_tokens: int = 1024,
    ) -> None:
        if min(batch_size, max_tokens) < 1 or not 0 <= temperature < math.inf:
            raise ValueError(
                f"batch_size={batch_size} and max_tokens={max_tokens} must be 1 or more, "
                f"temperature={temperature} not below 0."
            )
        self.model, self.processor, self.name = model.eval(), processor, name
        self.batch_size, self.temperature, self.max_tokens = batch_size, temperature, max_tokens
        self.concurrency = 2 * batch_size
        self._waiting: list[_Request] = []
        self._one_batch = asyncio.Lock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        dtype: str = "auto",
        device: str = "auto",
        max_pixels: int | None = None,
        **settings: Any,
    ) -> LocalChat:
        """
        Loads a Qwen2-VL, Qwen2.5-VL or Qwen3-VL; other models answer through a server.

        Args:
            name_or_path (`str`): a folder, or a name on the Hub.
            dtype, device (`str`, *optional*): as in `coma embed`.
            max_pixels (`int`, *optional*): what images are shrunk to, by default as the model has it.
            settings: those of [`LocalChat`].

        Returns:
            [`LocalChat`]

        Raises:
            ValueError: for a model of another kind.
        """
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        image_processor = AutoImageProcessor.from_pretrained(name_or_path)
        if "<|image_pad|>" not in tokenizer.get_vocab() or not tokenizer.chat_template:
            raise ValueError(f"{name_or_path} is no Qwen vision-language model with a chat template; start a server.")
        if max_pixels is not None:
            image_processor.size = dataclasses.replace(image_processor.size, longest_edge=max_pixels)
        # Without compression tokens this is the processor of the backbone, and does with and without torchvision.
        templates = {"default": tokenizer.chat_template}
        processor = ComaProcessor(image_processor, tokenizer, chat_template=templates, num_compression_tokens=0)
        processor.max_image_pixels = sys.maxsize  # whoever has read them knows the limit
        model = AutoModelForImageTextToText.from_pretrained(name_or_path, dtype=dtype)
        if device == "auto":
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        return cls(model.to(device), processor, name_or_path, **settings)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for two runs to be one."""
        weight = next(self.model.parameters()).detach().flatten()[:4].float().tolist()
        size = self.processor.image_processor.size
        known_by = {
            "pixels": [size["shortest_edge"], size["longest_edge"]],
            "parameters": self.model.num_parameters(),
            "begins": [round(value, 5) for value in weight],
        }
        return {"model": self.name, "temperature": self.temperature, "max_tokens": self.max_tokens, **known_by}

    async def complete(self, messages: list[Message], seed: int) -> Reply:
        """
        Answers the last of the messages.

        Args:
            messages (`list[dict]`): turns of user and assistant, with an image in the first.
            seed (`int`): of no use here, as a batch draws for all of its conversations.

        Returns:
            [`Reply`]
        """
        request = _Request(messages)
        self._waiting.append(request)
        async with self._one_batch:  # whoever comes first takes along those who wait behind it
            if request.reply is None:
                await asyncio.sleep(0)  # others may be about to ask
                batch = self._waiting[: self.batch_size]
                try:
                    replies = await asyncio.to_thread(self._generate, [one.messages for one in batch])
                except torch.OutOfMemoryError as error:
                    raise MemoryError(f"Take a smaller batch than {self.batch_size}, or fewer pixels.") from error
                del self._waiting[: len(batch)]
                for one, reply in zip(batch, replies, strict=True):
                    one.reply = reply
        return request.reply

    @torch.no_grad()
    def _generate(self, conversations: list[list[Message]]) -> list[Reply]:
        texts = self.processor.tokenizer.apply_chat_template(
            [_blocks(messages) for messages in conversations], tokenize=False, add_generation_prompt=True
        )
        images = [[message["image"].data for message in messages[:1]] for messages in conversations]
        inputs = self.processor(images, texts, return_tensors="pt").to(self.model.device)
        is_image = inputs["input_ids"] == self.model.config.image_token_id
        drawn = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        written = self.model.generate(
            **inputs, mm_token_type_ids=is_image.long(), max_new_tokens=self.max_tokens, **drawn
        )[:, inputs["input_ids"].shape[1] :]
        ends = torch.tensor(self.model.generation_config.eos_token_id, device=written.device).reshape(-1)
        ended = torch.isin(written, ends).long().cumsum(1)
        before_end = (ended == 0).sum(1).tolist()
        replies = []
        for ids, length, prompt in zip(written, before_end, inputs["attention_mask"].sum(1).tolist(), strict=True):
            text = self.processor.tokenizer.decode(ids[:length], skip_special_tokens=True)
            cut_off = length == len(ids)
            replies.append(Reply(text.strip(), cut_off, prompt, length + (not cut_off)))
        return replies


def _blocks(messages: list[Message]) -> list[dict[str, Any]]:
    return [
        {"role": message["role"], "content": [{"type": "image"}, {"type": "text", "text": message["content"]}]}
        if "image" in message
        else {"role": message["role"], "content": message["content"]}
        for message in messages
    ]
