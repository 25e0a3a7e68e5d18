"""An input compressed to K columns of key-value cache, or to the K last hidden states."""

from dataclasses import dataclass

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


@dataclass
class CompressionMemory:
    """What is left of a batch after compression, from which alone dialogues are answered: keys and values of its K
    compression tokens in every layer (paper, section 3.1), or, with `memory="states"`, no layers and the last hidden
    states of these tokens. `next_position` is the position id of the first token of a dialogue."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]  # (batch_size, num_key_value_heads, K, head_dim), both; or none
    next_position: torch.LongTensor  # (batch_size,)
    compression_states: torch.FloatTensor  # (batch_size, K, hidden_size), last hidden states

    def __len__(self) -> int:
        return len(self.next_position)

    @property
    def num_columns(self) -> int:
        return self.layers[0][0].shape[2] if self.layers else self.compression_states.shape[1]

    @property
    def num_bytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers) or self.compression_states.nbytes

    def select(self, rows: torch.LongTensor) -> "CompressionMemory":
        """The memory of some rows, in any order, repeats allowed."""
        layers = [(keys[rows], values[rows]) for keys, values in self.layers]
        return CompressionMemory(layers, self.next_position[rows], self.compression_states[rows])

    def to_cache(self, order: torch.LongTensor | None = None) -> DynamicCache:
        """A new cache to continue from; `order` as of [`padding_first`]. Caches grow in place, the memory stays as it
        is."""
        cache = DynamicCache(self.layers)
        if order is not None:
            cache.layers = [_OrderedLayer(layer.keys, layer.values, order) for layer in cache.layers]
        return cache

    @classmethod
    def from_cache(
        cls, cache: DynamicCache, columns: torch.LongTensor, next_position: torch.LongTensor, states: torch.FloatTensor
    ) -> "CompressionMemory":
        """Of all layers that keep keys and values; the last of some models look at those of earlier ones."""
        if not cache.layers:
            raise ValueError("No cache was filled: `eval()` the model if it checkpoints gradients.")
        layers = []
        for layer in (layer for layer in cache.layers if layer.is_initialized):
            index = columns.to(layer.keys.device)[:, None, :, None]  # (batch_size, 1, K, 1)
            layers.append((layer.keys.take_along_dim(index, 2), layer.values.take_along_dim(index, 2)))
        return cls(layers, next_position, states)


class _OrderedLayer(DynamicLayer):
    """Its columns and those that are added to it first are put in an order; what comes then comes behind them."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, order: torch.LongTensor):
        super().__init__()
        super().update(keys, values)
        self.order: torch.LongTensor | None = order.to(keys.device)[:, None, :, None]

    def update(self, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = super().update(*args, **kwargs)
        if self.order is not None:
            self.keys = keys.take_along_dim(self.order, 2)
            self.values = values.take_along_dim(self.order, 2)
            self.order = None
        return self.keys, self.values


def padding_first(dialogue_attention_mask: torch.LongTensor, num_columns: int) -> torch.LongTensor | None:
    """The order `(batch_size, num_columns + length)` of the columns of a memory and of dialogues in which the padding
    that dialogues begin with stands before the memory: sliding windows count columns, and would count it. `None` where
    none begins with padding."""
    mask = dialogue_attention_mask
    if mask[:, 0].all():
        return None
    padding = (mask.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
    places = torch.arange(num_columns + mask.shape[1], device=mask.device).expand(len(mask), -1)
    memory_or_said = torch.where(places < padding + num_columns, places - padding, places)
    return torch.where(places < padding, places + num_columns, memory_or_said)


def gather_columns(hidden_states: torch.FloatTensor, columns: torch.LongTensor) -> torch.FloatTensor:
    """Hidden states `(batch_size, K, hidden_size)` at the columns `(batch_size, K)` of each row."""
    columns = columns.to(hidden_states.device)  # a model may be spread over several
    return hidden_states.gather(1, columns[..., None].expand(-1, -1, hidden_states.shape[-1]))


__all__ = ["CompressionMemory", "gather_columns", "padding_first"]
