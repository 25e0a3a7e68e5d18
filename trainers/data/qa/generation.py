"""Dialogues about many images, from the images alone: rows of stage 1, as JSON lines in the order of the input.

Many conversations go on at one time; their rows are written in order, and what was written is never made again. An
image that gets no dialogue is written beside them, with the reason, and can be tried again.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from trainers.data.qa.chat import Chat, ImageFile, Rejected, read_image
from trainers.data.qa.dialogue import QASettings, Writing
from trainers.data.qa.output import QAOutput, WrittenRow
from trainers.files import whole_file


__all__ = ["Source", "retry_failed", "write_dialogues"]

AHEAD = 4  # rows that may be finished before one that is not, for every conversation at one time


class Source(NamedTuple):
    """
    An image to be talked about.

    Args:
        id (`str`): name of its row.
        image (`str`, `bytes` or `None`): path or content of its file.
        error (`str`, *optional*): why the row cannot be read.
    """

    id: str
    image: str | bytes | None
    error: str | None = None


async def write_dialogues(
    sources: Iterable[Source], chat: Chat, output: QAOutput, settings: QASettings, total: int | None = None
) -> None:
    r"""
    Writes a row for every image that has none yet, with a progress bar.

    Args:
        sources (`Iterable[Source]`):
            All images, always in the same order; those of an earlier run are compared by name and left out.
        chat ([`Chat`]): who answers.
        output ([`QAOutput`]): where the rows go; it has been entered.
        settings ([`QASettings`]): what is to be written.
        total (`int`, *optional*): how many images there are, for the progress bar.

    Raises:
        ValueError: if the images are not those of the earlier run.
    """
    await _go_on(((source, None) for source in sources), chat, output, settings, total)


async def retry_failed(
    sources: Iterable[Source], chat: Chat, output: QAOutput, settings: QASettings, total: int | None = None
) -> None:
    r"""
    Tries failed images again. Good rows are kept, and the new ones stand where they belong.

    Args:
        sources, chat, output, settings, total: as in [`write_dialogues`], which must have been through all of them.

    Raises:
        ValueError: if the images are not those of the earlier run.
    """

    def with_good_rows() -> Iterator[tuple[Source, WrittenRow | None]]:
        for source, written in zip(sources, output.written(), strict=True):
            _check_same(source, written, output)
            yield source, written if written.good else None

    with output.retry() as new:
        await _go_on(with_good_rows(), chat, new, settings, total)
    output.take_retry()


async def _go_on(
    sources: Iterator[tuple[Source, WrittenRow | None]],
    chat: Chat,
    output: QAOutput,
    settings: QASettings,
    total: int | None,
) -> None:
    """
    Goes on after the rows that are there already. As many conversations go on as there may be, and rows are written in
    order as soon as they can be; a row that comes with its source is written as it is.
    """
    done = 0
    for written in output.written():
        source, _ = next(sources, (None, None))
        _check_same(source, written, output)
        done += 1
    free = asyncio.Semaphore(chat.concurrency)
    bar = tqdm(total=total, initial=done, desc="Dialogues", unit="image", smoothing=0.05)

    async def make_row(source: Source, kept: WrittenRow | None) -> WrittenRow:
        if kept is None:
            async with free:
                kept = await _write_one(source, chat, output, settings)
        bar.update()
        return kept

    running: deque[asyncio.Task] = deque()
    try:
        for source_and_kept in sources:
            running.append(asyncio.create_task(make_row(*source_and_kept)))
            if len(running) >= AHEAD * chat.concurrency:
                output.write(await running[0])
                running.popleft()
        while running:
            output.write(await running[0])
            running.popleft()
    finally:  # after an error some are left
        bar.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _check_same(source: Source | None, written: WrittenRow, output: QAOutput) -> None:
    found = None if source is None else source.id
    if found != written.row["id"]:
        raise ValueError(
            f"{output.out} was begun with other images: where {written.row['id']!r} was, there is now {found!r}. "
            "Give the same ones (more of them may follow), or another file."
        )


async def _write_one(source: Source, chat: Chat, output: QAOutput, settings: QASettings) -> WrittenRow:
    stats: dict[str, Any] = {"id": source.id, "image": None}
    writing = None
    try:
        _check_names(source, output.home)
        image = await asyncio.to_thread(read_image, source.image, settings.max_image_pixels)
        stats["image"] = image.digest
        writing = Writing(chat, image, settings, source.id)
        messages = (await writing.write()).messages
    except Rejected as rejected:
        failure = {"id": source.id, "reason": rejected.reason, "detail": rejected.detail}
        return WrittenRow(False, failure, stats | (writing.dialogue.stats() if writing else {}))
    row = {"id": source.id, "images": [_path_of(source, image, output.home)], "messages": messages}
    return WrittenRow(True, row, stats | writing.dialogue.stats())


def _check_names(source: Source, home: Path) -> None:
    """A row that was not read, or whose name or path cannot stand in a file of UTF-8, has no dialogue."""
    if source.error is not None:
        raise Rejected("row cannot be read", source.error)
    path = _shown_path(source.image, home) if isinstance(source.image, str) else ""
    for name in (source.id, path):
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            why = f"{name!r} cannot stand in a row; give the file another one"
            raise Rejected("name is not UTF-8", why) from error


def _shown_path(image: str, home: Path) -> str:
    """Where a file is, from the folder of the rows if it lies there."""
    path, folder = Path(os.path.abspath(image)), Path(os.path.abspath(home.parent))
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _path_of(source: Source, image: ImageFile, home: Path) -> str:
    """Where the file of an image is; a missing one is written."""
    if isinstance(source.image, str):
        return _shown_path(source.image, home)
    path = home.with_name(f"{home.name}.images") / f"{image.digest}.{image.mime.removeprefix('image/')}"
    if not path.exists():
        with whole_file(path) as file:
            file.write_bytes(image.data)
    return str(path.relative_to(home.parent))
