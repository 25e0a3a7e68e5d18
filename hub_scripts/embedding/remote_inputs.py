"""Where a corpus lies: on disk, or in object storage, which every machine fetches it from once, to its own disk.

So rows, their names and their faults are those of a file, whatever storage it comes from; reading here and there in a
file over the network would be another reader for each kind.
"""

import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from trainers.data.corpus import FILE_SUFFIXES
from trainers.files import whole_file


__all__ = ["Inputs", "find_inputs"]

# By which storages tell one content from another.
VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime", "updated", "created")


class Inputs(NamedTuple):
    """
    A corpus.

    Args:
        path (`Path`): where it is, or where it is put on every machine.
        url (`str`, *optional*): where it is fetched from, `s3://bucket/rows.parquet` for instance.
    """

    path: Path
    url: str | None = None

    @property
    def name(self) -> str:
        """What it is known by."""
        return self.url or str(self.path)

    def fetch(self) -> Path:
        """
        Fetches a file from object storage, if this machine does not have it yet.

        Returns:
            `Path`: where it is.

        Raises:
            ValueError: if it cannot be read.
        """
        if self.url is None:
            return self.path
        import fsspec
        from filelock import FileLock

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):  # other processes of this machine need it, too
            if not self.path.exists():
                with whole_file(self.path) as temporary:
                    try:
                        files, name = fsspec.url_to_fs(self.url)
                        files.get_file(name, str(temporary))
                    except OSError as error:
                        raise ValueError(f"{self.url} cannot be fetched: {_why(error)}.") from error
        return self.path


def find_inputs(data: str | Path) -> Inputs:
    """
    What a corpus is read from.

    Args:
        data (`str` or `Path`): a path, or the address of a table in a storage that fsspec knows.

    Returns:
        [`Inputs`]

    Raises:
        ValueError: for an address at which no file is, or of a kind that is not read from there.
        ImportError: if what reads this storage is not installed, with its name.
    """
    if "://" not in str(data):
        return Inputs(Path(os.path.abspath(data)))
    import fsspec

    url = str(data)
    if url.startswith("file://"):
        return Inputs(Path(fsspec.url_to_fs(url)[1]))
    name = url.rpartition("/")[2]
    if not name.lower().endswith(FILE_SUFFIXES):
        kinds = ", ".join(FILE_SUFFIXES)
        raise ValueError(
            f"{url}: from object storage only files are read that end with {kinds}. Pack a folder of images as a "
            "WebDataset (.tar), or mount it."
        )
    try:
        files, inside = fsspec.url_to_fs(url)
        version = _version(files, inside)
    except ImportError:  # it says what to install
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"{url} cannot be read: {_why(error)}.") from error
    known_by = hashlib.blake2b(f"{url} {version}".encode(), digest_size=12).hexdigest()
    folder = Path(tempfile.gettempdir(), f"coma-inputs-{os.getuid() if hasattr(os, 'getuid') else 0}", known_by)
    return Inputs(folder / name, url)


def _version(files: Any, inside: str) -> str:
    """Differs when the content does: the tag or the time of a file. Where there is neither, no copy is used again."""
    found = files.info(inside)
    if found["type"] != "file":
        raise ValueError("it is no file")
    known = [found[name] for name in VERSIONS if found.get(name)] or [time.time_ns()]
    return repr([found.get("size"), *known])


def _why(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
