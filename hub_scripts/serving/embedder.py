"""The model of a server: items are measured, what it cannot take is refused, the rest is embedded in batches.

Vectors come from `embed_items`, whatever shares a batch; an item that fails there fails alone.
"""

import copy
import functools
import math
from typing import NamedTuple

import numpy as np

from hub_scripts.embedding.model_settings import ModelSettings
from hub_scripts.embedding.precision import cut_vectors
from hub_scripts.hub.trained_dims import checked_dims
from hub_scripts.serving.body import Item
from modeling_coma.inputs_coma import to_rgb
from trainers.encoding.encode import embed_items
from trainers.encoding.tokenize import token_lengths


__all__ = ["Embedder", "Fault", "Row"]


class Fault(NamedTuple):
    """
    Why something gets no vector.

    Args:
        param (`str`, *optional*): its place in the body of the request; `None` if the model is to blame.
        message (`str`): what is wrong with it.
    """

    param: str | None
    message: str


class Row(NamedTuple):
    """
    An item that the model takes.

    Args:
        item ([`Item`]): what it is.
        num_tokens (`int`): its tokens, with those of images and of compression.
        weight (`int`): its share of a batch, from 1 to `max_batch`, which is all of it.
    """

    item: Item
    num_tokens: int
    weight: int


class Embedder:
    """
    A model and its processor. [`measure`] and [`embed`] may run in two threads, and neither in more than one.

    Args:
        settings ([`ModelSettings`]): which model.
        served_as (`str`): its name, for those who ask.
        max_batch (`int`): items of a batch.
        batch_tokens (`int`): tokens of a batch, padding included.
        any_dims (`bool`): whether vectors may be cut where the model was not trained for that.
    """

    def __init__(
        self, settings: ModelSettings, served_as: str, max_batch: int, batch_tokens: int, any_dims: bool
    ) -> None:
        self.model, self.processor = settings.load().coma
        text = self.model.config.get_text_config()
        self.max_tokens = self.processor.max_length or getattr(text, "max_position_embeddings", math.inf)
        self.processor.max_length = None  # what is longer is refused, and nothing is cut
        self.measuring = copy.deepcopy(self.processor)  # a tokenizer does not serve two threads
        self.name, self.served_as = settings.name, served_as
        self.max_batch, self.batch_tokens, self.any_dims = max_batch, batch_tokens, any_dims
        self.cut_fault = functools.lru_cache(maxsize=4096)(self._cut_fault)

    def measure(self, items: list[Item]) -> list[Row | Fault]:
        """
        Counts tokens.

        Args:
            items (`list[Item]`): whatever was sent.

        Returns:
            `list[Row | Fault]`: a fault for what is too long. What cannot be read is found when it is embedded.
        """
        lengths = token_lengths(self.measuring, [item.content for item in items]).tolist()
        return [self._measured(item, length) for item, length in zip(items, lengths, strict=True)]

    def _measured(self, item: Item, length: int) -> Row | Fault:
        if length > self.max_tokens:
            most = f"this model takes {self.max_tokens}, and nothing is cut"
            return Fault(item.name, f"{item.name} has {length} tokens; {most}.")
        weight = math.ceil(length * self.max_batch / self.batch_tokens)
        return Row(item, length, min(max(1, weight), self.max_batch))

    def embed(self, rows: list[Row]) -> list[np.ndarray | Fault]:
        """
        Embeds rows, whoever sent them.

        Args:
            rows (`list[Row]`): of which each fails alone.

        Returns:
            `list[np.ndarray | Fault]`: vectors of shape `(dim,)` in fp32.
        """
        failures: dict[int, str] = {}
        vectors = embed_items(
            self.model,
            self.processor,
            [row.item.content for row in rows],
            batch_tokens=self.batch_tokens,
            description=None,
            names=lambda place: rows[place].item.name,
            failures=failures,
        ).numpy()
        return [
            self._fault(row.item, failures[place]) if place in failures else vectors[place]
            for place, row in enumerate(rows)
        ]

    def _fault(self, item: Item, message: str) -> Fault:
        """What is wrong with an item; if it is an image, with that."""
        for place, image in item.images:
            try:
                to_rgb(image, max_pixels=self.processor.max_image_pixels)
            except ValueError as error:
                return Fault(place, f"{place}{str(error).removeprefix('Row 0')}")
        return Fault(item.name if message.startswith(item.name) else None, message)

    def cut(self, vectors: np.ndarray, dims: int | None) -> np.ndarray:
        """Vectors of shape `(num_items, dim)` as `(num_items, dims)`, for dimensions of which there is no fault."""
        return vectors if dims is None else cut_vectors(vectors, dims)

    def _cut_fault(self, dims: int | None) -> Fault | None:
        """Why vectors are not cut to some dimensions."""
        try:
            checked_dims(self.name, dims, self.model.config.hidden_size, self.any_dims and dims is not None)
        except ValueError as error:
            return Fault("dimensions", str(error).replace(self.name, self.served_as))
        return None
