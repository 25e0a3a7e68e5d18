"""How files are written: whole or not at all, by one process at a time, in folders that say what was begun in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


__all__ = [
    "LOSS_PICTURE",
    "begin_folder",
    "differences",
    "one_writer",
    "read_record",
    "whole_file",
    "whole_folder",
    "write_record",
]

LOSS_PICTURE = "loss.png"  # the curves of a training, beside the weights that came of it
RECORD = "begun_with.json"
LONGEST_VALUE = 80  # characters of a value in a message


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    r"""
    A file that is there whole or not at all.

    Args:
        path (`str` or `Path`): the file; its folder is made where there is none.

    Yields:
        `Path`: a file beside it to write to, which takes its place at the end, and is gone after an error.

    Raises:
        OSError: if it cannot be written, because the disk is full for instance; it names `path` and the way out.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        what = error.strerror or error
        raise OSError(f"{path} cannot be written: {what}. Mend that and go on by the same command.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    r"""
    A folder that is there whole or not at all, as [`whole_file`] is a file.

    Args:
        path (`str` or `Path`): the folder, which is not there yet.

    Yields:
        `Path`: an empty folder beside it, which takes its place at the end, and is gone after an error.

    Raises:
        OSError: if it cannot be written.
    """
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, Path(path).with_name(f".{Path(path).name}.writing"), ignore_errors=True)
        temporary = stack.enter_context(whole_file(path))
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        temporary.mkdir()
        yield temporary


def write_record(path: str | Path, content: Any) -> None:
    """Writes what is JSON, whole or not at all; raises as [`whole_file`]."""
    with whole_file(path) as file:
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        # Half a character, as names of files may have, is written as the escape that JSON has for it.
        file.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_record(path: str | Path, what: str) -> dict[str, Any]:
    """
    Reads a JSON object that [`write_record`] has written.

    Args:
        path (`str` or `Path`): the file, which is there.
        what (`str`): what it should be, for the message.

    Raises:
        ValueError: for anything else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is there already and is no {what}, or a damaged one ({error}): remove it, or write elsewhere."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is there already and is no {what}: remove it, or write elsewhere.")
    return found


def begin_folder(
    folder: str | Path,
    made_of: Mapping[str, Any],
    record: str = RECORD,
    compare: Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]] | None = None,
) -> None:
    """
    Begins a folder for what is made on the way, or goes on with it: a record in it says what it was begun with.

    Args:
        folder (`str` or `Path`): the folder.
        made_of (`Mapping[str, Any]`): what its contents depend on, as JSON.
        record (`str`, *optional*, defaults to `"begun_with.json"`): name of the record in the folder.
        compare (`Callable`, *optional*, defaults to [`differences`]): names what differs and matters between the
            record that is there and `made_of`.

    Raises:
        ValueError: for a folder with other files, or that was begun with something else, which is named.
    """
    folder, begun_with = Path(folder), json.loads(json.dumps(made_of))
    file = folder / record
    if not file.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} is there already, and not from this command: move it, or write elsewhere.")
        write_record(file, begun_with)
        return
    if other := (compare or differences)(read_record(file, "record of this command"), begun_with):
        raise ValueError(
            f"{folder} was begun with another {'; '.join(other)}: remove it to begin anew, or write elsewhere."
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str] | None = None) -> list[str]:
    """
    What differs between two records.

    Args:
        before, now (`Mapping[str, Any]`): the records.
        names (`Iterable[str]`, *optional*): what is compared; by default everything that one of them has.

    Returns:
        `list[str]`: names with both values, `"learning_rate (0.01, now 0.02)"`; of long ones both ends.
    """
    compared = before.keys() | now.keys() if names is None else names
    differing = sorted(name for name in compared if before.get(name) != now.get(name))
    return [f"{name} ({_shortened(before.get(name))}, now {_shortened(now.get(name))})" for name in differing]


def _shortened(value: Any) -> str:
    """A value as Python writes it; of a long one both ends, as paths often differ in the last."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE // 2]} … {text[-LONGEST_VALUE // 2 :]}"


@contextmanager
def one_writer(place: str | Path) -> Iterator[None]:
    """
    Holds a file or folder that is being written. The lock is the file `.NAME.lock` beside it, which is removed at the
    end; that of a process that was killed stays, and holds nobody up.

    Args:
        place (`str` or `Path`): what is going to be written; it need not be there.

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
