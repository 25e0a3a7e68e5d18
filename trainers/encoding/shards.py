"""Embeddings in files of some rows each: memory need not hold them, and after an interruption the rest is made.

A shard is an Arrow file with the columns `embedding`, `error` and those that it was given, and in its metadata what it
was made of. After it stands a digest of its bytes, so that a shard that was cut or changed is known and made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from transformers.utils import logging

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.data.images import image_key, images_of
from trainers.encoding.encode import encode_batches
from trainers.files import whole_file


__all__ = ["EmbeddingShards", "Part", "ShardFiles", "embed_in_shards", "open_shard", "parts_of"]

MADE_OF = b"made_of"
DIGEST_BYTES = 16


class Part(NamedTuple):
    """
    What goes into a shard.

    Args:
        items (`list`): what is embedded, as in [`~trainers.encoding.encode_batches`].
        columns (`dict[str, list]`): what is stored beside the embeddings, texts or whole numbers; what stands in
            `image` is the path of an image, which is named where something is wrong with it.
    """

    items: list[Any]
    columns: Mapping[str, Sequence[Any]] = {}


class ShardFiles(NamedTuple):
    """
    Shards that are there.

    Args:
        files (`list[Path]`): in order.
        num_embedded (`int`): rows that have been embedded now, and not before.
    """

    files: list[Path]
    num_embedded: int


class EmbeddingShards:
    """
    Embeddings in pieces, which are read where they are asked for.

    Args:
        arrays (`list[np.ndarray]`, each of shape `(num_rows, dim)`): in order; all but the last have as many rows.
    """

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays, self.shard_rows = arrays, len(arrays[0]) if arrays else 1

    @classmethod
    def open(cls, files: Iterable[Path]) -> EmbeddingShards:
        """The embeddings in files, not read yet; raises `ValueError` for one that is damaged."""
        columns = [open_shard(file)["embedding"].chunk(0) for file in files]
        return cls([column.flatten().to_numpy().reshape(len(column), -1) for column in columns])

    def __len__(self) -> int:
        return sum(map(len, self.arrays))

    def take(self, rows: np.ndarray) -> torch.FloatTensor:
        """
        Reads some rows.

        Args:
            rows (`np.ndarray` of shape `(num_rows,)`): their numbers, in any order.

        Returns:
            `torch.FloatTensor` of shape `(num_rows, dim)`
        """
        taken = np.empty((len(rows), self.arrays[0].shape[1] if self.arrays else 0), dtype=np.float32)
        shards, places = np.divmod(rows, self.shard_rows)
        for shard in np.unique(shards):
            here = shards == shard
            taken[here] = self.arrays[shard][places[here]]
        return torch.from_numpy(taken)


def parts_of(items: Sequence[Any], shard_rows: int) -> Iterator[Part]:
    """Cuts items into parts of `shard_rows`; each is fetched when it is its turn."""
    for start in range(0, len(items), shard_rows):
        yield Part([items[place] for place in range(start, min(start + shard_rows, len(items)))])


def embed_in_shards(
    model: ComaForEmbedding,
    processor: ComaProcessor,
    parts: Iterable[Part],
    folder: Path,
    *,
    num_rows: int,
    made_by: str,
    names: Callable[[int], str] = "Row {}".format,
    skip_errors: bool = False,
    advice: str = "",
    description: str = "Embedding",
    batch_tokens: int = 16384,
    num_workers: int = 0,
) -> ShardFiles:
    r"""
    Embeds items file by file, with a progress bar. Files that are there already, whole, of the same items and of the
    same model, are kept.

    Args:
        model ([`ComaForEmbedding`]), processor ([`ComaProcessor`]): make the embeddings.
        parts (`Iterable[Part]`): what goes into each shard. Of an image in a file, its size and time count, too.
        folder (`Path`): for the files.
        num_rows (`int`): rows of all parts.
        made_by (`str`): what the model and its settings are known by.
        names (`Callable`, *optional*): what an item is called in messages, by its number; "Row 3" by default.
        skip_errors (`bool`, *optional*, defaults to `False`): whether rows that cannot be embedded are stored without
            an embedding and with what is wrong.
        advice (`str`, *optional*): what stands after an error about a row.
        description (`str`, *optional*, defaults to `"Embedding"`): what stands before the progress bar.
        batch_tokens, num_workers: of [`~trainers.encoding.encode_batches`].

    Returns:
        [`ShardFiles`]

    Raises:
        ValueError: for an item that cannot be embedded, with its name.
        MemoryError: if the accelerator has too little memory.
        OSError: if a file cannot be written.
    """
    files, num_embedded, first = [], 0, 0
    options = {"batch_tokens": batch_tokens, "num_workers": num_workers}
    with logging.tqdm(total=num_rows, desc=description, unit="row", smoothing=0.05) as progress:
        for items, columns in parts:
            files.append(folder / f"{first:012d}.arrow")
            made_of = _digest_of_part(made_by, items, columns)
            if _is_kept(files[-1], made_of, skip_errors):
                progress.total -= len(items)
                progress.refresh()
            else:
                embeddings, errors = np.full((len(items), model.config.hidden_size), np.nan, dtype=np.float32), {}
                paths = columns.get("image", [None] * len(items))
                named = {"names": lambda place, first=first: names(first + place)}
                try:
                    for batch in encode_batches(model, processor, items, **named, **options):
                        errors |= {row: _with_path(error, paths[row]) for row, error in batch.failures.items()}
                        if errors and not skip_errors:
                            raise ValueError(f"{errors[min(errors)].rstrip('.?')}.{advice}")
                        embeddings[batch.rows] = batch.embeddings.numpy()
                        progress.update(len(batch.rows) + len(batch.failures))
                except torch.OutOfMemoryError as error:
                    hint = f"Go on by the same command with fewer --batch-tokens than {batch_tokens}."
                    raise MemoryError(hint) from error
                _write_shard(files[-1], embeddings, errors, columns, made_of)
                num_embedded += len(items) - len(errors)
            first += len(items)
    return ShardFiles(files, num_embedded)


def open_shard(file: Path) -> pa.Table:
    """
    The table in a shard, not read into memory.

    Raises:
        ValueError: if there is none, or it is not what was written.
    """
    try:
        with pa.memory_map(str(file)) as source:
            content = source.read_buffer()
        size = content.size - DIGEST_BYTES
        if size < 0 or content[size:].to_pybytes() != _digest(content[:size]):
            raise OSError("its bytes have changed since it was written")
        return pa.ipc.open_file(content[:size]).read_all()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} is damaged ({error}): remove it, and the same command makes it anew.") from error


def _is_kept(file: Path, made_of: str, with_errors: bool) -> bool:
    try:
        shard = open_shard(file)
    except ValueError:
        return False
    return shard.schema.metadata[MADE_OF] == made_of.encode() and (
        with_errors or shard["error"].null_count == len(shard)
    )


def _write_shard(
    file: Path, embeddings: np.ndarray, errors: dict[int, str], columns: Mapping[str, Sequence[Any]], made_of: str
) -> None:
    flat = pa.array(embeddings.reshape(-1))
    table = pa.table(
        {
            **{name: list(map(_storable, values)) for name, values in columns.items()},
            "embedding": pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1]),
            "error": pa.array([_storable(errors.get(row)) for row in range(len(embeddings))], pa.string()),
        }
    )
    table = table.replace_schema_metadata({MADE_OF: made_of})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    with whole_file(file) as temporary:
        temporary.write_bytes(b"".join([content, _digest(content)]))


def _storable(value: Any) -> Any:
    """A text that can be written; halves of surrogate pairs and bytes of other encodings become escapes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _with_path(error: str, path: str | None) -> str:
    """What is wrong with a row, and with which file."""
    return error if path is None or path in error else f"{error.removesuffix('.')}; the image is {path!r}."


def _digest_of_part(made_by: str, items: list[Any], columns: Mapping[str, Sequence[Any]]) -> str:
    """What a shard is known by: the model, the texts, and the images or the state of their files."""
    states = [_file_state(image) for item in items for _, image in images_of(item)]
    content = json.dumps([made_by, items, states, columns], default=_known_by)
    return _digest(content.encode()).hex()


def _known_by(value: Any) -> str:
    return str(value) if isinstance(value, ValueError | range) else image_key(value)


def _file_state(image: Any) -> tuple[int, int] | None:
    """Differs when the content of a file does, and its name stays."""
    if not isinstance(image, str | Path):
        return None
    try:
        state = os.stat(image)
    except (OSError, ValueError):  # it is not there, or this is no path
        return None
    return state.st_size, state.st_mtime_ns


def _digest(content: Any) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
