"""Many items to embeddings: sorted by length, in batches of a token budget; every text is tokenized once.

Lengths are known before anything is decoded: texts are tokenized, of images only the sizes in their headers are
read. So the batches can be laid out first, and workers decode and preprocess one while the model computes another.
The ids of texts are kept for their batches. So that they do not fill the memory, rows are sorted some at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Subset
from transformers.utils import logging

from modeling_coma import ComaForEmbedding, ComaProcessor
from modeling_coma.inputs_coma import to_rgb
from trainers.distributed import gather_rows
from trainers.encoding.tokenize import ItemReader, TokenizedRow, tokenize
from trainers.samplers import pack


__all__ = ["EncodedBatch", "embed_items", "embed_shared", "encode_batches"]

WINDOW = 16384  # rows that are sorted by length at one time
BAD_ROW = (ValueError, OSError)
ROW = "Row {}".format  # what a row is called in messages, by its number

# Rows, their tensors, and by place what is wrong with others.
_Batch = tuple[list[TokenizedRow], dict[str, torch.Tensor], dict[int, str]]


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
    description: str | None = "Embedding",
    names: Callable[[int], str] = ROW,
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
        description (`str`, *optional*, defaults to `"Embedding"`): what stands before the progress bar; with `None`
            there is none.
        names (`Callable`, *optional*): what an item is called in messages, by its number; "Row 3" by default.
        failures (`dict[int, str]`, *optional*): takes, by place, what is wrong with items that cannot be embedded,
            whose embeddings then are NaN. Without it the first of them is an error.

    Returns:
        `torch.FloatTensor` of shape `(len(items), hidden_size)`, in fp32 on the CPU, in the order of the items.

    Raises:
        ValueError: for a row that cannot be embedded, with its number.

    Example:

        >>> embeddings = embed_items(model, processor, ["a red apple", {"image": "apple.png"}])
        >>> cosine = embeddings[0] @ embeddings[1]
    """
    embeddings = torch.full((len(items), model.config.hidden_size), torch.nan)
    options = {"batch_tokens": batch_tokens, "num_workers": num_workers, "names": names}
    with logging.tqdm(total=len(items), desc=description, unit="item", disable=description is None) as progress:
        for batch in encode_batches(model, processor, items, **options):
            if batch.failures and failures is None:
                raise ValueError(next(iter(batch.failures.values())))
            if batch.failures:
                failures.update(batch.failures)
            embeddings[batch.rows] = batch.embeddings
            progress.update(len(batch.rows) + len(batch.failures))
    return embeddings


def embed_shared(
    model: ComaForEmbedding,
    processor: ComaProcessor,
    items: Sequence[Any],
    *,
    names: Callable[[int], str] = ROW,
    failures: dict[int, str] | None = None,
    **options: Any,
) -> torch.FloatTensor:
    """
    Embeds a list on all processes together: each embeds a part of it, and all of them get all embeddings. On one
    process it is [`embed_items`].

    Args:
        model ([`ComaForEmbedding`]): the same on all processes.
        processor ([`ComaProcessor`]): makes its inputs.
        items (`Sequence`): the same on all processes.
        names, failures (*optional*): of [`embed_items`], by places in `items`; the same failures on all processes.
        options: others of [`embed_items`].

    Returns:
        `torch.FloatTensor` of shape `(len(items), hidden_size)`, in the order of the items, on every process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return embed_items(model, processor, items, names=names, failures=failures, **options)
    places = [range(rank, len(items), dist.get_world_size()) for rank in range(dist.get_world_size())]
    own = places[dist.get_rank()]
    options["names"] = lambda number: names(own[number])
    options["failures"] = None if failures is None else {}
    embeddings = embed_items(model, processor, Subset(items, own), **options)
    gathered, _ = gather_rows(embeddings.to(model.device))
    if failures is not None:
        of_all: list[dict[int, str]] = [{} for _ in places]
        dist.all_gather_object(of_all, {own[number]: reason for number, reason in options["failures"].items()})
        for found in of_all:
            failures.update(found)
    order = torch.tensor([place for of_process in places for place in of_process])
    return torch.empty(gathered.shape).index_copy_(0, order, gathered.cpu())


def encode_batches(
    model: ComaForEmbedding,
    processor: ComaProcessor,
    items: Sequence[Any],
    *,
    batch_tokens: int = 16384,
    num_workers: int = 0,
    first_row: int = 0,
    names: Callable[[int], str] = ROW,
) -> Iterator[EncodedBatch]:
    r"""
    Embeds items batch by batch, the longest first (of every 16384): what does not fit into memory fails at once.

    Args:
        model, processor, items, batch_tokens, num_workers: as in [`embed_items`]. A `ValueError` among the items is
            the reason why one could not be read.
        first_row (`int`, *optional*, defaults to 0): number of the first item, for the messages about bad rows.
        names (`Callable`, *optional*): what an item is called in them, by its number; "Row 3" by default.

    Yields:
        [`EncodedBatch`]: in an order that depends on the items and the budget alone; every row comes exactly once,
        with an embedding or as a failure. An embedding that is not finite is a failure.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens={batch_tokens} must be 1 or more.")
    inputs = _Inputs(processor, ItemReader(items), first_row, names)
    loader = DataLoader(
        inputs,
        sampler=_batches(processor, inputs.items, batch_tokens),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=model.device.type == "cuda",
    )
    was_training = model.training
    model.eval()
    try:
        for rows, tensors, failures in loader:
            yield _encoded(model, inputs, rows, tensors, failures)
    finally:
        model.train(was_training)


def _batches(processor: ComaProcessor, items: ItemReader, batch_tokens: int) -> Iterator[list[TokenizedRow]]:
    """All rows in batches, those of a window at a time."""
    for start in range(0, len(items), WINDOW):
        rows = list(tokenize(processor, items, range(start, min(start + WINDOW, len(items)))))
        for batch in pack([row.length for row in rows], batch_tokens, longest_first=True):
            yield [rows[number] for number in batch]


class _Inputs(torch.utils.data.Dataset):
    """Tensors of batches of tokenized rows, with the rows in them and what is wrong with others."""

    def __init__(
        self, processor: ComaProcessor, items: ItemReader, first_row: int, names: Callable[[int], str]
    ) -> None:
        self.processor, self.items, self.first_row, self.names = processor, items, first_row, names

    def __getitem__(self, batch: list[TokenizedRow]) -> _Batch:
        failures = {row.place: self.named(row.place, row.error) for row in batch if row.error is not None}
        rows = [row for row in batch if row.error is None]
        try:
            return rows, self.process(rows), failures
        except BAD_ROW:  # somewhere in the batch
            failures |= self.one_by_one(rows, self.process)[1]
        rows = [row for row in rows if row.place not in failures]
        return rows, self.process(rows), failures

    def one_by_one(
        self, rows: list[TokenizedRow], act: Callable[[list[TokenizedRow]], Any]
    ) -> tuple[dict[int, Any], dict[int, str]]:
        """By place, what comes of each row of a batch, and what is wrong with those of which nothing comes."""
        results, failures = {}, {}
        for row in rows:
            try:
                results[row.place] = act([row])
            except BAD_ROW as error:
                failures[row.place] = self.named(row.place, error)
        return results, failures

    def process(self, rows: list[TokenizedRow]) -> dict[str, torch.Tensor]:
        """Tensors of some rows."""
        if not rows:
            return {}
        images, videos = self.items.visuals(self.processor, [row.place for row in rows])
        texts, ids = [row.text for row in rows], [row.ids for row in rows]
        return dict(self.processor(images, texts, videos, text_ids=ids, return_tensors="pt"))

    def named(self, place: int, error: Exception) -> str:
        """What is wrong with a row, by its name, and with which image of several."""
        name = f"{self.names(self.first_row + place)}{self._bad_image(place)}"
        message, replaced = re.subn(r"^Row 0\b", lambda _: name, str(error))
        is_named = replaced or message.startswith(name)  # whoever has read it may have named it
        return message if is_named else f"{name}: {message.replace(' of row 0', '')}"

    def _bad_image(self, place: int) -> str:
        try:
            (images,), _ = self.items.visuals(self.processor, [place])
        except BAD_ROW:
            return ""
        for number, image in enumerate(images if len(images) > 1 else ()):
            try:
                to_rgb(image, max_pixels=self.processor.max_image_pixels)
            except ValueError:
                return f", image[{number}]"
        return ""

    def describe(self, rows: list[TokenizedRow]) -> str:
        """The first rows of a batch by their names."""
        names = [self.names(self.first_row + row.place).removeprefix("Row ") for row in rows]
        return f"the rows [{', '.join(names[:8])}]{' …' if len(names) > 8 else ''}"


def _encoded(
    model: ComaForEmbedding,
    inputs: _Inputs,
    rows: list[TokenizedRow],
    tensors: dict[str, torch.Tensor],
    failures: dict[int, str],
) -> EncodedBatch:
    """The embeddings of a batch; if there are none, the rows one by one tell which is to blame."""
    try:
        return EncodedBatch([row.place for row in rows], _embed(model, tensors), failures)
    except ValueError as error:
        embeddings, bad = inputs.one_by_one(rows, lambda row: _embed(model, inputs.process(row)))
        whole = f"In the batch of {inputs.describe(rows)}: {error}"
        if not bad:  # each is good alone
            raise ValueError(whole) from error
        if not embeddings:  # it is rather the model that is to blame
            bad = dict.fromkeys(bad, whole)
    return EncodedBatch(list(embeddings), torch.cat([_embed(model, {}), *embeddings.values()]), failures | bad)


@torch.no_grad()
def _embed(model: ComaForEmbedding, inputs: dict[str, torch.Tensor]) -> torch.FloatTensor:
    if not inputs:
        return torch.empty(0, model.config.hidden_size)
    inputs = {name: tensor.to(model.device, non_blocking=True) for name, tensor in inputs.items()}
    return model(**inputs).embeddings.float().cpu()


def _as_it_is(batch: Any) -> Any:
    return batch
