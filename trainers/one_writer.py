"""One process at a time writes a place; the next is told in one line, before it has begun."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


__all__ = ["one_writer"]


@contextmanager
def one_writer(place: str | Path) -> Iterator[None]:
    """
    Holds a file or folder that is being written. The lock is the file `.NAME.lock` beside it, which is removed at the
    end; that of a process that was killed stays, and holds nobody up.

    Args:
        place (`str` or `Path`):
            What is going to be written; it need not be there.

    Raises:
        ValueError: if another process writes it.
    """
    place = Path(place).absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    file = place.with_name(f".{place.name}.lock")
    lock = FileLock(file)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.acquire(timeout=0))
        except Timeout as error:
            raise ValueError(f"Another process is writing {place}: wait for it, or write elsewhere.") from error
        stack.callback(_remove, file)  # while it is held: whoever opened it before sees that it is gone, and retries
        yield


def _remove(file: Path) -> None:
    with suppress(OSError):  # where an open file cannot be removed, it stays
        file.unlink()
