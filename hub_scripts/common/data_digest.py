"""A digest of what a model was trained on: of the same content the same, wherever it lies, whatever its name."""

import hashlib
from glob import glob
from pathlib import Path


__all__ = ["data_digest", "digest_of_files"]

TABLES = (".arrow", ".csv", ".json", ".jsonl", ".parquet", ".tar", ".tsv")
BLOCK = 2**20
MOST_READ = 2**30  # bytes; of more than that, blocks are read that lie evenly from the beginning to the end


def data_digest(source: str, most_read: int = MOST_READ) -> str | None:
    """
    Digest of the file, of the tables in the folder, or of the files that match the pattern.

    Of up to a gigabyte, all is read (`b2sum -l 128` gives the same for a single file). Of more, which would take
    minutes to hours, it is made of the sizes and of evenly spread blocks, and says so.

    Args:
        source (`str`): path or pattern.
        most_read (`int`, *optional*, defaults to a gigabyte): bytes that are read at most, but for a block a file.

    Returns:
        `str`, `"blake2b-128:…"` or `"blake2b-128 of samples:…"`; `None` where there is no such file, as for `emoji`.
    """
    files = _files(source)
    return digest_of_files(files, most_read) if files else None


def digest_of_files(files: list[Path], most_read: int = MOST_READ) -> str:
    """
    Digest of files, in their order, whatever their names; as of [`data_digest`].

    Args:
        files (`list[Path]`): one or more.
        most_read (`int`, *optional*, defaults to a gigabyte): bytes that are read at most, but for a block a file.
    """
    sizes = [file.stat().st_size for file in files]
    is_whole = sum(sizes) <= most_read
    digest = hashlib.blake2b(digest_size=16)
    for file, size in zip(files, sizes, strict=True):
        if len(files) > 1 or not is_whole:
            digest.update(f"{size}\0".encode())
        blocks = max(1, most_read // BLOCK // len(files))
        starts = range(0, size, BLOCK)
        if not is_whole and blocks < len(starts):
            starts = [(size - BLOCK) * number // max(1, blocks - 1) for number in range(blocks)]
        with file.open("rb") as stream:
            for start in starts:
                stream.seek(start)
                digest.update(stream.read(BLOCK))
    return f"blake2b-128{'' if is_whole else ' of samples'}:{digest.hexdigest()}"


def _files(source: str) -> list[Path]:
    """In the order of their names. The images of a folder are not read: tables name them."""
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [*path.glob("*"), *path.glob("*/*")]
        return sorted(file for file in found if file.suffix.lower() in TABLES and file.is_file())
    return sorted(file for file in map(Path, glob(source)) if file.is_file())
