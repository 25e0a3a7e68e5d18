"""Processor: any mixture of texts, images and videos to tensors that end with the compression tokens."""

import functools
import os
import re
import reprlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import BatchFeature, ProcessorMixin
from transformers.utils import has_file

from .images_coma import images_by_grid, images_by_stock, join_images, make_stock_processor
from .inputs_coma import MAX_IMAGE_PIXELS, check_dialogues, to_messages, to_rgb, visuals_of
from .options_coma import call_options, is_int, set_limits
from .pages_coma import PAGE_PIXELS
from .processing_videos_coma import VideosMixin
from .rows_coma import (
    as_list,
    check_counts,
    compression_tokens,
    cut_row,
    images_per_row,
    join_row,
    of_each_row,
    tokens_before,
)
from .sentence_transformers_coma import FILES, write_sentence_transformers_files
from .templates_coma import DIALOGUE_TEMPLATE, IMAGE_TOKEN, PLACEHOLDER, check_text, find_placeholders, input_template


NO_VIDEOS = (
    "This model takes none: its backbone has no way of its own for videos, or its video processor could not be made "
    "(it needs torchvision) where the model was. Give some frames as images."
)
# Others of the image processor do nothing to these images, or belong to the model, as the size of its patches.
IMAGE_OPTIONS = {"size", "resample", "do_resize", "do_rescale", "rescale_factor", "do_normalize"}
IMAGE_OPTIONS |= {"image_mean", "image_std", "device"}


class ComaProcessor(VideosMixin, ProcessorMixin):
    r"""
    Makes the inputs of a [`ComaForEmbedding`].

    Args:
        image_processor: that of the backbone. Of one that counts patches (`image_grid_thw`), `size` is the pixel
            budget, `shortest_edge` and `longest_edge` in pixels per image.
        tokenizer: a tokenizer that has the compression tokens.
        chat_template (`dict[str, str]`): templates "default" (inputs) and "dialogue".
        num_compression_tokens (`int`): K.
        image_instruction, text_instruction (`str`): line of stage 1 after an input with, or without, images.
        max_length (`int`, *optional*): limit of a row in tokens, image and compression tokens included.
        max_image_pixels (`int`): an image with more is refused before it is decoded, as it could fill the memory.
        image_token (`str`): the token which tokens of an image replace.
        image_placeholder (`str`): what a rendered text has where an image stands, that token in its middle.
        stock_processor (`dict`, *optional*): settings of the backbone's own processor, which then makes the tokens
            and tensors of images; without it there are as many tokens as patches, merged.
        image_inputs (`dict[str, int]`, *optional*): names of those of its tensors that the vision tower takes, with
            the axis along which those of several images are joined.
        video_format (`dict`, *optional*): how the backbone takes videos, as `trainers.video_format` finds it; without
            it there are none.
        video_fps (`float`): how many frames of a second of a video are taken; and how many of its frames a second
            had, of a video that is given as a list of them.
        max_video_frames (`int`): how many frames at most.
        max_video_pixels (`int`): pixels of all of them together, to which they are shrunk before the backbone's own
            processor gives them the size that it wants.
    Raises `ValueError` if the tokenizer lacks compression tokens, or the pixel budget holds no image token.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: dict[str, str] | str | None = None,
        num_compression_tokens: int = 32,
        image_instruction: str = "\nSummarize above image and text in a few words.",
        text_instruction: str = "\nSummarize above text in a few words.",
        max_length: int | None = None,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
        image_token: str = IMAGE_TOKEN,
        image_placeholder: str = PLACEHOLDER,
        stock_processor: dict[str, Any] | None = None,
        image_inputs: dict[str, int] | None = None,
        video_format: dict[str, Any] | None = None,
        video_fps: float = 2.0,
        max_video_frames: int = 64,
        max_video_pixels: int = 2**24,
    ):
        if not isinstance(chat_template, dict):
            default = chat_template or input_template(image_placeholder, (video_format or {}).get("placeholder"))
            chat_template = {"default": default, "dialogue": DIALOGUE_TEMPLATE}
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        set_limits(self, max_image_pixels=max_image_pixels, max_video_frames=max_video_frames)
        set_limits(self, max_video_pixels=max_video_pixels, video_fps=video_fps)
        self.video_format = video_format
        self.num_compression_tokens = num_compression_tokens
        self.max_length = max_length
        self.image_instruction = image_instruction
        self.text_instruction = text_instruction
        self.image_token = image_token
        self.image_placeholder = image_placeholder
        self.stock_processor = stock_processor
        self.image_inputs = image_inputs or {"pixel_values": 0, "image_grid_thw": 0}
        vocabulary = tokenizer.get_vocab()
        if missing := [token for token in compression_tokens(num_compression_tokens) if token not in vocabulary]:
            raise ValueError(f"The tokenizer lacks {missing}; trainers.backbone.model_from_backbone adds them.")
        if stock_processor is None:
            self.check_pixel_budget(image_processor.size)
        self.head_ids = tokens_before(tokenizer)

    @property
    def compression_token_ids(self) -> list[int]:
        return self.tokenizer.convert_tokens_to_ids(compression_tokens(self.num_compression_tokens))

    @property
    def page_pixels(self) -> int:
        """With how many pixels the page of a PDF is drawn: as many as an image may keep, where that is known."""
        size = self.image_processor.size
        return size["longest_edge"] if self.stock_processor is None else PAGE_PIXELS

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """What texts must not type: the special tokens of the tokenizer, all others of the form `<…>`, and the token
        of images."""
        added = [token for _, token in sorted(self.tokenizer.added_tokens_decoder.items())]
        tokens = [token.content for token in added if token.special or re.fullmatch("<.*>", token.content, re.S)]
        return tuple(dict.fromkeys([*tokens, self.image_token]))

    def process(self, inputs: list, **kwargs) -> BatchFeature:
        """Texts, images, dicts and chat messages, mixed at will (see `to_messages`), to tensors; see `__call__`."""
        if not isinstance(inputs, list | tuple) or not inputs:
            given = f"{type(inputs).__name__} {reprlib.repr(inputs)}"
            raise ValueError(f"Give a list of inputs, even if of one, not {' '.join(given.split())}.")
        tokens = self.control_tokens
        conversations = [self.to_messages(item, row, tokens) for row, item in enumerate(inputs)]
        images, videos = ([visuals_of(messages, kind) for messages in conversations] for kind in ("image", "video"))
        texts = super().apply_chat_template(conversations)
        if not any("return_tensors" in (kwargs.get(group) or {}) for group in ("text_kwargs", "common_kwargs")):
            kwargs = {"return_tensors": "pt", **kwargs}
        return self(images, texts, videos, **kwargs)

    def to_messages(self, item: Any, row: int = 0, tokens: tuple[str, ...] = ()) -> list[dict]:
        """As the function of this name, where there can be videos."""
        messages = to_messages(item, row, tokens)
        if self.video_format is None and visuals_of(messages, "video"):
            raise ValueError(f"Row {row} has a video. {NO_VIDEOS}")
        return messages

    def apply_chat_template(self, conversation: list, chat_template: str | None = None, **kwargs) -> Any:
        """As in [`ProcessorMixin`], of messages that [`to_messages`] has checked. This is the way that
        sentence-transformers takes."""
        is_batch = isinstance(conversation, list | tuple) and isinstance(next(iter(conversation), None), list | tuple)
        conversations = list(conversation) if is_batch else [conversation]
        tokens = self.control_tokens
        if chat_template in (None, "default"):
            conversations = [self.to_messages(messages, row, tokens) for row, messages in enumerate(conversations)]
        elif chat_template == "dialogue":
            check_dialogues(conversations, tokens)
        return super().apply_chat_template(conversations if is_batch else conversations[0], chat_template, **kwargs)

    def process_dialogues(self, dialogues: list[list[dict]], add_generation_prompt: bool = False) -> BatchFeature:
        """Lists of messages to unpadded rows of `input_ids`, and of `assistant_masks` with 1 where the answers are.
        Raises `ValueError` for a message that is no text of a system, user or assistant, or types a special token."""
        if not isinstance(dialogues, list | tuple) or not dialogues:
            raise ValueError(f"Give a list of dialogues, even if of one, not {reprlib.repr(dialogues)}.")
        check_dialogues(dialogues, self.control_tokens)
        return self.tokenizer.apply_chat_template(
            list(dialogues),
            chat_template=self.chat_template["dialogue"],
            add_generation_prompt=add_generation_prompt,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )

    def process_images(self, images: list, rows: list[int], **images_kwargs) -> list[dict[str, np.ndarray]]:
        """Of each image its tensors, as `image_inputs` names them, and as `input_ids` the tokens that stand for it;
        `rows` are their places in the batch, for error messages."""
        limits = self.max_image_pixels, self.page_pixels
        images = [to_rgb(image, row, *limits) for image, row in zip(images, rows, strict=True)]
        if self.stock_processor is None:
            image_token_id = self.tokenizer.convert_tokens_to_ids(self.image_token)
            return images_by_grid(self.image_processor, image_token_id, images, **images_kwargs)
        return [self._process_image(image, row, **images_kwargs) for image, row in zip(images, rows, strict=True)]

    def _process_image(self, image: Image.Image, row: int, **images_kwargs) -> dict[str, np.ndarray]:
        try:
            made = images_by_stock(self.stock, self.image_token, [image], **images_kwargs)
        except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
            what = f"cannot make the tokens of an image of {image.width}x{image.height} pixels"
            raise ValueError(f"Row {row}: {type(self.stock).__name__} {what}: {error}") from error
        return {"input_ids": made["input_ids"][0], **{name: made[name] for name in self.image_inputs}}

    @functools.cached_property
    def stock(self) -> Any:
        """The backbone's own processor."""
        return make_stock_processor(self.stock_processor, self.image_processor, self.tokenizer)

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: list[list] | None = None,
        audio: None = None,
        images_kwargs: dict | None = None,
        text_ids: list | None = None,
        **kwargs,
    ) -> BatchFeature:
        r"""
        Rendered texts, their images and their videos to the arguments of [`ComaForEmbedding`]. Compression tokens are
        added here.

        Args:
            images: an image, or images in the order of the placeholders, flat or one list per row.
            text (`str` or `list[str]`): rows, with the `image_placeholder` where an image stands, the placeholder of
                `video_format` where a video does, and no other special token; by default a row per image.
            videos (`list[list]`): those of each row.
            images_kwargs (`dict`): passed to the image processor, `size` for instance.
            text_ids (`list`): ids of each text, if it has been tokenized (without special tokens) before.
            kwargs: `compression_instruction`, whether to add the line of stage 1 (`False` by default); `max_length`,
                at which text is cut with a warning or, if `truncation=False`, an error; `padding_side` ("left" by
                default); `return_tensors`; `text_kwargs` and `common_kwargs` with any of them; and
                `return_images`, whether to add `images` and `videos`, of each row a list of what is made of them.
        Raises `ValueError` for images that cannot be used or placed, and for rows too long even without their text.
        """
        if audio is not None:
            raise TypeError("CoMa embeds texts, images and videos, and no audio.")
        if self.video_format is None and any(len(of_row) for of_row in videos or ()):
            raise ValueError(NO_VIDEOS)
        options = {"max_length": self.max_length, **call_options(kwargs)}
        images_kwargs = images_kwargs or {}
        self._check_image_options(images_kwargs)
        images = as_list(images)
        if text is None:
            text = [self.image_placeholder] * len(images)
        elif isinstance(text, str):
            text = [text]
        if not isinstance(text, list | tuple) or not text:
            raise ValueError(f"Give `images`, `text` (a str or a list of them), or both, not {reprlib.repr(text)}.")
        is_video = self._placeholders(text)
        images = images_per_row(images, [of_row.count(False) for of_row in is_video])
        if empty := [row for row, content in enumerate(text) if not content.strip()]:
            raise ValueError(f"Rows {empty} are empty: they have no image and no text other than blanks.")
        both, images, videos = self._see(images, videos, is_video, images_kwargs)
        if text_ids is None:
            text_ids = self.tokenizer(list(text), add_special_tokens=False)["input_ids"]
        rows = self._join(text_ids, [[one["input_ids"] for one in of_row] for of_row in both], options)
        features = join_images(sum(images, []), self.image_inputs) | join_images(sum(videos, []), self.video_inputs)
        padding = {"padding_side": options.get("padding_side") or "left", "return_attention_mask": True}
        features |= self.tokenizer.pad({"input_ids": rows}, **padding, return_tensors="np")
        batch = BatchFeature(features, tensor_type=options.get("return_tensors"))
        if options.get("return_images"):
            batch |= {"images": images, "videos": videos}
        return batch

    def _see(
        self, images: list[list], videos: list[list] | None, is_video: list[list[bool]], images_kwargs: dict
    ) -> tuple[list[list[dict]], list[list[dict]], list[list[dict]]]:
        """What is made of images and videos, by rows: all of them in their order, what the backbone takes as images,
        and what as videos."""
        videos = [[] for _ in images] if videos is None else list(videos)
        check_counts(videos, [sum(of_row) for of_row in is_video], "video")
        made = of_each_row(self.process_images, images, **images_kwargs), of_each_row(self.process_videos, videos)
        both = [[next(made[kind]) for kind in of_row] for of_row in is_video]
        names = self.video_inputs.keys() or {""}  # none are videos where their frames are images to the backbone
        as_videos = [[one for one in of_row if names <= one.keys()] for of_row in both]
        return both, [[one for one in of_row if not names <= one.keys()] for of_row in both], as_videos

    def _check_image_options(self, options: dict):
        known = IMAGE_OPTIONS if self.stock_processor is None else self.image_processor.valid_kwargs.__annotations__
        if unknown := sorted(options.keys() - set(known)):
            raise TypeError(f"images_kwargs: there are no {unknown} to be set in a call, but {sorted(known)}.")
        if "size" in options and self.stock_processor is None:
            self.check_pixel_budget(options["size"])

    def check_pixel_budget(self, size: Any):
        """Raises `ValueError` for a `size` that holds no image token."""
        try:
            least = size["shortest_edge"]
            most = size["longest_edge"]
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError(f"size={size!r} lacks shortest_edge and longest_edge, in pixels of an image.") from error
        side = self.image_processor.patch_size * self.image_processor.merge_size
        if not (is_int(least) and is_int(most) and 1 <= least <= most >= side**2):
            raise ValueError(f"The pixel budget, {least!r} to {most!r}, does not hold an image token: {side}x{side}.")

    @property
    def _placeholder_texts(self) -> tuple[str, ...]:
        return (self.image_placeholder, *([self.video_format["placeholder"]] if self.video_format else []))

    def _placeholders(self, text: list[str]) -> list[list[bool]]:
        """What each rendered text shows, in its order: an image, or (`True`) a video. Other special tokens are the
        template's, or typed: refused."""
        template = self.chat_template["default"]
        placeholders = self._placeholder_texts
        tokens = [token for token in self.control_tokens if token in "".join(placeholders) or token not in template]
        for row, content in enumerate(text):
            if not isinstance(content, str):
                raise ValueError(f"Row {row}: `text` is a str or a list of them, not {reprlib.repr(content)}.")
            check_text(content, row, tuple(tokens), placeholders=placeholders)
        found = (find_placeholders(content, placeholders) for content in text)
        return [[placeholder != self.image_placeholder for placeholder in of_row] for of_row in found]

    def _join(self, text_ids: list, visuals: list[list[np.ndarray]], options: dict) -> list[list[int]]:
        """Ids of every row: its text, with the tokens of its images and videos, its instruction, the compression
        tokens."""
        texts = "".join(self._placeholder_texts)
        around = [token for token in self.control_tokens if token in texts]
        places = [self.image_token, *([self.video_format["token"]] if self.video_format else [])]
        around, places = map(self.tokenizer.convert_tokens_to_ids, (around, places))
        tails = {}  # of rows with images and without: the same for all of them
        rows = []
        for row, (ids, of_row) in enumerate(zip(text_ids, visuals, strict=True)):
            has_image = len(of_row) > 0
            if has_image not in tails:
                tails[has_image] = self._tail(has_image, row, options)
            ids = np.array([*self.head_ids, *ids], dtype=np.int64)
            is_text = np.ones(len(ids), dtype=bool)
            if has_image:
                ids, is_text = join_row(ids, places, around, of_row)
            kept = len(self.head_ids) + (not has_image)  # of the text, at least
            ids = cut_row(ids, is_text, kept, len(tails[has_image]), row, options)
            rows.append([*ids.tolist(), *tails[has_image]])
        return rows

    def _tail(self, has_image: bool, row: int, options: dict) -> list[int]:
        if not options.get("compression_instruction"):
            return self.compression_token_ids
        instruction = self.image_instruction if has_image else self.text_instruction
        check_text(instruction, row, self.control_tokens)
        return self.tokenizer(instruction, add_special_tokens=False)["input_ids"] + self.compression_token_ids

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """As in [`ProcessorMixin`], and where they are missing the files by which sentence-transformers loads."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        write_sentence_transformers_files(Path(save_directory))
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _upload_modified_files(self, working_dir: str, repo_id: str, files_timestamps: dict, **kwargs) -> Any:
        """Of the files of sentence-transformers a repository gets those that it lacks: it may have its own prompts."""
        for name in FILES:
            try:
                is_there = has_file(repo_id, name, revision=kwargs.get("revision"), token=kwargs.get("token"))
            except OSError:  # a branch that the push will make
                is_there = False
            files_timestamps |= {name: float("inf" if is_there else "-inf")}  # of the last change that it has
        return super()._upload_modified_files(working_dir, repo_id, files_timestamps, **kwargs)


__all__ = ["ComaProcessor", "compression_tokens", "tokens_before"]
