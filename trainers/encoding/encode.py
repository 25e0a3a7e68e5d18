"""Many items to embeddings: sorted by length, in batches of a token budget, every image decoded once.

Lengths are known before anything is decoded: texts are tokenized, of images only the sizes in their headers are
read. So the batches can be laid out first, and workers decode and preprocess one while the model computes another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Column, Dataset
from torch.utils.data import DataLoader
from transformers.utils import logging

from modeling_coma import ComaForEmbedding, ComaProcessor
from modeling_coma.inputs_coma import open_image, to_messages, to_rgb
from trainers.data.images import as_image
from trainers.samplers import pack


__all__ = ["EncodedBatch", "embed_items", "encode_batches", "token_lengths"]

CHUNK = 1024  # rows that are rendered and tokenized at one time
BAD_ROW = (ValueError, OSError)


class EncodedBatch(NamedTuple):
    """
    What became of some rows.

    Args:
        rows (`list[int]`): their places in the items.
        embeddings (`torch.FloatTensor` of shape `(len(rows), hidden_size)`): in fp32, on the CPU.
        failures (`dict[int, str]`): by place, what is wrong with rows that have no embedding.
    """

    rows: list[int]
    embeddings: torch.FloatTensor
    failures: dict[int, str]


def embed_items(
    model: ComaForEmbedding,
    processor: ComaProcessor,
    items: Sequence[Any],
    *,
    batch_tokens: int = 16384,
    num_workers: int = 0,
    description: str = "Embedding",
    names: Callable[[int], str] | None = None,
    failures: dict[int, str] | None = None,
) -> torch.FloatTensor:
    r"""
    Embeds a list, a `Dataset` (its columns `image` and `text`) or a column of a `Dataset`, with a progress bar. A row
    of a `Dataset` with an image and a text shows the image first, as in training; an item of a list, in the order
    of its keys.

    Args:
        model ([`ComaForEmbedding`]): it computes where it is, in its dtype, in evaluation mode.
        processor ([`ComaProcessor`]): makes its inputs.
        items (`Sequence`): whatever `ComaProcessor.process` takes. Images may also be paths or the bytes of a file
            (`{"image": path}`), which are decoded when it is their turn; so are those of a `Dataset`.
        batch_tokens (`int`, *optional*, defaults to 16384): most tokens of a batch, padding included. A row that is
            longer is a batch of its own.
        num_workers (`int`, *optional*, defaults to 0): processes that decode and preprocess.
        description (`str`, *optional*, defaults to `"Embedding"`): what stands before the progress bar.
        names (`Callable`, *optional*): what an item is called in messages, by its place; "Row 3" by default.
        failures (`dict[int, str]`, *optional*): takes, by place, what is wrong with items that cannot be embedded,
            whose embeddings then are NaN. Without it the first of them is an error.

    Returns:
        `torch.FloatTensor` of shape `(len(items), hidden_size)`, in fp32 on the CPU, in the order of the items.

    Raises:
        ValueError: for a row that cannot be embedded, with its number.
    """
    embeddings = torch.full((len(items), model.config.hidden_size), torch.nan)
    options = {"batch_tokens": batch_tokens, "num_workers": num_workers, "names": names}
    with logging.tqdm(total=len(items), desc=description, unit="item") as progress:
        for batch in encode_batches(model, processor, items, **options):
            if batch.failures and failures is None:
                raise ValueError(next(iter(batch.failures.values())))
            if batch.failures:
                failures.update(batch.failures)
            embeddings[batch.rows] = batch.embeddings
            progress.update(len(batch.rows) + len(batch.failures))
    return embeddings


def encode_batches(
    model: ComaForEmbedding,
    processor: ComaProcessor,
    items: Sequence[Any],
    *,
    batch_tokens: int = 16384,
    num_workers: int = 0,
    first_row: int = 0,
    names: Callable[[int], str] | None = None,
) -> Iterator[EncodedBatch]:
    r"""
    Embeds items batch by batch, the longest first: what does not fit into memory fails at once.

    Args:
        model, processor, items, batch_tokens, num_workers: as in [`embed_items`].
        first_row (`int`, *optional*, defaults to 0): number of the first item, for the messages about bad rows.
        names (`Callable`, *optional*): what an item is called in them, by its place; "Row 3" by default.

    Yields:
        [`EncodedBatch`]: in an order that depends on the items and the budget alone; every row comes exactly once,
        with an embedding or as a failure. An embedding that is not finite is a failure.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens={batch_tokens} must be 1 or more.")
    batches = pack(token_lengths(processor, items), batch_tokens, longest_first=True)
    inputs = _Inputs(processor, _Rows(items), batches, names or partial(_row_name, first_row))
    on_gpu = model.device.type == "cuda"
    loader = DataLoader(inputs, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is, pin_memory=on_gpu)
    was_training = model.training
    model.eval()
    try:
        for rows, tensors, failures in loader:
            yield _encoded(model, inputs, rows, tensors, failures)
    finally:
        model.train(was_training)


def token_lengths(processor: ComaProcessor, items: Sequence[Any]) -> np.ndarray:
    """Tokens of every row, compression tokens included, without decoding an image; 0 for rows that cannot be read."""
    rows, lengths, tokens = _Rows(items), np.zeros(len(items), dtype=np.int64), processor.control_tokens
    for start in range(0, len(items), CHUNK):
        conversations = {}
        chunk = list(range(start, min(start + CHUNK, len(items))))
        for row, item in zip(chunk, rows.fetch(chunk), strict=True):
            try:
                conversations[row] = to_messages(item, tokens=tokens)
            except ValueError:  # it is reported, with its row, when its turn comes
                continue
        if conversations:
            texts = processor.apply_chat_template(list(conversations.values()))
            ids_of_rows = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
            images = [_image_tokens(processor, messages) for messages in conversations.values()]
            lengths[list(conversations)] = [len(ids) + more for ids, more in zip(ids_of_rows, images, strict=True)]
    lengths[lengths > 0] += processor.num_compression_tokens
    return lengths if processor.max_length is None else lengths.clip(max=processor.max_length)


class _Rows:
    """Rows of a list, a `Dataset` or one of its columns. A `Dataset` gives images as it stores them, undecoded."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.names: list[str] = []
        while isinstance(items, Column):
            self.names.insert(0, items.column_name)
            items = items.source
        if isinstance(items, Dataset):
            columns = self.names[:1] or [name for name in ("image", "text") if name in items.column_names]
            if not columns:
                raise ValueError(f"No column is called image or text among {items.column_names}; give one of them.")
            items = items.select_columns(columns).with_format("arrow")
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def fetch(self, rows: list[int]) -> list[Any]:
        if not isinstance(self.items, Dataset):
            return [_undecoded(self.items[row]) for row in rows]
        values = self.items[rows].to_pylist()
        for name in self.names:
            values = [value[name] for value in values]
        # The order of a prompt is that of training, the image first, however the fields happen to be stored.
        return [_undecoded(dict(sorted(v.items())) if isinstance(v, dict) else v) for v in values]


def _undecoded(item: Any) -> Any:
    image = as_image(item)
    if image is not item:
        return {"image": image}
    if isinstance(item, dict):
        return {k: [as_image(one) for one in v] if isinstance(v, list) else as_image(v) for k, v in item.items()}
    return item


class _Inputs(torch.utils.data.Dataset):
    """Batches of tensors by number, each with its rows and what is wrong with others."""

    def __init__(
        self, processor: ComaProcessor, items: _Rows, batches: list[list[int]], names: Callable[[int], str]
    ) -> None:
        self.processor, self.items, self.batches, self.names = processor, items, batches, names

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[list[int], dict[str, torch.Tensor], dict[int, str]]:
        rows = self.batches[number]
        try:
            return rows, self.process(rows), {}
        except BAD_ROW:  # somewhere in the batch: the rows one by one tell where
            failures = dict(filter(None, map(self._failure, rows)))
        rows = [row for row in rows if row not in failures]
        return rows, self.process(rows), failures

    def process(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """Tensors of some rows."""
        return dict(self.processor.process(self.items.fetch(rows))) if rows else {}

    def named(self, row: int, error: Exception) -> str:
        """What is wrong with a row, by its name, and with which image of several."""
        name = f"{self.names(row)}{self._image(row)}"
        message, found = re.subn(r"^Row 0\b", lambda _: name, str(error))
        return message if found else f"{name}: {message.replace(' of row 0', '')}"

    def _image(self, row: int) -> str:
        try:
            messages = to_messages(self.items.fetch([row])[0])
        except BAD_ROW:
            return ""
        images = [block["image"] for one in messages for block in one["content"] if block["type"] == "image"]
        for place, image in enumerate(images if len(images) > 1 else ()):
            try:
                to_rgb(image)
            except ValueError:
                return f", image[{place}]"
        return ""

    def _failure(self, row: int) -> tuple[int, str] | None:
        try:
            self.process([row])
            return None
        except BAD_ROW as error:
            return row, self.named(row, error)


def _encoded(
    model: ComaForEmbedding, inputs: _Inputs, rows: list[int], tensors: dict[str, torch.Tensor], failures: dict
) -> EncodedBatch:
    """The embeddings of a batch; if there are none, the rows one by one tell which is to blame."""
    try:
        return EncodedBatch(rows, _embed(model, tensors), failures)
    except ValueError as error:
        embeddings = {}
        for row in rows:
            try:
                embeddings[row] = _embed(model, inputs.process([row]))
            except ValueError as why:
                failures = {**failures, row: inputs.named(row, why)}
        if len(embeddings) == len(rows):  # each is good alone
            raise ValueError(f"In the batch of {_names(inputs, rows)}: {error}") from error
        if not embeddings:  # it is rather the model that is to blame
            failures = {**failures, **dict.fromkeys(rows, f"In the batch of {_names(inputs, rows)}: {error}")}
    return EncodedBatch(list(embeddings), torch.cat([_embed(model, {}), *embeddings.values()]), failures)


def _row_name(first_row: int, place: int) -> str:
    return f"Row {first_row + place}"


def _names(inputs: _Inputs, rows: list[int]) -> str:
    names, more = list(map(inputs.names, rows[:8])), " …" if len(rows) > 8 else ""
    if all(re.fullmatch(r"Row \d+", name) for name in names):
        return f"the rows [{', '.join(name.removeprefix('Row ') for name in names)}]{more}"
    return ", ".join(names) + more


@torch.no_grad()
def _embed(model: ComaForEmbedding, inputs: dict[str, torch.Tensor]) -> torch.FloatTensor:
    if not inputs:
        return torch.empty(0, model.config.hidden_size)
    inputs = {name: tensor.to(model.device, non_blocking=True) for name, tensor in inputs.items()}
    return model(**inputs).embeddings.float().cpu()


def _image_tokens(processor: ComaProcessor, messages: list[dict]) -> int:
    """Tokens of the images of a row beyond the one placeholder each has in the text."""
    area = processor.image_processor.merge_size**2
    tokens = 0
    for block in (block for message in messages for block in message["content"] if block["type"] == "image"):
        try:
            with open_image(block["image"], max_pixels=processor.max_image_pixels) as image:
                tokens += processor.image_processor.get_number_of_image_patches(*image.size[::-1], {}) // area - 1
        except ValueError:  # it is reported, with its row, when it is decoded
            continue
    return tokens


def _as_it_is(batch: Any) -> Any:
    return batch
