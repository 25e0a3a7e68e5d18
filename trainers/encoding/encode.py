"""Many items to embeddings, on one process or on several together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Subset
from transformers.utils import logging

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.distributed import gather_rows
from trainers.encoding.encoder import ROW, EncodedBatch, Encoder


__all__ = ["embed_items", "embed_shared", "encode_batches"]


def embed_items(
    model: ComaForEmbedding,
    processor: ComaProcessor,
    items: Sequence[Any],
    *,
    description: str | None = "Embedding",
    names: Callable[[int], str] = ROW,
    failures: dict[int, str] | None = None,
    **options: Any,
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
        description (`str`, *optional*, defaults to `"Embedding"`): what stands before the progress bar; with `None`
            there is none.
        names (`Callable`, *optional*): what an item is called in messages, by its number; "Row 3" by default.
        failures (`dict[int, str]`, *optional*): takes, by place, what is wrong with items that cannot be embedded,
            whose embeddings then are NaN. Without it the first of them is an error.
        options: `batch_tokens`, by default the fastest of a few sizes for this model on this device, `num_workers` and
            `reduced_jpeg` of [`encode_batches`].

    Returns:
        `torch.FloatTensor` of shape `(len(items), hidden_size)`, in fp32 on the CPU, in the order of the items.

    Raises:
        ValueError: for a row that cannot be embedded, with its number.

    Example:

        >>> embeddings = embed_items(model, processor, ["a red apple", {"image": "apple.png"}])
        >>> cosine = embeddings[0] @ embeddings[1]
    """
    embeddings = torch.full((len(items), model.config.hidden_size), torch.nan)
    encoder = Encoder(model, processor, **options, is_for_many=False)
    with logging.tqdm(total=len(items), desc=description, unit="item", disable=description is None) as progress:
        for batch in encoder.batches(items, names=names):
            if batch.failures and failures is None:
                raise ValueError(next(iter(batch.failures.values())))
            if batch.failures:
                failures.update(batch.failures)
            embeddings[batch.rows] = batch.embeddings
            progress.set_postfix_str(encoder.batch_size.described, refresh=False)
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
    batch_tokens: int | None = None,
    num_workers: int = 0,
    reduced_jpeg: bool = False,
    first_row: int = 0,
    names: Callable[[int], str] = ROW,
) -> Iterator[EncodedBatch]:
    r"""
    Embeds items batch by batch, the longest first (of every 16384): what does not fit into memory fails at once.

    Args:
        model, processor, items: as in [`embed_items`]. A `ValueError` among the items is the reason why one could not
            be read.
        batch_tokens (`int`, *optional*): most tokens of a batch, padding included. A row that is longer is a batch of
            its own. By default 1024, 4096 and 16384 are tried on the first rows, a larger one only while that pays,
            and the fastest is kept.
        num_workers (`int`, *optional*, defaults to 0): processes that decode and preprocess; by default a thread does
            it, one batch ahead.
        reduced_jpeg (`bool`, *optional*, defaults to `False`): whether JPEG files are decoded at a half, a quarter or
            an eighth of their scale, where that leaves twice the width and height that the model sees. Embeddings
            then differ a little.
        first_row (`int`, *optional*, defaults to 0): number of the first item, for the messages about bad rows.
        names (`Callable`, *optional*): what an item is called in them, by its number; "Row 3" by default.

    Yields:
        [`EncodedBatch`]: every row comes exactly once, with an embedding or as a failure. Of 16384 rows those that are
        equal, by their text and the paths or bytes of their images, are computed once. An embedding that is not finite
        is a failure.

    Raises:
        ValueError: if `batch_tokens` is below 1, or `reduced_jpeg` cannot act.
    """
    options = {"batch_tokens": batch_tokens, "num_workers": num_workers, "reduced_jpeg": reduced_jpeg}
    return Encoder(model, processor, **options, is_for_many=False).batches(items, first_row, names)
