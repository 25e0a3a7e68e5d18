"""Embeddings in files of some rows each: memory need not hold them, and after an interruption the rest is made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.data.images import images_of
from trainers.encoding.encode import encode_batches


__all__ = ["EmbeddingShards", "embed_in_shards"]


class EmbeddingShards:
    """
    Embeddings on disk, a file for every `shard_rows` of them. They are read where they are asked for.

    Args:
        files (`list[Path]`): in order; all but the last have `shard_rows` rows.
        shard_rows (`int`): rows of a file.

    Raises:
        ValueError: for a file that is damaged.
    """

    def __init__(self, files: list[Path], shard_rows: int) -> None:
        self.arrays, self.shard_rows = [_open(file) for file in files], shard_rows

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


def embed_in_shards(
    model: ComaForEmbedding,
    processor: ComaProcessor,
    items: Sequence[Any],
    keys: Sequence[int],
    folder: Path,
    *,
    made_by: str,
    shard_rows: int = 8192,
    description: str = "Embedding",
    **options: Any,
) -> EmbeddingShards:
    r"""
    Embeds items file by file. Files that are there already, of the same items and the same model, are kept.

    Args:
        model ([`ComaForEmbedding`]), processor ([`ComaProcessor`]): make the embeddings.
        items (`Sequence`): as in [`~trainers.encoding.embed_items`]; fetched when it is their turn. A method
            `name(place)` says what they are called in messages; "Row 3" by default.
        keys (`Sequence[int]`): what the items are known by; of an image in a file its size and time count, too.
        folder (`Path`): for the files, and for nothing else.
        made_by (`str`): what the model and its settings are known by.
        shard_rows (`int`, *optional*, defaults to 8192): rows of a file.
        description (`str`, *optional*, defaults to `"Embedding"`): what stands before the progress bar.
        options: `batch_tokens` and `num_workers` of [`~trainers.encoding.encode_batches`].

    Returns:
        [`EmbeddingShards`]: a row for every item, in fp32.

    Raises:
        ValueError: for an item that cannot be embedded, with its name, and for a file that is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with logging.tqdm(total=len(items), desc=description, unit="item", smoothing=0.05) as progress:
        for start in range(0, len(items), shard_rows):
            stop = min(start + shard_rows, len(items))
            part = [items[place] for place in range(start, stop)]
            of_part = f"{made_by} {keys[start:stop]} {_file_states(part)}"
            known_as = hashlib.blake2b(of_part.encode(), digest_size=8).hexdigest()
            files.append(folder / f"{start:012d}-{known_as}.npy")
            if files[-1].exists():
                _check(files[-1], (stop - start, model.config.hidden_size))
                progress.total -= stop - start
                progress.refresh()
                continue
            embeddings = np.full((stop - start, model.config.hidden_size), np.nan, dtype=np.float32)
            of_part = partial(_name, getattr(items, "name", None), start)
            for batch in encode_batches(model, processor, part, names=of_part, **options):
                if batch.failures:
                    raise ValueError(next(iter(batch.failures.values())))
                embeddings[batch.rows] = batch.embeddings.numpy()
                progress.update(len(batch.rows))
            _write(files[-1], embeddings)
    for stale in set(folder.glob("*.npy")) - set(files):
        stale.unlink()
    return EmbeddingShards(files, shard_rows)


def _file_states(items: list[Any]) -> list[tuple[int, int]]:
    """Sizes and times of the images that are files: the content may change where the name stays."""
    images = (image for item in items for _, image in images_of(item) if isinstance(image, str | Path))
    found = [Path(image).stat() for image in images if Path(image).is_file()]
    return [(state.st_size, state.st_mtime_ns) for state in found]


def _name(names: Callable[[int], str] | None, start: int, place: int) -> str:
    return f"Row {start + place}" if names is None else names(start + place)


def _open(file: Path) -> np.ndarray:
    """
    The embeddings in a file, not read yet.

    Raises:
        ValueError: if there are none.
    """
    try:
        array = np.load(file, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{file} is damaged ({error}): remove it, and the same command makes it anew.") from error
    if array.ndim != 2 or array.dtype != np.float32:
        raise ValueError(f"{file} has no embeddings in it, but {array.dtype} of shape {array.shape}: remove it.")
    return array


def _check(file: Path, shape: tuple[int, int]) -> None:
    """Raises `ValueError` for a file that is not what it was when it was written."""
    array = _open(file)
    if array.shape != shape or not np.isfinite(array).all():
        found = f"shape {array.shape}, expected {shape}" if array.shape != shape else "numbers that are not finite"
        raise ValueError(f"{file} is damaged ({found}): remove it, and the same command makes it anew.")


def _write(path: Path, embeddings: np.ndarray) -> None:
    """A file that is there is whole."""
    temporary = path.with_suffix(".writing")
    try:
        buffer = BytesIO()  # `np.save` to a file itself does not say that the disk is full
        np.save(buffer, embeddings)
        temporary.write_bytes(buffer.getbuffer())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"{path} cannot be written: {error}") from error
