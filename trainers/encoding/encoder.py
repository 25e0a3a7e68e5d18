"""The encode loop: a model with its workers, and how many tokens its batches have, for as many items as come.

Lengths are known before anything is decoded, so the batches can be laid out first. While the model computes one, the
next is decoded, by workers or by a thread, and copied to its device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.encoding.batch_size import BatchSize
from trainers.encoding.inputs import Batch, Fault, Inputs
from trainers.encoding.memory_rows import MemoryForm, MemoryRows
from trainers.encoding.pictures import PictureReader
from trainers.encoding.tokenize import ItemReader, TokenizedRow, tokenize
from trainers.samplers import pack


__all__ = ["ROW", "EncodedBatch", "Encoder"]

UNDECIDED = 4096  # tokens of a batch, where rows are too few to look for the best
WINDOW = 16384  # rows that are sorted by length at one time
ROW = "Row {}".format  # what a row is called in messages, by its number


class EncodedBatch(NamedTuple):
    """
    What became of some rows.

    Args:
        rows (`list[int]`): their places in the items.
        vectors (`torch.FloatTensor` of shape `(len(rows), 1 + num_vectors, hidden_size)`): in fp32, on the CPU; of
            each row its embedding, and then its first compression states, of length 1.
        failures (`dict[int, str]`): by place, what is wrong with rows that have no embedding.
        memory ([`MemoryRows`], *optional*): what answers can be read from, of an encoder that keeps it.
    """

    rows: list[int]
    vectors: torch.FloatTensor
    failures: dict[int, str]
    memory: MemoryRows | None = None

    @property
    def embeddings(self) -> torch.FloatTensor:
        """The one vector of each row, `(len(rows), hidden_size)`."""
        return self.vectors[:, 0]


class Encoder:
    """
    Embeds items, as often as it is called; its workers start once, and it looks once for the best size of a batch.

    Args:
        model ([`ComaForEmbedding`]), processor ([`ComaProcessor`]): as in [`~trainers.encoding.embed_items`].
        batch_tokens (`int`, *optional*): most tokens of a batch; by default what is found to be fast.
        num_workers (`int`, *optional*, defaults to 0): processes that decode and preprocess.
        reduced_jpeg (`bool`, *optional*, defaults to `False`): as in [`~trainers.encoding.embed_items`].
        num_vectors (`int`, *optional*): how many compression states of each item are kept beside its embedding.
        keeps_memory (`bool`, *optional*, defaults to `False`): whether the memory of each item comes with its
            embedding, out of the same pass.
        is_for_many (`bool`, *optional*, defaults to `True`): whether items come more than once: workers then are given
            the images of each batch, paths or bytes. Else they begin with all items, as these are.

    Raises:
        ValueError: if `batch_tokens` is below 1, `reduced_jpeg` cannot act, or the model has fewer states, or no
            memory that could be kept.
    """

    def __init__(
        self,
        model: ComaForEmbedding,
        processor: ComaProcessor,
        *,
        batch_tokens: int | None = None,
        num_workers: int = 0,
        reduced_jpeg: bool = False,
        num_vectors: int | None = None,
        keeps_memory: bool = False,
        is_for_many: bool = True,
    ) -> None:
        if num_vectors is not None and not 1 <= num_vectors <= model.config.num_compression_tokens:
            most = model.config.num_compression_tokens
            raise ValueError(f"{num_vectors} vectors of an input are not from 1 to {most}, the states of this model.")
        self.coma = self.model, self.processor = model, processor
        self.num_vectors, self.is_for_many = num_vectors or 0, is_for_many
        self.memory_form = MemoryForm.of(model, processor) if keeps_memory else None
        self.batch_size = BatchSize(model, processor, batch_tokens)
        self.inputs = Inputs(processor, PictureReader(processor, reduced_jpeg))
        self.plan, self.is_running = _Plan(), False
        self.loader = DataLoader(
            self.inputs,
            sampler=self.plan,
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=model.device.type == "cuda",
            persistent_workers=num_workers > 0 and is_for_many,
        )

    def batches(
        self, items: Sequence[Any], first_row: int = 0, names: Callable[[int], str] = ROW
    ) -> Iterator[EncodedBatch]:
        """As of [`~trainers.encoding.encode_batches`]; raises `RuntimeError` while other items are gone through."""
        if self.is_running:  # the workers have one list of batches, and without `is_for_many` one of items
            raise RuntimeError(
                "This encoder is going through other items: finish or close what `batches` gave for them, or make a "
                "second Encoder."
            )
        reader = ItemReader(items)
        self.inputs.items = None if self.is_for_many else reader
        equal: dict[int, list[int]] = {}
        embed = partial(self._embed, equal=equal, name=lambda place: names(first_row + place))
        windows = self._windows(reader, equal)
        was_training, self.is_running = self.model.training, True
        self.model.eval()
        try:
            first = next(windows, [])
            if self.batch_size.tokens is None:
                yield from self.batch_size.find(first, self.inputs.__getitem__, embed)
            self.plan.batches = self._packed(chain([first], windows))
            yield from map(embed, self._loaded())
        finally:
            self.is_running = False
            self.model.train(was_training)

    def _windows(self, reader: ItemReader, equal: dict[int, list[int]]) -> Iterator[list[TokenizedRow]]:
        """Rows that differ, the longest first, some at a time; takes down which others are equal to them."""
        for start in range(0, len(reader), WINDOW):
            places = range(start, min(start + WINDOW, len(reader)))
            rows: dict[str | int, TokenizedRow] = {}
            for row in tokenize(self.processor, reader, places, keep_images=self.is_for_many):
                first = rows.setdefault(row.key, row)
                if first is not row:
                    equal.setdefault(first.place, []).append(row.place)
            yield sorted(rows.values(), key=lambda row: -row.length)

    def _packed(self, windows: Iterable[list[TokenizedRow]]) -> Iterator[list[TokenizedRow]]:
        for rows in windows:
            for batch in pack([row.length for row in rows], self.batch_size.tokens or UNDECIDED):
                yield [rows[number] for number in batch]

    def _loaded(self) -> Iterator[Batch]:
        """Planned batches, on the device of the model, each made ready while the one before it is computed."""
        loaded = iter(self.loader)  # starts the workers, not in a thread
        device = self.model.device
        # Beside what is computed; one, for what is freed is kept for the stream that has used it.
        copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        with ThreadPoolExecutor(max_workers=1) as thread:
            coming = thread.submit(self._load_next, loaded, copies)
            while (batch := coming.result()) is not None:
                coming = thread.submit(self._load_next, loaded, copies)
                yield batch

    def _load_next(self, loaded: Iterator[Batch], copies: torch.cuda.Stream | None) -> Batch | None:
        batch = next(loaded, None)
        if batch is None or copies is None:
            return batch
        with torch.cuda.stream(copies):
            tensors = {name: tensor.to(copies.device, non_blocking=True) for name, tensor in batch.tensors.items()}
        copies.synchronize()
        return batch._replace(tensors=tensors)

    def _embed(self, batch: Batch, equal: dict[int, list[int]], name: Callable[[int], str]) -> EncodedBatch:
        """The embeddings of a batch and of the rows equal to its own; if there are none, its rows one by one tell
        which is to blame."""
        places, faults = [row.place for row in batch.rows], batch.faults
        try:
            computed = self._compute(batch.tensors)
        except ValueError as error:
            found, bad = self.inputs.one_by_one(batch.rows, lambda row: self._compute(self.inputs.process(row)))
            whole = f"In the batch of {_described(batch.rows, name)}: {error}"
            if not bad:  # each is good alone
                raise ValueError(whole) from error
            if not found:  # it is rather the model that is to blame
                bad = {place: Fault(whole, is_whole=True) for place in bad}
            places, faults = list(found), faults | bad
            computed = [torch.cat(parts) for parts in zip(self._compute({}), *found.values(), strict=True)]
        failures = {}
        for place, fault in faults.items():
            failures |= {one: fault.named(name(one)) for one in (place, *equal.pop(place, ()))}
        copies = [(one, number) for number, place in enumerate(places) for one in (place, *equal.pop(place, ()))]
        vectors, *memory = (rows[[number for _, number in copies]] for rows in computed)
        return EncodedBatch([place for place, _ in copies], vectors, failures, MemoryRows(*memory) if memory else None)

    @torch.no_grad()
    def _compute(self, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """The vectors of rows, and if it is kept what their memory is made of."""
        if not tensors:
            vectors = torch.empty(0, 1 + self.num_vectors, self.model.config.hidden_size)
            return [vectors, *(self.memory_form.nothing() if self.memory_form else ())]
        tensors = {name: tensor.to(self.model.device, non_blocking=True) for name, tensor in tensors.items()}
        if self.memory_form is None:
            output, memory = self.model(**tensors), []
            embeddings, states = output.embeddings, output.compression_states
        else:
            compressed = self.model.compress(**tensors)
            states, memory = compressed.compression_states, self.memory_form.pack(compressed)
            embeddings = self.model.pool(states)
        states = F.normalize(states[:, : self.num_vectors].float(), dim=-1)
        return [torch.cat([embeddings[:, None].float(), states], dim=1).cpu(), *memory]


class _Plan:
    """What a loader goes through: the batches of the items that are embedded just now."""

    def __init__(self) -> None:
        self.batches: Iterator[list[TokenizedRow]] = iter(())

    def __iter__(self) -> Iterator[list[TokenizedRow]]:
        return self.batches


def _described(rows: list[TokenizedRow], name: Callable[[int], str]) -> str:
    """The first rows of a batch by their names."""
    names = [name(row.place).removeprefix("Row ") for row in rows]
    return f"the rows [{', '.join(names[:8])}]{' …' if len(names) > 8 else ''}"


def _as_it_is(batch: Any) -> Any:
    return batch
