"""Folders of models: made whole or not at all, and readable for every library that loads them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hub_scripts.card import write_model_card
from hub_scripts.sentence_transformers_files import write_sentence_transformers_files
from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["new_folder", "save_model"]


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """
    Gives a folder to write to, which takes the place of `path` at the end, and vanishes if there is an error before.

    Args:
        path (`Path`): a folder that is empty or not there.

    Yields:
        `Path`: a temporary folder beside `path`.

    Raises:
        ValueError: if there is something at `path` already.
    """
    path = path.absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path} is there already, and nothing is overwritten: remove it or give another folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        folder = Path(temporary, path.name)
        folder.mkdir()
        yield folder
        folder.replace(path)


def save_model(
    model: ComaForEmbedding, processor: ComaProcessor, folder: Path, training: str = "", results: str = ""
) -> None:
    """Saves weights, code, tokenizer, processor, the files of sentence-transformers and a model card."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_sentence_transformers_files(folder)
    write_model_card(folder, model, processor, training=training, results=results)
