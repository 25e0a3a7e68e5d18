"""One process at a time writes a place; the next is told in one line, before it has begun."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


__all__ = ["one_writer"]


@contextmanager
def one_writer(place: str | Path) -> Iterator[None]:
    """
    Holds a file or folder that is being written. The lock is the file `.NAME.lock` beside it, and goes with the
    process that holds it, however that ends.

    Args:
        place (`str` or `Path`):
            What is going to be written; it need not be there.

    Raises:
        ValueError: if another process writes it.
    """
    place = Path(place).absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.acquire(timeout=0))
        except Timeout as error:
            raise ValueError(f"Another process is writing {place}: wait for it, or write elsewhere.") from error
        yield
