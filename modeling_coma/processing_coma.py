"""Processor: any mixture of texts and pictures to tensors that end with the compression tokens."""

from typing import Any

import numpy as np
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.utils import logging

from .inputs_coma import to_messages, to_rgb


logger = logging.get_logger(__name__)

IMAGE_TOKENS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
OPTIONS = {"compression_instruction", "max_length", "truncation", "padding_side", "return_tensors"}
OPTIONS |= {"videos_kwargs", "audio_kwargs"}  # which sentence-transformers passes to every processor
# An input is rendered as it is; a system message is an instruction on a line of its own.
INPUT_TEMPLATE = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for block in message.content %}{% if block.type == 'image' %}{{ '" + "".join(IMAGE_TOKENS) + "' }}"
    "{% else %}{{ block.text }}{% endif %}{% endfor %}{% endif %}{{ '' if loop.last else '\n' }}{% endfor %}"
)
# ChatML. Between the generation marks stands what the model says, its end of turn included.
DIALOGUE_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class ComaProcessor(ProcessorMixin):
    r"""
    Makes the inputs of a [`ComaForEmbedding`].

    Args:
        image_processor: its `size` is the pixel budget, `shortest_edge` and `longest_edge` in pixels per image.
        tokenizer: a tokenizer that has the compression tokens.
        chat_template (`dict[str, str]`): templates "default" (inputs) and "dialogue".
        num_compression_tokens (`int`): K.
        image_instruction, text_instruction (`str`): line of stage 1 after an input with, or without, pictures.
        max_length (`int`, *optional*): limit of a row in tokens, image and compression tokens included.
    Raises `ValueError` if the tokenizer lacks compression tokens, or the pixel budget holds no image token.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: dict[str, str] | None = None,
        num_compression_tokens: int = 32,
        image_instruction: str = "\nSummarize above image and text in a few words.",
        text_instruction: str = "\nSummarize above text in a few words.",
        max_length: int | None = None,
    ):
        chat_template = chat_template or {"default": INPUT_TEMPLATE, "dialogue": DIALOGUE_TEMPLATE}
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.num_compression_tokens, self.max_length = num_compression_tokens, max_length
        self.image_instruction, self.text_instruction = image_instruction, text_instruction
        vocabulary = tokenizer.get_vocab()
        if missing := [token for token in compression_tokens(num_compression_tokens) if token not in vocabulary]:
            raise ValueError(f"The tokenizer lacks {missing}; ComaForEmbedding.from_backbone adds them.")
        side, size = image_processor.patch_size * image_processor.merge_size, image_processor.size
        if not side**2 <= size["longest_edge"] >= size["shortest_edge"]:
            raise ValueError(f"The pixel budget, {size}, does not hold an image token, which is {side}x{side} pixels.")

    @classmethod
    def from_backbone(cls, name_or_path: str, num_compression_tokens: int = 32, **kwargs) -> "ComaProcessor":
        """The processor of a backbone, K compression tokens added to its tokenizer; kwargs as in `from_pretrained`."""
        if not 1 <= num_compression_tokens <= 256:
            raise ValueError(f"num_compression_tokens must be 1 to 256, got {num_compression_tokens}.")
        image_processor = AutoImageProcessor.from_pretrained(name_or_path, **kwargs)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **kwargs)
        tokenizer.add_tokens(compression_tokens(num_compression_tokens), special_tokens=True)
        return cls(image_processor, tokenizer, num_compression_tokens=num_compression_tokens)

    @property
    def compression_token_ids(self) -> list[int]:
        return self.tokenizer.convert_tokens_to_ids(compression_tokens(self.num_compression_tokens))

    def process(self, inputs: list, **kwargs) -> BatchFeature:
        """Texts, pictures, dicts and chat messages, mixed at will (see `to_messages`), to tensors; see `__call__`."""
        if not isinstance(inputs, list | tuple) or not inputs:
            raise ValueError(f"Give a list of inputs, even if of one, not {type(inputs).__name__} {inputs!r:.80}.")
        conversations = [to_messages(item, row) for row, item in enumerate(inputs)]
        contents = ([block for message in messages for block in message["content"]] for messages in conversations)
        images = [[block["image"] for block in blocks if block["type"] == "image"] for blocks in contents]
        return self(images, self.apply_chat_template(conversations), **{"return_tensors": "pt", **kwargs})

    def process_dialogues(self, dialogues: list[list[dict]], add_generation_prompt: bool = False) -> BatchFeature:
        """Lists of messages to unpadded rows of `input_ids`, and of `assistant_masks` with 1 where the answers are."""
        options = {"chat_template": self.chat_template["dialogue"], "add_generation_prompt": add_generation_prompt}
        options |= {"return_dict": True, "return_assistant_tokens_mask": True}
        dialogues = self.tokenizer.apply_chat_template(dialogues, **options)
        of_inputs = {*self.tokenizer.convert_tokens_to_ids(IMAGE_TOKENS), *self.compression_token_ids}
        if bad := [row for row, ids in enumerate(dialogues["input_ids"]) if not of_inputs.isdisjoint(ids)]:
            raise ValueError(f"Dialogues are text: rows {bad} have image or compression tokens in them.")
        return dialogues

    def process_images(self, images: list, rows: list[int], **images_kwargs) -> dict[str, np.ndarray]:
        """`pixel_values` and `image_grid_thw` of images; `rows` are their places in the batch, for error messages."""
        images = [to_rgb(*pair) for pair in zip(images, rows, strict=True)]
        features = self.image_processor(images, return_tensors="pt", **images_kwargs)  # which all its backends know
        return {name: tensor.numpy() for name, tensor in features.items()}

    def __call__(
        self,
        images: list | None = None,
        text: str | list[str] | None = None,
        images_kwargs: dict | None = None,
        **kwargs,
    ) -> BatchFeature:
        r"""
        Rendered texts and their pictures to the arguments of [`ComaForEmbedding`]. Compression tokens are added here.

        Args:
            images (`list`): pictures in the order of the placeholders, flat or one list per row.
            text (`str` or `list[str]`): rows, with one `<|image_pad|>` per picture; by default a row per picture.
            images_kwargs (`dict`): passed to the image processor, `size` for instance.
            kwargs: `compression_instruction`, whether to add the line of stage 1 (`False` by default); `max_length`,
                at which text is cut with a warning or, if `truncation=False`, an error; `padding_side` ("left" by
                default); `return_tensors`; `text_kwargs` and `common_kwargs` with any of them.
        Raises `ValueError` for pictures that cannot be used or placed, and for rows too long even without their text.
        """
        options = {"max_length": self.max_length} | kwargs
        options |= options.pop("text_kwargs", {}) | options.pop("common_kwargs", {})
        if unknown := {n for n, v in options.items() if v is not None and (n, v) != ("padding", True)} - OPTIONS:
            raise TypeError(f"ComaProcessor has no options {sorted(unknown)}; it has {sorted(OPTIONS)}.")
        images = images or []
        text = [text] if isinstance(text, str) else text or ["".join(IMAGE_TOKENS)] * len(images)
        images = _images_per_row(images, [row.count(IMAGE_TOKENS[1]) for row in text])
        if empty := [row for row, content in enumerate(text) if not content.strip()]:
            raise ValueError(f"Rows {empty} are empty: they have no image and no text other than blanks.")
        features, lengths = {}, iter(())
        if any(images):
            flat = [(image, row) for row, of_row in enumerate(images) for image in of_row]
            features = self.process_images(*zip(*flat, strict=True), **(images_kwargs or {}))
            lengths = iter(np.prod(features["image_grid_thw"], axis=1) // self.image_processor.merge_size**2)
        rows, image_ids = [], self.tokenizer.convert_tokens_to_ids(IMAGE_TOKENS)
        for row, ids in enumerate(self.tokenizer(text, add_special_tokens=False)["input_ids"]):
            repeats = np.ones(len(ids), dtype=int)  # of each token: an image placeholder stands for many
            repeats[np.array(ids) == image_ids[1]] = [next(lengths) for _ in images[row]]
            tail = self.compression_token_ids
            if options.get("compression_instruction"):
                instruction = self.image_instruction if images[row] else self.text_instruction
                tail = self.tokenizer(instruction, add_special_tokens=False)["input_ids"] + tail
            ids = _cut(np.repeat(ids, repeats), image_ids, len(tail), row, options)
            rows.append(np.concatenate([ids, tail]).astype(np.int64))
        features |= _pad(rows, self.tokenizer.pad_token_id, options.get("padding_side", "left"))
        return BatchFeature(features, tensor_type=options.get("return_tensors"))


def compression_tokens(num_compression_tokens: int) -> list[str]:
    """`<|ctoken_pad_0|>` …, named as in the published CoMa checkpoints."""
    return [f"<|ctoken_pad_{index}|>" for index in range(num_compression_tokens)]


def _images_per_row(images: list, counts: list[int]) -> list[list]:
    if not any(isinstance(of_row, list | tuple) for of_row in images) and len(images) == sum(counts):
        flat = iter(images)
        return [[next(flat) for _ in range(count)] for count in counts]
    found = [len(of_row) if isinstance(of_row, list | tuple) else 1 for of_row in images]
    if found != counts:
        raise ValueError(f"The texts have these numbers of image placeholders: {counts}; the rows of images: {found}.")
    return images


def _cut(ids: np.ndarray, image_ids: list[int], tail: int, row: int, options: dict) -> np.ndarray:
    """An input that leaves room for its tail within the limit: text gives way, pictures never."""
    limit = options["max_length"]
    excess = 0 if limit is None else len(ids) + tail - limit
    if excess <= 0:
        return ids
    text = np.flatnonzero(~np.isin(ids, image_ids))
    message = f"Row {row} is {len(ids) - len(text)} tokens of images, {len(text)} of text and {tail} of compression"
    removable = 0 if options.get("truncation") in (False, "do_not_truncate") else len(text) - (len(text) == len(ids))
    if excess > removable:
        raise ValueError(f"{message}, max_length is {limit}: raise it, allow truncation, or lower the pixel budget.")
    logger.warning(f"{message}, max_length is {limit}: the last {excess} tokens of its text are cut.")
    return np.delete(ids, text[-excess:])


def _pad(rows: list[np.ndarray], pad_token_id: int, side: str) -> dict[str, np.ndarray]:
    input_ids = np.full((len(rows), max(map(len, rows))), pad_token_id)
    attention_mask = np.zeros_like(input_ids)
    for row, ids in enumerate(rows):
        place = {"left": slice(-len(ids), None), "right": slice(len(ids))}[side]
        input_ids[row, place], attention_mask[row, place] = ids, 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


__all__ = ["ComaProcessor", "compression_tokens"]
