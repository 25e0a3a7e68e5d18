"""Folders of models: made whole or not at all, and readable for every library that loads them."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hub_scripts.hub.card import write_model_card
from hub_scripts.hub.training_record import TRAINING_FILE
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.checkpoints import whole_or_nothing
from trainers.files import LOSS_PICTURE


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
        OSError: if it cannot be written, because the disk is full for instance.
    """
    path = path.resolve()  # of a link to an empty folder, that folder is replaced
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path} is there already, and nothing is overwritten: remove it or give another folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        folder = Path(temporary, path.name)
        folder.mkdir()
        with whole_or_nothing(folder, path):
            yield folder
        folder.replace(path)


def save_model(
    model: ComaForEmbedding,
    processor: ComaProcessor,
    folder: Path,
    trained_in: Path | None = None,
    **card: Any,
) -> None:
    """
    Saves weights, code, tokenizer, processor (with the files of sentence-transformers) and a model card.

    Args:
        model ([`ComaForEmbedding`]): the model.
        processor ([`ComaProcessor`]): its processor.
        folder (`Path`): where to.
        trained_in (`Path`, *optional*): folder that training has left; its record and curves go along, and
            into the card.
        card: passed to [`write_model_card`].
    """
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for name in (TRAINING_FILE, LOSS_PICTURE):
        if trained_in is not None and (trained_in / name).exists():
            shutil.copy(trained_in / name, folder)
    write_model_card(folder, model, processor, **card)
