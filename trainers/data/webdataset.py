"""Rows from WebDataset shards: tar files in which the members of a sample have one name and several endings.

They are read as streams, in data loader workers, and never unpacked; images and videos stay the bytes of their files
until the collator decodes them. A sample that is bad is named by its shard and its key. (The reader of `datasets`
parses a member as it goes and ends at the first that it cannot parse, without a name; so tar files are read here.)
"""

from __future__ import annotations

import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from glob import glob
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from datasets import Features, IterableDataset, Value

from trainers.data.contents import PLACEHOLDERS
from trainers.data.dialogues import DialogueColumns, mapped_row, shows_video
from trainers.data.faults import describe, fault
from trainers.data.image_folders import is_system_file
from trainers.data.images import IMAGE_SUFFIXES, ImageRoot, root_of, undecoded
from trainers.data.json_rows import parse_object
from trainers.data.llava import llava_row, llava_shows_video
from trainers.data.pairs import PairColumns, check_named, features_of, pair_row
from trainers.data.rows import ROW, BadRows
from trainers.data.schema import DIALOGUE_FEATURES, VIDEO_DIALOGUE_FEATURES
from trainers.data.text_files import open_file, printable
from trainers.data.videos import LOOKED_AT, VIDEO_SUFFIXES, late_video


__all__ = ["matching_shards", "read_samples", "stream_dialogues", "stream_pairs"]

TEXT_SUFFIXES = (".txt", ".text", ".caption", ".cls")
KINDS = {**dict.fromkeys(IMAGE_SUFFIXES, "image"), **dict.fromkeys(VIDEO_SUFFIXES, "video")}
# What a shard raises that is damaged, by its kind of compression.
UNREADABLE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
Sample = dict[str, Any]
Member = tuple[str, bytes | ValueError]  # its ending; its content, or why there is none


def stream_dialogues(
    shards: str | Path | Sequence[str | Path],
    columns: DialogueColumns | None = None,
    on_bad_row: str = "raise",
    image_root: str | Path | None = None,
) -> IterableDataset:
    r"""
    Streams rows of stage 1 from WebDataset shards.

    A sample has images (`0001.jpg`; of several, `0001.1.png`, … `0001.12.png`), which come in the order of their
    names, numbers counting as numbers, or videos (`0001.mp4`) likewise, and a `0001.json` with `messages` or LLaVA's
    `conversations`; or texts in members that `columns` names by their endings (`question="q.txt"`, `answer="a.txt"`).
    Whether there are videos is said by the first hundred samples.

    Args:
        shards (`str`, `Path` or a sequence of them):
            Tar files, or patterns such as `"shards/*.tar"`. Workers share them, so there should be as many or more.
        columns ([`DialogueColumns`], *optional*):
            Other names of the columns.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave bad samples out, which is logged.
        image_root (`str` or `Path`, *optional*):
            Folder at which paths in a JSON begin, where it has any; by default that of the shard.

    Returns:
        `IterableDataset`: columns `images`, `text`, `messages`, `videos` where there are any, and `row`, which is
            shard and key.

    Raises:
        ValueError: if there are no shards; when it is iterated, for bad samples.
    """
    columns = columns or DialogueColumns()
    columns.needed()
    BadRows(on_bad_row)  # a policy that does not exist is said before anything is read
    files, convert, features = _files(shards), partial(_dialogue, columns=columns), DIALOGUE_FEATURES
    first = islice((sample for file in files for _, sample in read_samples(file)), LOOKED_AT)
    if any(isinstance(sample, dict) and _shows_video(sample, columns) for sample in first):
        convert, features = partial(convert, videos=True), VIDEO_DIALOGUE_FEATURES
    return _stream(files, convert, features, on_bad_row, image_root)


def stream_pairs(
    shards: str | Path | Sequence[str | Path],
    columns: PairColumns,
    on_bad_row: str = "raise",
    image_root: str | Path | None = None,
) -> IterableDataset:
    r"""
    Streams rows of stage 2 from WebDataset shards.

    Args:
        shards, on_bad_row, image_root:
            As in [`stream_dialogues`].
        columns ([`PairColumns`]):
            Names of members by their endings (`positive_text="txt"`), or of keys of the .json; `"image"` is the first
            image, whatever its ending, and `"video"` the first video.

    Returns:
        `IterableDataset`: columns as in [`load_pairs`], and `row`, which is shard and key.

    Raises:
        ValueError: if there are no shards, or columns missing; when it is iterated, for bad samples.
    """
    named = columns.named()
    check_named(named)
    BadRows(on_bad_row)
    return _stream(_files(shards), partial(pair_row, named=named), features_of(named), on_bad_row, image_root)


def _files(shards: str | Path | Sequence[str | Path]) -> list[str]:
    patterns = [shards] if isinstance(shards, str | Path) else shards
    files = [file for pattern in patterns for file in matching_shards(str(pattern))]
    if not files:
        raise ValueError(f"There are no shards: nothing matches {[str(pattern) for pattern in patterns]}.")
    for file in files:
        open_file(file).close()  # a FIFO or a device is said now
    return files


def _stream(
    files: list[str], convert: partial, features: Features, on_bad_row: str, image_root: str | Path | None
) -> IterableDataset:
    streamed = Features({**{name: undecoded(of) for name, of in features.items()}, ROW: Value("string")})
    settings = {"shards": files, "convert": convert, "on_bad_row": on_bad_row, "image_root": image_root}
    return IterableDataset.from_generator(_rows, features=streamed, gen_kwargs=settings)


def matching_shards(pattern: str) -> list[str]:
    """A file of this name, whatever signs are in it, or those that match the pattern."""
    return [pattern] if Path(pattern).is_file() else sorted(glob(pattern, recursive=True))


def _rows(
    shards: list[str], convert: partial, on_bad_row: str, image_root: str | Path | None
) -> Iterator[dict[str, Any]]:
    for shard in shards:
        root, bad_rows = root_of(shard, image_root), BadRows(on_bad_row, "the shards")
        for name, sample in read_samples(shard):
            try:
                if isinstance(sample, ValueError):
                    raise sample
                row = convert(sample, root=root)
            except ValueError as error:
                bad_rows.report(name, str(error))
                continue
            yield {**row, ROW: name}


def read_samples(shard: str) -> Iterator[tuple[str, Sample | ValueError]]:
    """
    Samples of a shard, by shard and key.

    Args:
        shard (`str`): a tar file.

    Returns:
        `Iterator[tuple[str, dict | ValueError]]`: each name with members by their endings, the keys of the JSON,
            `images` and `image`, `videos` and `video`; or with why the sample, or what follows it, cannot be read.
    """
    name, key = printable(Path(shard).name), "its beginning"
    try:
        for key, members in _members_of(shard):
            try:
                sample = _sample(members)
            except ValueError as error:
                sample = error
            yield f"{name}/{key}", sample
    except UNREADABLE as error:
        yield f"{name}/{key}", ValueError(f"after it, the shard cannot be read: {error}")


def _members_of(shard: str) -> Iterator[tuple[str, list[Member]]]:
    """Neighbours of one name, which ends at the first dot: the key, and endings with contents."""
    key, members = None, []
    with _opened(shard) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if member.isdir() or any(is_system_file(part) and part != ".." for part in path.parts):
                continue
            stem, _, ending = path.name.partition(".")
            if (found := printable(path.with_name(stem))) != key:
                if members:
                    yield key, members
                key, members = found, []
            members.append((printable(ending.lower()), _content(tar, member)))
        if members:
            yield key, members
        _check_end(tar)


def _opened(shard: str) -> tarfile.TarFile:
    try:
        return tarfile.open(shard, "r|*")
    except TypeError as error:  # of `ord`, where the header of gzip ends too early
        raise tarfile.ReadError("the header of its compression is cut off") from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | ValueError:
    if printable(member.name) != member.name:
        return ValueError(f"found the member {printable(member.name)}, whose name is not UTF-8, expected another name")
    if not member.isfile():
        found = "a link" if member.issym() or member.islnk() else "a device or a FIFO"
        return ValueError(f"found {found} in place of the member {member.name}, expected a file in the shard")
    return tar.extractfile(member).read()


def _check_end(tar: tarfile.TarFile) -> None:
    """
    After the last member a tar file has zeros. With nothing there it was cut short; with more, one archive was put
    after another, or `tarfile` has taken a damaged header for the end.
    """
    rest = tar.fileobj.read(tarfile.BLOCKSIZE)
    if not rest:
        raise tarfile.ReadError("it has no end mark and may lack members")
    while rest:
        if rest.strip(b"\0"):
            raise tarfile.ReadError("more follows after its end mark or after a damaged header")
        rest = tar.fileobj.read(tarfile.RECORDSIZE)


def _sample(members: list[Member]) -> Sample:
    """Columns of a sample: its members by their endings, the keys of its JSON, its images and its videos."""
    sample: Sample = {}
    of_json: Sample = {}
    files: dict[str, dict[str, bytes]] = {}
    for ending, content in members:
        if isinstance(content, ValueError):
            raise content
        if ending in sample:
            raise fault(ending, "two members", "one member of each name")
        suffix = f".{ending.rpartition('.')[2]}"
        sample[ending] = _decoded(ending, content) if suffix in (*TEXT_SUFFIXES, ".json") else content
        if suffix in KINDS:
            files.setdefault(KINDS[suffix], {})[ending] = content
        if suffix == ".json":
            parsed = _parse(sample.pop(ending), ending)
            if both := sorted(of_json.keys() & parsed):
                raise fault(ending, f"the key {both[0]!r}, which another JSON of the sample has too", "it once")
            of_json |= parsed
    for kind, found in files.items():
        of_json |= _columns_of(kind, found, of_json.get(f"{kind}s"))
    if both := sorted(of_json.keys() & sample):
        raise fault(both[0], "a member and a key of the JSON", "one of them")
    return of_json | sample


def _decoded(ending: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise fault(ending, f"{describe(content)}, which are not UTF-8 ({error})", "a text in UTF-8") from error


def _parse(text: str, ending: str) -> Sample:
    try:
        return parse_object(text, expected="JSON")
    except ValueError as error:
        raise ValueError(f"column {ending}: {error}") from error


def _columns_of(kind: str, files: dict[str, bytes], listed: Any) -> Sample:
    """The columns `images` and `image`, or `videos` and `video`, of members by their endings; a JSON lists as many, if
    it does."""
    endings = sorted(files, key=_natural)
    if empty := [ending for ending in endings if not files[ending]]:
        raise fault(empty[0], "0 bytes", "an image" if kind == "image" else "a video")
    if isinstance(listed, list) and len(listed) != len(files):
        raise fault(f"{kind}s", f"{len(listed)} in the JSON and {len(files)} members", "as many")
    return {f"{kind}s": [files[ending] for ending in endings], kind: files[endings[0]]}


def _natural(ending: str) -> list[str | int]:
    """An order in which numbers count as numbers: 2.png before 10.png."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", ending)]


def _is_llava(sample: Sample, columns: DialogueColumns) -> bool:
    return "conversations" in sample and columns.messages not in sample


def _shows_video(sample: Sample, columns: DialogueColumns) -> bool:
    return llava_shows_video(sample) if _is_llava(sample, columns) else shows_video(sample, columns)


def _dialogue(sample: Sample, columns: DialogueColumns, root: ImageRoot, videos: bool = False) -> dict[str, Any]:
    if not videos and _shows_video(sample, columns):
        raise late_video(columns.videos, "shards", "name a shard with videos first")
    if not _is_llava(sample, columns):
        return mapped_row(sample, columns, root, videos)
    # Of members, what is called `image` or `video` is the first one.
    firsts = [kind for kind in PLACEHOLDERS if f"{kind}s" in sample and isinstance(sample.get(kind), bytes)]
    return llava_row({**sample, **{kind: sample[f"{kind}s"] for kind in firsts}}, root, videos=videos)
