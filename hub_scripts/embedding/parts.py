"""The folder OUT.parts of `coma embed`: what is there of OUT, and a record of what it was begun with.

The record decides whose the folder is. The same command goes on in it; any other is refused, and a folder without a
record is nobody's to write to or to remove.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from hub_scripts.hub.golden import ANY_PRECISION, same_embeddings
from trainers.files import write_record


__all__ = ["PartsFolder"]

RECORD = "begun.json"
# A name, what may be newer, and numbers that no two machines round alike.
NOT_COMPARED = ("model", "versions", "probe")


class PartsFolder(NamedTuple):
    """
    The files beside an index while it is made.

    Args:
        out (`Path`): the index.
        folder (`Path`): its parts.
        skipped (`Path`): the list of rows without an embedding.
    """

    out: Path
    folder: Path
    skipped: Path

    @classmethod
    def of(cls, out: Path) -> "PartsFolder":
        """The files that belong to `OUT`."""
        return cls(out, out.with_name(f"{out.name}.parts"), out.with_name(f"{out.name}.skipped.jsonl"))

    def check_free(self) -> None:
        """
        Looks whether an index can be made here, before a model is loaded.

        Raises:
            ValueError: if that would overwrite anything.
        """
        if os.path.lexists(self.out):
            raise ValueError(
                f"{self.out} is there already, and nothing is overwritten: remove it or give another file."
            )
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is no folder, and the parts are to be there: give another OUT.")
        begun = (self.folder / RECORD).exists()
        if self.folder.exists() and not begun and any(self.folder.iterdir()):
            raise ValueError(
                f"{self.folder} is there already, without a record of what it was begun with ({RECORD}): remove it or "
                "give another OUT."
            )
        if os.path.lexists(self.skipped) and not begun:
            raise ValueError(f"{self.skipped} is there already, of another run: remove it or give another OUT.")

    def begin(self, settings: dict[str, Any]) -> None:
        """
        Makes the folder, or goes on in it.

        Args:
            settings (`dict`): what the parts are made of, of the types of JSON, with a `probe`.

        Raises:
            ValueError: if it was begun with something else.
        """
        record, settings = self.folder / RECORD, json.loads(json.dumps(settings))
        self.folder.mkdir(parents=True, exist_ok=True)
        if not record.exists():
            write_record(record, settings)
            return
        differing = _differences(_read(record), settings)
        if differing:
            raise ValueError(
                f"{self.folder} was begun with something else: {', '.join(differing)}. Go on with that, remove the "
                "folder, or give another OUT."
            )

    def remove(self) -> None:
        """Removes what was written here, and the folder, if there is nothing else in it."""
        for file in [*self.folder.glob("*.parquet"), self.folder / RECORD]:
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def _read(record: Path) -> dict[str, Any]:
    try:
        begun = json.loads(record.read_text(encoding="utf-8"))
        if not isinstance(begun, dict) or not isinstance(begun.get("probe"), list):
            raise ValueError("it is no object with a probe")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{record} is damaged ({error}): remove its folder, or give another OUT.") from error
    return begun


def _differences(begun: dict[str, Any], now: dict[str, Any]) -> list[str]:
    names = sorted((begun.keys() | now.keys()) - set(NOT_COMPARED))
    differing = [
        f"{name} was {begun.get(name)!r} and is now {now.get(name)!r}"
        for name in names
        if begun.get(name) != now.get(name)
    ]
    if not same_embeddings(now["probe"], begun["probe"], ANY_PRECISION):
        differing.append(f"the model was {begun.get('model')!r} and is now another, {now['model']!r}")
    return differing
