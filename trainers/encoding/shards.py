"""Embeddings in files of some rows each: memory need not hold them, and after an interruption the rest is made.

A shard is an Arrow file with the columns `embedding`, `error` and those that it was given, `vectors` where an encoder
keeps several of each row, one after another, `memory` and `memory_position` where it keeps memories, and in its
metadata what it was made of. After it stands a digest of its
bytes, so that a shard that was cut or changed is known and made anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from transformers.utils import logging

from modeling_coma.pages_coma import file_of
from trainers.data.images import image_key, images_of
from trainers.encoding.encoder import ROW, EncodedBatch, Encoder
from trainers.files import whole_file


__all__ = ["EmbeddingShards", "Part", "ShardRows", "digest_of_part", "embed_in_shards", "kept_digest", "open_shard"]
__all__ += ["shard_file", "write_shard"]

DOCUMENTS_AT_A_TIME = 8192
MADE_OF = b"made_of"
DIGEST_BYTES = 16


class Part(NamedTuple):
    """
    The rows of a shard.

    Args:
        items (`list`): what is embedded, as in [`~trainers.encoding.encode_batches`].
        columns (`dict[str, list]`): what is stored beside the embeddings, texts or whole numbers; what stands in
            `image` is the path of an image, which is named where something is wrong with it.
    """

    items: list[Any]
    columns: Mapping[str, Sequence[Any]] = {}


class ShardRows(NamedTuple):
    """
    Rows that are to be embedded, read some at a time.

    Args:
        num_rows (`int`): how many there are.
        read (`Callable[[int, int], Part]`): those from one number up to, and without, another.
        names (`Callable[[int], str]`, *optional*): what a row is called in messages; "Row 3" by default.
        way_out (`str`, *optional*): what is said to who has a bad row.
    """

    num_rows: int
    read: Callable[[int, int], Part]
    names: Callable[[int], str] = ROW
    way_out: str = "Mend it and go on by the same command."

    @classmethod
    def of(cls, items: Sequence[Any]) -> ShardRows:
        """Items without other columns; a method `name(number)` says what they are called."""
        names = getattr(items, "name", ROW)
        return cls(len(items), lambda start, stop: Part([items[row] for row in range(start, stop)]), names)


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

    def blocks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, torch.FloatTensor]]:
        """Rows by their numbers, some at a time, as [`~trainers.encoding.nearest.nearest_documents`] takes them."""
        for start in range(0, len(rows), DOCUMENTS_AT_A_TIME):
            some = rows[start : start + DOCUMENTS_AT_A_TIME]
            yield some, self.take(some)


def embed_in_shards(
    encoder: Encoder,
    rows: ShardRows,
    folder: Path,
    *,
    made_by: str,
    shard_rows: int = 8192,
    skip_errors: bool = False,
    description: str = "Embedding",
) -> tuple[list[Path], int]:
    r"""
    Embeds rows file by file, with a progress bar. Files that are there already, whole, of the same rows and of the
    same model, are kept.

    Args:
        encoder ([`~trainers.encoding.encoder.Encoder`]): makes the embeddings, and further vectors of each row.
        rows ([`ShardRows`]): what is embedded. Of an image in a file, the size and the time count, too.
        folder (`Path`): for the files.
        made_by (`str`): what the model and its settings are known by.
        shard_rows (`int`, *optional*, defaults to 8192): rows of a file.
        skip_errors (`bool`, *optional*, defaults to `False`): whether rows that cannot be embedded are stored without
            an embedding and with what is wrong.
        description (`str`, *optional*, defaults to `"Embedding"`): what stands before the progress bar.

    Returns:
        `tuple[list[Path], int]`: the shards in order, and how many rows have been embedded now, and not before.

    Raises:
        ValueError: for a row that cannot be embedded, with its name.
        MemoryError: if the accelerator has too little memory.
        OSError: if a file cannot be written.
    """
    if shard_rows < 1:
        raise ValueError(f"shard_rows={shard_rows} must be 1 or more.")
    files, num_embedded = [], 0
    with logging.tqdm(total=rows.num_rows, desc=description, unit="row", smoothing=0.05) as progress:
        for start in range(0, rows.num_rows, shard_rows):
            part = rows.read(start, min(start + shard_rows, rows.num_rows))
            file = shard_file(folder, start)
            files.append(file)
            made_of = digest_of_part(made_by, part)
            if made_of == kept_digest(file, skip_errors):
                progress.total -= len(part.items)
                progress.refresh()
                continue
            batches = encoder.batches(part.items, start, rows.names)
            made = _nothing_made(len(part.items), encoder)
            errors = _fill(made, part, batches, progress, None if skip_errors else rows.way_out)
            write_shard(file, _table(part, made, errors, made_of))
            num_embedded += len(part.items) - len(errors)
            progress.set_postfix_str(encoder.batch_size.described)
    return files, num_embedded


def _nothing_made(num_rows: int, encoder: Encoder) -> dict[str, np.ndarray]:
    """What is made of the rows of a part, before anything is."""
    shape = num_rows, 1 + encoder.num_vectors, encoder.model.config.hidden_size
    made = {"vectors": np.full(shape, np.nan, dtype=np.float32)}
    if form := encoder.memory_form:
        made["memory"] = np.full((num_rows, form.size), np.nan, dtype=np.float16)
        made["memory_position"] = np.zeros(num_rows, dtype=np.int64)
    return made


def _fill(
    made: dict[str, np.ndarray], part: Part, batches: Iterable[EncodedBatch], progress: Any, way_out: str | None
) -> dict[int, str]:
    """Takes what is made of a part, and gives, by place, what is wrong with rows of which nothing is."""
    errors = {}
    paths = part.columns.get("image", [None] * len(part.items))
    try:
        for batch in batches:
            for row, error in batch.failures.items():
                named = paths[row] is None or paths[row] in error
                errors[row] = error if named else f"{error.removesuffix('.')}; the file is {paths[row]!r}."
            if errors and way_out is not None:
                raise ValueError(f"{errors[min(errors)].rstrip('.?')}. {way_out}")
            made["vectors"][batch.rows] = batch.vectors.numpy()
            if batch.memory is not None:
                made["memory"][batch.rows] = batch.memory.numbers.numpy()
                made["memory_position"][batch.rows] = batch.memory.positions.numpy()
            progress.update(len(batch.rows) + len(batch.failures))
    except torch.OutOfMemoryError as error:
        raise MemoryError("Go on by the same command with fewer --batch-tokens.") from error
    return errors


def write_shard(file: Path, table: pa.Table) -> None:
    """Writes a table, whole or not at all; raises as [`~trainers.files.whole_file`]."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    with whole_file(file) as temporary:
        temporary.write_bytes(b"".join([content, _digest(content)]))


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


def shard_file(folder: Path, start: int) -> Path:
    """The shard whose first row has this number."""
    return folder / f"{start:012d}.arrow"


def kept_digest(file: Path, with_errors: bool) -> str | None:
    """
    What a shard that may be kept was made of, as [`digest_of_part`] says it.

    Args:
        file (`Path`): the shard.
        with_errors (`bool`): whether rows of it may be without an embedding.

    Returns:
        `str` or `None`: `None` if it is not there, not whole, or has such rows.
    """
    try:
        shard = open_shard(file)
    except ValueError:
        return None
    is_good = with_errors or shard["error"].null_count == len(shard)
    return shard.schema.metadata[MADE_OF].decode() if is_good else None


def _table(part: Part, made: dict[str, np.ndarray], errors: dict[int, str], made_of: str) -> pa.Table:
    vectors, columns = made["vectors"], {name: list(map(_storable, values)) for name, values in part.columns.items()}
    columns["embedding"] = _lists(vectors[:, 0])
    if vectors.shape[1] > 1:
        columns["vectors"] = _lists(vectors[:, 1:])
    if "memory" in made:
        columns |= {"memory": _lists(made["memory"]), "memory_position": pa.array(made["memory_position"])}
    columns["error"] = pa.array([_storable(errors.get(row)) for row in range(len(vectors))], pa.string())
    return pa.table(columns, metadata={MADE_OF: made_of})


def _lists(rows: np.ndarray) -> pa.FixedSizeListArray:
    """The numbers of each row, one after another."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), math.prod(rows.shape[1:]))


def _storable(value: Any) -> Any:
    """A text that can be written; halves of surrogate pairs and bytes of other encodings become escapes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def digest_of_part(made_by: str, part: Part) -> str:
    """What a shard is known by: the model, the texts, and the images and videos or the state of their files."""
    states = [_file_state(image) for item in part.items for _, image in images_of(item)]
    states += [_file_state(video) for item in part.items for _, video in images_of(item, kind="video")]
    content = json.dumps([made_by, part.items, states, part.columns], default=_known_by)
    return _digest(content.encode()).hex()


def _known_by(value: Any) -> str:
    return str(value) if isinstance(value, ValueError | Path) else image_key(value)


def _file_state(image: Any) -> tuple[int, int] | None:
    """Differs when the content of a file does, and its name stays."""
    if not isinstance(image, str | Path):
        return None
    try:
        state = os.stat(file_of(image))
    except (OSError, ValueError):  # it is not there, or this is no path
        return None
    return state.st_size, state.st_mtime_ns


def _digest(content: Any) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
