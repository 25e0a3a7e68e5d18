"""Files that are there whole or not at all, and folders of which a record says what was begun in them."""

import json
from pathlib import Path
from typing import Any


__all__ = ["begin_parts", "read_record", "write_whole"]

RECORD = "begun_with.json"


def write_whole(file: Path, text: str) -> None:
    """
    Writes a file at once.

    Raises:
        ValueError: if it cannot be written, a full disk for instance; nothing of it stays.
    """
    temporary = file.with_name(f".{file.name}.writing")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"{file} cannot be written: {error}") from error


def read_record(file: Path, what: str) -> dict[str, Any]:
    """
    Reads a JSON object that we have written.

    Args:
        file (`Path`): the file, which is there.
        what (`str`): what it should be, for the message.

    Raises:
        ValueError: for anything else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is there already and is no {what}, or a damaged one ({error}): remove it, or write elsewhere."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} is there already and is no {what}: remove it, or write elsewhere.")
    return found


def begin_parts(folder: Path, record: dict[str, Any]) -> None:
    """
    Begins a folder for what is made on the way, or goes on with it.

    Args:
        folder (`Path`): the folder; it is emptied of what is out of date, and removed in the end.
        record (`dict`): what it is made of.

    Raises:
        ValueError: for a folder with other files, or that was begun with something else, which is named.
    """
    file, ours = folder / RECORD, json.loads(json.dumps(record))
    if not file.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} is there already, and not from this command: move it, or write elsewhere.")
        write_whole(file, json.dumps(ours, indent=1))
        return
    theirs = read_record(file, "record of this command")
    if other := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
        raise ValueError(
            f"{folder} was begun with another {', '.join(other)}: remove it to begin anew, or write elsewhere."
        )
