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
    num_vectors: int | None = None,
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
        num_vectors (`int`, *optional*): gives the first so many compression states of each item in place of its
            embedding, which [`~trainers.encoding.maxsim.maxsim`] compares; for models with `late_interaction_budgets`.
        options: `batch_tokens`, by default the fastest of a few sizes for this model on this device, `num_workers` and
            `reduced_jpeg` of [`encode_batches`].

    Returns:
        `torch.FloatTensor` of shape `(len(items), hidden_size)`, in fp32 on the CPU, in the order of the items; with
        `num_vectors` `(len(items), num_vectors, hidden_size)`, states of length 1.

    Raises:
        ValueError: for a row that cannot be embedded, with its number; for more vectors than the model has states.

    Example:

        >>> embeddings = embed_items(model, processor, ["a red apple", {"image": "apple.png"}])
        >>> cosine = embeddings[0] @ embeddings[1]
    """
    encoder = Encoder(model, processor, num_vectors=num_vectors, **options, is_for_many=False)
    vectors = _embed(encoder, items, description, names, failures)
    return vectors[:, 0] if num_vectors is None else vectors[:, 1:]


def _embed(
    encoder: Encoder,
    items: Sequence[Any],
    description: str | None,
    names: Callable[[int], str],
    failures: dict[int, str] | None,
) -> torch.FloatTensor:
    """The embeddings and the first states, `(len(items), 1 + num_vectors, hidden_size)`."""
    vectors = torch.full((len(items), 1 + encoder.num_vectors, encoder.model.config.hidden_size), torch.nan)
    with logging.tqdm(total=len(items), desc=description, unit="item", disable=description is None) as progress:
        for batch in encoder.batches(items, names=names):
            if batch.failures and failures is None:
                raise ValueError(next(iter(batch.failures.values())))
            if batch.failures:
                failures.update(batch.failures)
            vectors[batch.rows] = batch.vectors
            progress.set_postfix_str(encoder.batch_size.described, refresh=False)
            progress.update(len(batch.rows) + len(batch.failures))
    return vectors


def embed_shared(
    model: ComaForEmbedding,
    processor: ComaProcessor,
    items: Sequence[Any],
    *,
    description: str | None = "Embedding",
    names: Callable[[int], str] = ROW,
    failures: dict[int, str] | None = None,
    num_vectors: int | None = None,
    **options: Any,
) -> torch.FloatTensor:
    """
    Embeds a list on all processes together: each embeds a part of it, and all of them get all embeddings. On one
    process it is [`embed_items`].

    Args:
        model ([`ComaForEmbedding`]): the same on all processes.
        processor ([`ComaProcessor`]): makes its inputs.
        items (`Sequence`): the same on all processes.
        description (*optional*): of [`embed_items`].
        names, failures (*optional*): of [`embed_items`], by places in `items`; the same failures on all processes.
        num_vectors (`int`, *optional*): how many states are given beside each embedding.
        options: others of [`embed_items`].

    Returns:
        `torch.FloatTensor` of shape `(len(items), hidden_size)`, in the order of the items, on every process; with
        `num_vectors` `(len(items), 1 + num_vectors, hidden_size)`, of each its embedding first.
    """
    encoder = Encoder(model, processor, num_vectors=num_vectors, **options, is_for_many=False)
    what = 0 if num_vectors is None else slice(None)
    if not (dist.is_available() and dist.is_initialized()):
        return _embed(encoder, items, description, names, failures)[:, what]
    places = [range(rank, len(items), dist.get_world_size()) for rank in range(dist.get_world_size())]
    own = places[dist.get_rank()]
    own_failures = None if failures is None else {}
    vectors = _embed(encoder, Subset(items, own), description, lambda number: names(own[number]), own_failures)
    gathered, _ = gather_rows(vectors[:, what].to(model.device))
    if failures is not None:
        of_all: list[dict[int, str]] = [{} for _ in places]
        dist.all_gather_object(of_all, {own[number]: reason for number, reason in own_failures.items()})
        for found in of_all:
            failures.update(found)
    order = torch.tensor([place for of_process in places for place in of_process])
    return torch.empty(gathered.shape).index_copy_(0, order, gathered.cpu())


def encode_batches(
    model: ComaForEmbedding,
    processor: ComaProcessor,
    items: Sequence[Any],
    *,
    first_row: int = 0,
    names: Callable[[int], str] = ROW,
    **options: Any,
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
        num_vectors (`int`, *optional*): how many compression states of each item come beside its embedding.
        first_row (`int`, *optional*, defaults to 0): number of the first item, for the messages about bad rows.
        names (`Callable`, *optional*): what an item is called in them, by its number; "Row 3" by default.

    Yields:
        [`EncodedBatch`]: every row comes exactly once, with an embedding or as a failure. Of 16384 rows those that are
        equal, by their text and the paths or bytes of their images, are computed once. An embedding that is not finite
        is a failure.

    Raises:
        ValueError: if `batch_tokens` is below 1, `reduced_jpeg` cannot act, or the model has fewer states.
    """
    return Encoder(model, processor, **options, is_for_many=False).batches(items, first_row, names)
