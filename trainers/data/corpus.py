"""Rows with `id`, `text`, `image` and `video` from a folder of files, a PDF, a text file or a table, by their number.

An image, or a video, is the path of a file or the bytes of one. Nothing is decoded here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from trainers.data.column_names import refuse_misnamed, tell_unread
from trainers.data.faults import describe, fault
from trainers.data.image_folders import FoundImage, describe_left_alone, folder_records, walk_images
from trainers.data.images import ImageRoot, as_image, as_stored, root_of
from trainers.data.pdf_pages import PDF, page_text, pdf_pages, with_pages
from trainers.data.schema import as_text, check_text
from trainers.data.tables import TABLE_SUFFIXES, Record, Records, open_records, refuse_format, saved_dataset
from trainers.data.text_files import printable
from trainers.data.text_format import TextFormat
from trainers.data.video_files import with_videos
from trainers.data.webdataset_records import SHARD_SUFFIXES, TEXT_MEMBERS, find_shards, sample_records


__all__ = ["FILE_SUFFIXES", "Columns", "Corpus", "open_corpus"]

FILE_SUFFIXES = (*TABLE_SUFFIXES, *SHARD_SUFFIXES, PDF)
KINDS = (
    f"a folder of images or end with {', '.join(FILE_SUFFIXES)} (or be a folder of `save_to_disk`, or a pattern for "
    "shards, such as shards/*.tar)"
)

Row = dict[str, Any]


class Columns(NamedTuple):
    """Names of the columns of a table; where one is `None`, its default is read if the table has it."""

    id: str | None = None
    text: str | None = None
    image: str | None = None
    video: str | None = None


@dataclass
class Corpus:
    """
    Rows of a source.

    Args:
        records ([`Records`]): the source.
        num_rows (`int`): how many rows it has.
        fill (`Callable[[Row, dict], None]`): fills a row with what is in a record; raises `ValueError` for a bad one.
        columns (`list[str]`, *optional*): those that are read; by default all.
        left_alone (`str`, *optional*): which files of a folder are no images, in a line; empty where all are.
    """

    records: Records
    num_rows: int
    fill: Callable[[Row, dict[str, Any]], None]
    columns: list[str] | None = None
    left_alone: str = ""
    _rest: Iterator[Record] = iter(())
    _next: int = -1

    def read(self, start: int, stop: int) -> list[Row]:
        """
        Rows from one number up to, and without, another; rows that follow the last ones are read on.

        Args:
            start, stop (`int`): numbers of rows.

        Returns:
            `list[dict]`: each with `id` (`str`), `text` (`str` or `None`), `image` and `video` (`str`, `bytes` or
            `None`), `path` (`str` or `None`: as people know the image or, where there is none, the video), `page_text`
            (`str` or `None`: the words that a PDF has of a page; they are kept, and not embedded), and `error`: why it
            cannot be read, or `None`.

        Raises:
            ValueError: if the source has changed, and has fewer rows.
        """
        if start != self._next:
            self._rest = self._rows_from(start)
        rows = [self._row(number, record) for number, record in zip(range(start, stop), self._rest, strict=False)]
        self._next = stop
        if len(rows) < stop - start:
            raise ValueError(f"{self.records.name} has changed while it was read: it ends at row {start + len(rows)}.")
        return rows

    def _rows_from(self, start: int) -> Iterator[Record]:
        if self.records.rows_from is not None:
            return self.records.rows_from(start, self.columns)
        if 0 <= self._next < start:  # reading on is less than reading again
            return islice(self._rest, start - self._next, None)
        return islice(self.records.rows(self.columns), start, None)

    def _row(self, number: int, record: Record) -> Row:
        nothing = {"text": None, "image": None, "video": None, "path": None, "page_text": None}
        row = {"id": str(number), **nothing, "error": None}
        try:
            if isinstance(record, ValueError):
                raise record
            self.fill(row, record)
        except ValueError as error:
            row |= {**nothing, "error": f"Row {number} of {self.records.name}: {error}"}
        return row


def open_corpus(
    path: Path,
    columns: Columns,
    image_root: Path | None = None,
    text_format: TextFormat | None = None,
    videos: bool = True,
) -> Corpus:
    """
    Opens a source by its kind, which is that of its name.

    Args:
        path (`Path`): a folder, which is searched for images, PDFs and videos at any depth, one of
            `Dataset.save_to_disk`, a PDF, of which every page is an image, or a file that ends with .txt, .csv, .tsv,
            .jsonl, .json or .parquet; or WebDataset shards: a .tar file (.tar.gz, .tgz), or a pattern such as
            `shards/*.tar`.
        columns (`Columns`): columns of a table.
        image_root (`Path`, *optional*): folder that relative paths of a table begin at, by default that of the table.
            Paths may not leave it.
        text_format (`TextFormat`, *optional*): encoding and separator of a table of text; by default what is found.
        videos (`bool`, *optional*, defaults to `True`): whether the videos of a folder are rows, and not left alone;
            without, a sample of shards may have any number of them.

    Returns:
        `Corpus`

    Raises:
        ValueError: if it is of no such kind, has no rows, or has no column with texts, images or videos; and for a
            file in which nobody knows where rows begin. A row that is bad is known by its `error`.

    Example:

        >>> corpus = open_corpus(Path("photos"), Columns())
        >>> first = corpus.read(0, min(100, corpus.num_rows))
        >>> [row["error"] or row["path"] for row in first]
    """
    if shards := find_shards(path):
        refuse_format(text_format, "a WebDataset")
        return _open_samples(path, shards, columns, image_root, videos)
    if not os.path.lexists(path):
        raise ValueError(f"{printable(path)} is not there; it must be {KINDS}.")
    is_folder = os.path.isdir(path)
    if is_folder and saved_dataset(path) is None:
        refuse_format(text_format, "a folder of images")
        return _open_folder(path, videos)
    if not is_folder and path.suffix.lower() == PDF:
        refuse_format(text_format, "a PDF")
        return _open_pdf(path)
    if not is_folder and path.suffix.lower() not in TABLE_SUFFIXES:
        raise ValueError(f"{printable(path)} must be {KINDS}.")
    return _open_table(open_records(path, text_format), path, columns, root_of(path, image_root))


def _open_folder(folder: Path, take_videos: bool) -> Corpus:
    found, videos = with_pages(folder, walk_images(folder)), set()
    if take_videos:
        found, videos = with_videos(found)
    files, left_alone = found
    told = describe_left_alone(folder, left_alone)
    if not files:
        raise ValueError(f"{folder} has no images. {told or 'It is empty.'}")
    return _open_files(folder_records(folder, files), folder, videos, told)


def _open_pdf(file: Path) -> Corpus:
    try:
        pages = [FoundImage(os.path.basename(page)) for page in pdf_pages(file)]
    except ValueError as error:
        raise ValueError(f"{printable(file)}: {error}.") from error
    return _open_files(folder_records(file.parent, pages)._replace(name=file.name), file.parent)


def _open_files(records: Records, folder: Path, videos: Container[str] = (), left_alone: str = "") -> Corpus:
    root = os.path.abspath(folder)

    def fill(row: Row, record: dict[str, Any]) -> None:
        row["id"] = record["name"]
        if record["error"] is not None:
            raise ValueError(f"{record['name']}: {record['error']}")
        file = os.path.join(root, record["name"])
        kind = "video" if record["name"] in videos else "image"
        row |= {kind: file, "path": record["name"], "page_text": page_text(file)}

    return Corpus(records, records.num_rows, fill, left_alone=left_alone)


def _open_samples(
    path: Path, shards: list[str], columns: Columns, image_root: Path | None, take_videos: bool
) -> Corpus:
    """Samples are known by shard and key, and their text is that of the member .txt where nobody says otherwise."""
    records = sample_records(path, shards)
    there = records.columns or []
    if columns.text is None and "text" not in there:
        columns = columns._replace(text=next((name for name in TEXT_MEMBERS if name in there), None))
    corpus = _open_table(records, path, columns, root_of(shards[0], image_root))
    read = [("image", columns.image), *([("video", columns.video)] if take_videos else [])]

    def fill(row: Row, record: dict[str, Any]) -> None:
        for kind, named in read:
            if named is None and len(files := record.get(f"{kind}s") or []) > 1:
                expected = f"one; name one by its ending, as {kind} column"
                raise fault(f"{kind}s", f"{len(files)} in {record['id']}", expected)
        corpus.fill(row, record)

    return replace(corpus, fill=fill)


def _open_table(records: Records, path: Path, columns: Columns, root: ImageRoot) -> Corpus:
    no_text = "" if path.suffix.lower() == ".txt" else None  # a blank line is a text without words
    num_rows, there = _size_of(records)
    if not num_rows:
        raise ValueError(f"{path} has no rows.")
    chosen = _choose(there, columns)
    known = [name or kind for kind, name in chosen._asdict().items()]
    wanted = None
    if records.columns is not None:
        refuse_misnamed(records.columns, known)
        tell_unread(records.name, records.columns, known)
        wanted = [name for name in records.columns if name in known]

    def fill(row: Row, record: dict[str, Any]) -> None:
        refuse_misnamed(record, known)
        row["id"] = _id_of(record.get(chosen.id), str(chosen.id)) or row["id"]
        row["text"] = as_text(record.get(chosen.text), str(chosen.text)) or no_text
        given = record.get(chosen.image)
        image = as_stored(given, str(chosen.image), root)
        row |= {"image": as_image(image), "path": _path_of(given, image)}
        if chosen.video is not None:
            given = record.get(chosen.video)
            video = as_stored(given, chosen.video, root)
            row |= {"video": as_image(video), "path": row["path"] or _path_of(given, video)}

    return Corpus(records, num_rows, fill, wanted)


def _size_of(records: Records) -> tuple[int, list[str]]:
    """The number of rows of a table, and its columns: it is gone through once, where they are not known."""
    if records.columns is not None and records.num_rows is not None:
        return records.num_rows, records.columns
    num_rows, seen, first_bad = 0, set(), None
    for record in records.rows():
        num_rows += 1
        if isinstance(record, ValueError):
            first_bad = first_bad or record
        elif records.columns is None:
            seen.update(record)
    there = sorted(seen) if records.columns is None else records.columns
    if not there and first_bad is not None:
        raise ValueError(f"No row of {records.name} can be read: {first_bad}")
    return num_rows, there


def _choose(there: list[str], columns: Columns) -> Columns:
    """The names of the columns that are read."""
    for name in filter(None, columns):
        if name not in there:
            raise ValueError(f"There is no column {name!r}; there are {', '.join(there)}.")
    chosen = {kind: name or kind for kind, name in columns._asdict().items()}
    chosen = {kind: name if name in there else None for kind, name in chosen.items()}
    if not any(chosen[kind] for kind in ("text", "image", "video")):
        raise ValueError(f"No column is called text, image or video; name one of {', '.join(there)}.")
    return Columns(**chosen)


def _id_of(value: Any, column: str) -> str | None:
    if isinstance(value, bytes | list | dict):
        raise fault(column, describe(value), "a name")
    name = None if value is None else str(value)
    check_text(name, column)
    return name


def _path_of(given: Any, image: dict[str, Any] | None) -> str | None:
    """A path as the table has it, by which people know the image."""
    path = given.get("path") if isinstance(given, dict) else given
    if not isinstance(path, str) or (image is not None and image["bytes"] is not None and not isinstance(given, dict)):
        return None  # a data: URI is no path
    return printable(path) or None
