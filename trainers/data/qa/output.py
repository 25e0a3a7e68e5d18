"""The files that dialogues are written to, a row at a time, so that a process may be killed at any moment.

    OUT                   good rows, in the order of the input
    OUT.failed.jsonl      images without a dialogue, in the same order, and why
    OUT.stats.jsonl       a line for every image, good or failed: what it has cost and what was thrown away
    OUT.settings.json     what all of them were made with
    OUT.retry/            the same files once more, while failed rows are tried again

A line of statistics is written before its row. So there is never a row without its line, and a line without its row,
or half a line, is what was being written when the process ended: it is removed and made again.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from trainers.files import one_writer, read_record, write_record


__all__ = ["QAFiles", "QAOutput", "WrittenRow", "read_lines"]


class WrittenRow(NamedTuple):
    """What became of an image: whether it has a dialogue, the row with it or the failure, and its statistics."""

    good: bool
    row: dict[str, Any]
    stats: dict[str, Any]


class QAFiles(NamedTuple):
    """The files of an output."""

    rows: Path
    failed: Path
    stats: Path

    @classmethod
    def of(cls, out: Path) -> QAFiles:
        """The files that belong to `OUT`."""
        return cls(out, *(out.with_name(f"{out.name}.{name}.jsonl") for name in ("failed", "stats")))


class QAOutput:
    """
    An output that is being written, by this process alone; a context.

    Args:
        out (`Path`): where good rows go.
        settings (`dict`): what they are made with, of the types of JSON.
        home (`Path`, *optional*): where the rows will be in the end, if not there.
    """

    def __init__(self, out: Path, settings: dict[str, Any], home: Path | None = None) -> None:
        self.out, self.files, self.home = out, QAFiles.of(out), home or out
        self.settings = json.loads(json.dumps(settings))
        self._open: list[IO[bytes]] = []

    def __enter__(self) -> QAOutput:
        with ExitStack() as stack:
            stack.enter_context(one_writer(self.out))
            self._check_settings()
            self._finish_retry()
            repair(self.files)
            self._open = [file.open("ab") for file in self.files]
            stack.callback(self._close)
            self._leaving = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._leaving.close()

    def _close(self) -> None:
        for file in self._open:
            with suppress(OSError):  # half a line that a full disk left: it has been said, and is repaired
                file.close()

    def written(self) -> Iterator[WrittenRow]:
        """What has been written so far, in order."""
        return read_rows(self.files)

    def write(self, written: WrittenRow) -> None:
        """Appends the next row."""
        rows, failed, stats = self._open
        for file, line in (
            (stats, written.stats | {"good": written.good}),
            (rows if written.good else failed, written.row),
        ):
            try:
                file.write(_encoded(line) + b"\n")
                file.flush()
            except OSError as error:
                what = f"{file.name} cannot be written: {error.strerror}"
                raise OSError(f"{what}. Mend that and go on by the same command.") from error

    def retry(self) -> QAOutput:
        """An output in a folder of its own, which takes the place of this one by [`~QAOutput.take_retry`]."""
        return QAOutput(self._retry_folder / self.out.name, self.settings, home=self.out)

    def take_retry(self) -> None:
        """Puts the files of a `retry` that is finished in the place of these."""
        self._close()
        (self._retry_folder / "complete").touch()
        self._finish_retry()
        self._open = [file.open("ab") for file in self.files]

    @property
    def _retry_folder(self) -> Path:
        return self.out.with_name(f"{self.out.name}.retry")

    def _finish_retry(self) -> None:
        """Moves the files of a retry that is complete; after an interruption, those that are left."""
        if (self._retry_folder / "complete").exists():
            for file in self.files:
                moved = self._retry_folder / file.name
                if moved.exists():
                    moved.replace(file)
            (self._retry_folder / "complete").unlink()
            shutil.rmtree(self._retry_folder)

    def _check_settings(self) -> None:
        path = self.out.with_name(f"{self.out.name}.settings.json")
        if not path.exists():
            for file in self.files:
                if os.path.lexists(file):
                    raise ValueError(f"{file} is there already and was not written by this: give another file.")
            write_record(path, self.settings)
        try:
            before = read_record(path, "record of this")
        except ValueError as error:
            raise ValueError(f"{path} is damaged: give another file.") from error
        names = sorted(name for name in before.keys() | self.settings if before.get(name) != self.settings.get(name))
        if names:
            changed = ", ".join(f"{n} was {before.get(n)!r} and is now {self.settings.get(n)!r}" for n in names)
            raise ValueError(f"{self.out} was begun with other settings: {changed}. Keep them, or give another file.")


def _encoded(line: dict[str, Any]) -> bytes:
    """JSON as a person reads it; with escapes where it is no UTF-8, such as the name of a file."""
    try:
        return json.dumps(line, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(line).encode()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """
    Reads the objects of a file, a line each.

    Raises:
        ValueError: for a line that is no object, with its number.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"Line {number} of {path} is not JSON: {error}") from error
            if not isinstance(found, dict):
                raise ValueError(f"Line {number} of {path} is not an object.")
            yield found


def read_rows(files: QAFiles) -> Iterator[WrittenRow]:
    """
    Reads what was written, in order, row by row.

    Raises:
        ValueError: if the files do not belong together.
    """
    good, failed = read_lines(files.rows), read_lines(files.failed)
    for number, stats in enumerate(read_lines(files.stats)):
        is_good = stats.get("good")
        if not isinstance(is_good, bool) or "id" not in stats:
            raise ValueError(f"Line {number + 1} of {files.stats} does not say what became of which image.")
        row = next(good if is_good else failed, None)
        if row is None or row.get("id") != stats["id"]:
            raise ValueError(f"Line {number + 1} of {files.stats} is about {stats['id']!r}, but its row is {row}.")
        yield WrittenRow(is_good, row, stats)
    if next(good, None) is not None or next(failed, None) is not None:
        raise ValueError(f"{files.rows} or {files.failed} has more rows than {files.stats} has lines.")


def repair(files: QAFiles) -> None:
    """Removes half a line at the end of each file, and the line of statistics whose row was not written any more."""
    for file in files:
        _keep_whole_lines(file)
    lines = sum(1 for _ in read_lines(files.stats))
    rows = sum(1 for file in (files.rows, files.failed) for _ in read_lines(file))
    if lines == rows + 1:
        _keep_whole_lines(files.stats, most=rows)


def _keep_whole_lines(path: Path, most: float = math.inf) -> None:
    """Cuts a file, if it is there, after its last whole line, or after so many of them."""
    if not path.exists():
        return
    length = 0
    with path.open("r+b") as file:
        for number, line in enumerate(file):
            if number == most or not line.endswith(b"\n"):
                break
            length += len(line)
        if length < path.stat().st_size:
            file.truncate(length)
