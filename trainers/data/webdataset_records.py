"""WebDataset shards as a table: samples by their number, over all shards, as other tables have rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from trainers.data.tables import Record, Records
from trainers.data.text_files import open_file, printable
from trainers.data.webdataset import matching_shards, read_samples


__all__ = ["SHARD_SUFFIXES", "TEXT_MEMBERS", "find_shards", "sample_records"]

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
TEXT_MEMBERS = ("txt", "caption")  # where samples have no `text`


def find_shards(path: str | Path) -> list[str]:
    """The shards that a path or a pattern names; none if it is of another kind."""
    is_named_so = str(path).lower().endswith(SHARD_SUFFIXES) and not Path(path).is_dir()
    return matching_shards(str(path)) if is_named_so else []


def sample_records(path: str | Path, shards: Sequence[str]) -> Records:
    """
    The samples of shards, one shard after the other. They are gone through once, to count them.

    Args:
        path (`str` or `Path`): what names the shards.
        shards (`Sequence[str]`): tar files.

    Returns:
        [`Records`]: members by their endings, keys of the JSON, `image` and `images`, `video` and `videos`, and `id`,
            which is shard and key where the JSON has none. What comes after damage in a shard is one bad row.

    Raises:
        ValueError: for a shard that is no file.
    """
    columns: dict[str, None] = {}
    sizes, states = [], []
    for shard in shards:
        open_file(shard).close()  # a FIFO or a device is said now
        state = Path(shard).stat()
        states.append((shard, state.st_size, state.st_mtime_ns))
        number = 0
        for record in _samples_in(shard):
            columns |= {} if isinstance(record, ValueError) else dict.fromkeys(record)
            number += 1
        sizes.append(number)
    stops = list(accumulate(sizes))

    def read_from(start: int, columns: Any = None) -> Iterator[Record]:
        place = bisect_right(stops, start)
        first = stops[place - 1] if place else 0
        rows = (record for shard in shards[place:] for record in _samples_in(shard))
        return islice(rows, start - first, None)

    name = printable(Path(path).name)
    return Records(name, list(columns) or None, partial(read_from, 0), states, sum(sizes), read_from)


def _samples_in(shard: str) -> Iterator[Record]:
    for name, sample in read_samples(shard):
        yield ValueError(f"{name}: {sample}") if isinstance(sample, ValueError) else {"id": name, **sample}
