"""Rows of stage 1 from what people have: dialogues in JSON lines or Parquet, or a data set saved by `datasets`."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError


__all__ = ["load_dialogues"]

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def load_dialogues(path: str, image_root: str | None = None) -> Dataset:
    """
    Loads rows of stage 1.

    Args:
        path (`str`):
            A .jsonl or .parquet file, or a folder made by `Dataset.save_to_disk`, with the columns `messages`, and
            `images` (lists of paths, or pictures as `datasets` stores them), `text` or both.
        image_root (`str`, *optional*):
            Folder at which relative paths of pictures begin; by default that of the file.

    Returns:
        `Dataset`: the same columns, paths being absolute.

    Raises:
        ValueError: for what is no such file, and for columns that are not there.
    """
    file = Path(path)
    if file.is_dir():
        dataset = load_from_disk(path)
    elif file.exists() and file.suffix in FORMATS:
        try:
            dataset = load_dataset(FORMATS[file.suffix], data_files=path, split="train")
        except DatasetGenerationError as error:
            raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error
    else:
        raise ValueError(f"{path} must be a folder of `save_to_disk`, or a file that ends with {', '.join(FORMATS)}.")
    columns = set(getattr(dataset, "column_names", ()))
    if "messages" not in columns or not columns & {"images", "text"}:
        raise ValueError(f"{path} has the columns {sorted(columns)}; needed are messages, and images or text or both.")
    if "images" not in columns or getattr(dataset.features["images"], "feature", None) != Value("string"):
        return dataset
    root = file.absolute().parent if image_root is None else Path(image_root).absolute()
    return dataset.map(_absolute, batched=True, fn_kwargs={"root": str(root)}, desc="Paths of pictures")


def _absolute(batch: dict[str, list], root: str) -> dict[str, list]:
    return {"images": [[str(Path(root, path)) for path in paths or []] for paths in batch["images"]]}
