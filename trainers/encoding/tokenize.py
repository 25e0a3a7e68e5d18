"""Items to be embedded as rows of tokens: each is rendered and tokenized once, before any image is decoded."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Column, Dataset
from PIL import Image

from modeling_coma import ComaProcessor
from modeling_coma.inputs_coma import open_image, to_messages, visuals_of
from trainers.data.images import as_image, image_key
from trainers.data.videos import video_key
from trainers.encoding.video_tokens import video_tokens


__all__ = ["ItemReader", "TokenizedRow", "token_lengths", "tokenize"]

CHUNK = 1024  # rows that are rendered and tokenized at one time
ORDER = ("image", "video", "text")  # in which training shows them
PROBE = 224  # pixels on a side of the image by which a processor is tried


class TokenizedRow(NamedTuple):
    """
    A row whose text is tokenized, or why it cannot be read.

    Args:
        place (`int`): its place in the items.
        length (`int`): its tokens, with those of its images and of compression; 0 if it cannot be read. Of images
            and videos that the backbone's own processor makes it can be a few off.
        text (`str`): as the template renders it, with a placeholder for each image.
        ids (`np.ndarray`): of the text.
        image_tokens (`int`): how many of its tokens are of images and videos.
        key (`str` or `int`): the same for rows that are equal, by the text and by the paths or bytes of the files; of
            those that cannot be compared their place, which no text is.
        images, videos (`list`, *optional*): its images and videos, undecoded.
        error (`ValueError`, *optional*): what is wrong with it.
    """

    place: int
    length: int = 0
    text: str = ""
    ids: np.ndarray | None = None
    image_tokens: int = 0
    key: str | int = ""
    images: list[Any] | None = None
    videos: list[Any] | None = None
    error: ValueError | None = None


class ItemReader:
    """Rows of a list, a `Dataset` or one of its columns. A `Dataset` gives images as it stores them, undecoded."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.names: list[str] = []
        while isinstance(items, Column):
            self.names.insert(0, items.column_name)
            items = items.source
        if isinstance(items, Dataset):
            columns = self.names[:1] or [name for name in ORDER if name in items.column_names]
            if not columns:
                there = items.column_names
                raise ValueError(f"No column is called image, text or video among {there}; give one of them.")
            items = items.select_columns(columns).with_format("arrow")
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def fetch(self, places: list[int]) -> list[Any]:
        """The items at some places."""
        if not isinstance(self.items, Dataset):
            return [_undecoded(self.items[place]) for place in places]
        values = self.items[places].to_pylist()
        for name in self.names:
            values = [value[name] for value in values]
        if self.names[-1:] == ["video"]:
            return [{"video": as_image(value)} for value in values]
        # The order of a prompt is that of training, the image first, however the fields happen to be stored.
        return [_undecoded(dict(sorted(v.items(), key=_order)) if isinstance(v, dict) else v) for v in values]

    def visuals(self, places: list[int]) -> tuple[list[list[Any]], list[list[Any]]]:
        """The images, and the videos, of the items at some places, undecoded."""
        items = list(map(to_messages, self.fetch(places)))
        images, videos = ([visuals_of(messages, kind) for messages in items] for kind in ("image", "video"))
        return images, videos


def tokenize(
    processor: ComaProcessor, items: ItemReader, places: range, keep_images: bool = False
) -> Iterator[TokenizedRow]:
    """Renders and tokenizes items, some at a time, and gives them in their order. Of images only headers are read."""
    control_tokens = processor.control_tokens
    for start in range(places.start, places.stop, CHUNK):
        chunk = list(range(start, min(start + CHUNK, places.stop)))
        rows, conversations = [], {}
        for place, item in zip(chunk, items.fetch(chunk), strict=True):
            try:
                conversations[place] = _messages(item, processor, control_tokens)
            except ValueError as error:
                rows.append(TokenizedRow(place, key=place, error=error))
        if conversations:
            texts = processor.apply_chat_template(list(conversations.values()))
            ids_of_texts = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
            for (place, messages), text, ids in zip(conversations.items(), texts, ids_of_texts, strict=True):
                around = len(processor.head_ids) + processor.num_compression_tokens
                images, videos = (visuals_of(messages, kind) for kind in ("image", "video"))
                of_images = _image_tokens(processor, images) + video_tokens(processor, videos)
                length = around + len(ids) + of_images
                if processor.max_length is not None:
                    length = min(length, processor.max_length)
                ids = np.array(ids, dtype=np.int32)
                row = TokenizedRow(place, length, text, ids, of_images, _key(place, text, images, videos))
                rows.append(row._replace(images=images, videos=videos) if keep_images else row)
        yield from sorted(rows, key=lambda row: row.place)


def token_lengths(processor: ComaProcessor, items: Sequence[Any]) -> np.ndarray:
    """Tokens of every row, compression tokens included, without decoding an image; 0 for rows that cannot be read."""
    rows = tokenize(processor, ItemReader(items), range(len(items)))
    return np.fromiter((row.length for row in rows), dtype=np.int64, count=len(items))


def _messages(item: Any, processor: ComaProcessor, control_tokens: tuple[str, ...]) -> list[dict]:
    if isinstance(item, ValueError):
        raise item
    return processor.to_messages(item, tokens=control_tokens)


def _order(field: tuple[str, Any]) -> int:
    return ORDER.index(field[0]) if field[0] in ORDER else len(ORDER)


def _key(place: int, text: str, images: list[Any], videos: list[Any]) -> str | int:
    """Open images and arrays are taken for different: to compare them they would have to be decoded."""
    if not all(isinstance(file, str | Path | bytes) for file in [*images, *videos]):
        return place
    return " ".join([text, *map(image_key, images), *map(video_key, videos)])


def _image_tokens(processor: ComaProcessor, images: list[Any]) -> int:
    """Tokens of the images of a row beyond the one placeholder each has in the text."""
    count = _count_by_stock if processor.stock_processor else _count_patches
    tokens = 0
    for image in images:
        try:
            with open_image(image, 0, processor.max_image_pixels, processor.page_pixels) as opened:
                tokens += count(processor, opened.height, opened.width) - 1
        except ValueError:  # it is reported, with its row, when it is decoded
            continue
    return tokens


def _count_patches(processor: ComaProcessor, height: int, width: int) -> int:
    patches = processor.image_processor.get_number_of_image_patches(height, width, {})
    return patches // processor.image_processor.merge_size**2


@functools.lru_cache(maxsize=65536)
def _count_by_stock(processor: ComaProcessor, height: int, width: int) -> int:
    """Tokens of an image by the backbone's own processor, where it says how many; else those of a blank one of about
    this size: making one takes as long as making any, so that few sizes are told apart."""
    if hasattr(processor.stock, "_get_num_multimodal_tokens"):  # by which vLLM counts them
        return _said(processor, height, width) + _unsaid(processor)
    return _tokens_of_blank(processor, _rounded(height), _rounded(width))


def _said(processor: ComaProcessor, height: int, width: int) -> int:
    return processor.stock._get_num_multimodal_tokens(image_sizes=[(height, width)])["num_image_tokens"][0]


@functools.lru_cache(maxsize=64)
def _unsaid(processor: ComaProcessor) -> int:
    """Tokens that stand around those of an image, and that a processor does not count: what one image shows."""
    return _tokens_of_blank(processor, PROBE, PROBE) - _said(processor, PROBE, PROBE)


@functools.lru_cache(maxsize=65536)
def _tokens_of_blank(processor: ComaProcessor, height: int, width: int) -> int:
    (made,) = processor.process_images([Image.new("RGB", (width, height))], [0])
    return len(made["input_ids"])


def _rounded(size: int) -> int:
    """A size to 3 %: there are 32 of them between 512 and 1024, and as many up to 2048."""
    return size - size % (1 << max(0, size.bit_length() - 6))


def _undecoded(item: Any) -> Any:
    image = as_image(item)
    if image is not item:
        return {"image": image}
    if isinstance(item, dict):
        return {k: [as_image(one) for one in v] if isinstance(v, list) else as_image(v) for k, v in item.items()}
    return item
