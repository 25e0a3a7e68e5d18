"""Rows from WebDataset shards: tar files in which the members of a sample have one name and several endings.

They are read as streams, in data loader workers, and never unpacked; pictures stay the bytes of their files until the
collator decodes them. A sample that is bad is named by its shard and its key. (The reader of `datasets` parses a
member as it goes and ends at the first that it cannot parse, without a name; so tar files are read here.)
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any

from datasets import Features, IterableDataset, Value

from trainers.data.dialogues import DialogueColumns, mapped_row
from trainers.data.llava import llava_row
from trainers.data.pairs import PairColumns, check_named, features_of, pair_row
from trainers.data.pictures import PICTURE_SUFFIXES
from trainers.data.schema import DIALOGUE_FEATURES
from trainers.rows import ROW, BadRows, describe, fault, undecoded


__all__ = ["stream_dialogues", "stream_pairs"]

TEXT_SUFFIXES = (".txt", ".text", ".caption", ".cls")
Sample = dict[str, Any]


def stream_dialogues(
    shards: str | Path | Sequence[str | Path], columns: DialogueColumns | None = None, on_bad_row: str = "raise"
) -> IterableDataset:
    r"""
    Streams rows of stage 1 from WebDataset shards.

    A sample has pictures (`0001.jpg`; of several, `0001.1.png`, `0001.2.png`), which come in the order of their
    names, and a `0001.json` with `messages` or LLaVA's `conversations`; or texts in members that `columns` names by
    their endings (`question="q.txt"`, `answer="a.txt"`).

    Args:
        shards (`str`, `Path` or a sequence of them):
            Tar files, or patterns such as `"shards/*.tar"`. Workers share them, so there should be as many or more.
        columns ([`DialogueColumns`], *optional*):
            Other names of the columns.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave bad samples out, which is logged.

    Returns:
        `IterableDataset`: columns `images`, `text`, `messages`, and `row`, which is shard and key.

    Raises:
        ValueError: if there are no shards; when it is iterated, for bad samples.
    """
    columns = columns or DialogueColumns()
    columns.needed()
    return _stream(shards, partial(_dialogue, columns=columns), DIALOGUE_FEATURES, on_bad_row)


def stream_pairs(
    shards: str | Path | Sequence[str | Path], columns: PairColumns, on_bad_row: str = "raise"
) -> IterableDataset:
    r"""
    Streams rows of stage 2 from WebDataset shards.

    Args:
        shards, on_bad_row:
            As in [`stream_dialogues`].
        columns ([`PairColumns`]):
            Names of members by their endings (`positive_text="txt"`), or of keys of the .json; `"image"` is the first
            picture, whatever its ending.

    Returns:
        `IterableDataset`: columns as in [`load_pairs`], and `row`, which is shard and key.

    Raises:
        ValueError: if there are no shards, or columns missing; when it is iterated, for bad samples.
    """
    named = columns.named()
    check_named(named)
    return _stream(shards, partial(_pair, named=named), features_of(named), on_bad_row)


def _stream(
    shards: str | Path | Sequence[str | Path], convert: partial, features: Features, on_bad_row: str
) -> IterableDataset:
    BadRows(on_bad_row)  # a policy that does not exist is said now
    patterns = [shards] if isinstance(shards, str | Path) else shards
    files = [file for pattern in patterns for file in sorted(glob(str(pattern), recursive=True))]
    if not files:
        raise ValueError(f"There are no shards: nothing matches {[str(pattern) for pattern in patterns]}.")
    streamed = Features({**{name: undecoded(of) for name, of in features.items()}, ROW: Value("string")})
    settings = {"shards": files, "convert": convert, "on_bad_row": on_bad_row}
    return IterableDataset.from_generator(_rows, features=streamed, gen_kwargs=settings)


def _rows(shards: list[str], convert: partial, on_bad_row: str) -> Iterator[dict[str, Any]]:
    for shard in shards:
        name = Path(shard).name
        bad_rows = BadRows(on_bad_row, "the shards")
        key = "its beginning"
        try:
            for key, sample in _samples(shard):
                try:
                    row = convert(_record(sample))
                except ValueError as error:
                    bad_rows.report(f"{name}/{key}", str(error))
                    continue
                yield {**row, ROW: f"{name}/{key}"}
        except (tarfile.TarError, EOFError, OSError) as error:
            bad_rows.report(f"{name}/{key}", f"after it, the shard cannot be read: {error}")


def _samples(shard: str) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Neighbours of one name, which ends at the first dot: the key, and endings with contents."""
    key, members = None, []
    with tarfile.open(shard, "r|*") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isfile() or path.name.startswith("."):
                continue
            stem, _, ending = path.name.partition(".")
            if (found := str(path.with_name(stem))) != key:
                if members:
                    yield key, members
                key, members = found, []
            members.append((ending.lower(), tar.extractfile(member).read()))
    if members:
        yield key, members


def _record(members: list[tuple[str, bytes]]) -> Sample:
    """Columns of a sample: its members by their endings, the keys of its JSON, and its pictures."""
    sample: Sample = {}
    parsed: Sample = {}
    for ending, content in members:
        suffix = f".{ending.rpartition('.')[2]}"
        if ending in sample:
            raise fault(ending, "two members", "one member of each name")
        try:
            sample[ending] = content.decode() if suffix in (*TEXT_SUFFIXES, ".json") else content
        except UnicodeDecodeError as error:
            raise fault(ending, f"{describe(content)}, which are not UTF-8 ({error})", "a text in UTF-8") from error
        if suffix == ".json":
            parsed |= _parse(sample.pop(ending), ending)
    pictures = [ending for ending, _ in members if f".{ending.rpartition('.')[2]}" in PICTURE_SUFFIXES]
    if pictures:
        if empty := [ending for ending in pictures if not sample[ending]]:
            raise fault(empty[0], "0 bytes", "a picture")
        parsed["images"] = [sample[ending] for ending in sorted(pictures)]
        parsed["image"] = parsed["images"][0]
    return parsed | sample


def _parse(text: str, column: str) -> Sample:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise fault(column, f"{ascii(text[:60])} ({error})", "JSON") from error
    if not isinstance(parsed, dict):
        raise fault(column, describe(parsed), "a JSON object")
    return parsed


def _dialogue(sample: Sample, columns: DialogueColumns) -> dict[str, Any]:
    if "conversations" in sample and columns.messages not in sample:
        return llava_row({**sample, "image": sample.get("images")}, "")
    return mapped_row(sample, columns, "")


def _pair(sample: Sample, named: dict[str, str]) -> dict[str, Any]:
    return pair_row(sample, named, "")
