"""Rows from a folder of images, at any depth, and from what their names or the files beside them say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Features
from transformers.utils import logging

from trainers.data.build import Policy, build_dataset
from trainers.data.encodings import UTF_8
from trainers.data.faults import fault
from trainers.data.image_folders import describe_left_alone, folder_records, walk_images
from trainers.data.schema import DIALOGUE_FEATURES, IMAGE_FEATURES, PAIR_FEATURES, check_messages, check_text
from trainers.data.text_files import encoding_of, open_text


__all__ = ["CAPTIONS", "load_folder", "load_folder_dialogues", "load_folder_pairs"]

logger = logging.get_logger(__name__)

Captioner = Callable[[Path], str]


def load_folder(folder: str | Path, on_bad_row: Policy = "raise") -> Dataset:
    r"""
    Loads the images of a folder, in the order of their names, without opening them.

    Args:
        folder (`str` or `Path`):
            Searched at any depth, links included. An image is what is called like one or begins like one. Other files
            are left alone, and so is what systems leave behind: hidden files, `__MACOSX` and the like; the log names
            the first of them.
        on_bad_row (`str` or [`BadRows`], *optional*, defaults to `"raise"`):
            As in [`load_pairs`].

    Returns:
        `Dataset`: columns `images` (one image each) and `text` (`None`): rows of stage 1 that lack a dialogue.

    Raises:
        ValueError: if it is no folder, or has no images; and, as a bad row, for a folder that cannot be listed, a
            link that leads nowhere, an image that is no file, and a name that is not UTF-8.
    """
    return _load(folder, _image_row, IMAGE_FEATURES, on_bad_row)


def load_folder_pairs(folder: str | Path, captions: str, on_bad_row: Policy = "raise") -> Dataset:
    r"""
    Loads a folder of images as rows of stage 2: the image is the query, its caption the positive.

    Args:
        folder, on_bad_row:
            As in [`load_folder`].
        captions (`str`):
            `"names"`: the name of the file, `red_bicycle.jpg` being "red bicycle"; `"folders"`: that of the folder it
            is in, as for classes; `"sidecar"`: a .txt of the same name beside it.

    Returns:
        `Dataset`: columns `query`, `positive`, `negatives` (empty) and `source`, the name of the folder.

    Raises:
        ValueError: as in [`load_folder`], and for a bad row: a caption that is missing, empty or not UTF-8.
    """
    return _load(folder, _pair_row, PAIR_FEATURES, on_bad_row, captions=_known(captions))


def load_folder_dialogues(
    folder: str | Path, captions: str, question: str = "What does the image show?", on_bad_row: Policy = "raise"
) -> Dataset:
    r"""
    Loads a folder of images as rows of stage 1 with one turn each: the caption answers a question.

    Args:
        folder, captions, on_bad_row:
            As in [`load_folder_pairs`].
        question (`str`, *optional*):
            What is asked about every image.

    Returns:
        `Dataset`: columns `images`, `text` and `messages`.

    Raises:
        ValueError: as in [`load_folder_pairs`].
    """
    return _load(folder, _dialogue_row, DIALOGUE_FEATURES, on_bad_row, captions=_known(captions), question=question)


def _load(folder: str | Path, row: Callable, features: Features, on_bad_row: Policy, **settings: Any) -> Dataset:
    folder = Path(folder).absolute()
    images, left_alone = walk_images(folder) if folder.is_dir() else ([], [])
    records = folder_records(folder, images)
    if settings.get("captions") == "sidecar":
        beside = [(folder / record["name"]).with_suffix(".txt") for record in records.rows()]
        records = records._replace(identity=(records.identity, [_changed(file) for file in beside]))
        captions = set(beside)
        left_alone = [file for file in left_alone if folder / file.name not in captions]
    if left_alone:
        logger.warning(describe_left_alone(folder, left_alone))
    if not images:
        raise ValueError(f"{folder} must be a folder with images in it, at any depth.")
    return build_dataset(records, partial(row, folder=folder, **settings), features, on_bad_row)


def _changed(file: Path) -> int | None:
    """When a file was written, if it is there."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def _image_row(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {"images": [_image(record, folder)], "text": None}


def _pair_row(record: dict[str, Any], folder: Path, captions: str) -> dict[str, Any]:
    query = {"text": None, "image": _image(record, folder)}
    file = folder / record["name"]
    positive = {"text": _caption(file, captions), "image": None}
    return {"query": query, "positive": positive, "negatives": [], "source": file.parent.name}


def _dialogue_row(record: dict[str, Any], folder: Path, captions: str, question: str) -> dict[str, Any]:
    row = _image_row(record, folder)
    answer = _caption(folder / record["name"], captions)
    row["messages"] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    check_messages(row["messages"])
    return row


def _image(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An image as `datasets` stores it."""
    if record["error"] is not None:
        raise ValueError(f"{record['name']}: {record['error']}")
    file = folder / record["name"]
    try:
        size = file.stat().st_size
    except OSError as error:  # since the folder was listed
        raise fault("file", f"{file}, which is gone ({error.strerror})", "an image") from error
    if not size:
        raise fault("file", f"{file} with 0 bytes", "an image")
    return {"bytes": None, "path": str(file)}


def _known(captions: str) -> str:
    if captions not in CAPTIONS:
        raise ValueError(f"captions={captions!r} does not exist; choose one of {', '.join(CAPTIONS)}.")
    return captions


def _caption(file: Path, captions: str) -> str:
    caption = CAPTIONS[captions](file)
    check_text(caption, captions)
    if not caption.strip():
        raise fault(captions, f"no words for {file.name}", "a caption")
    return caption


def _from_name(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def _from_sidecar(file: Path) -> str:
    beside = file.with_suffix(".txt")
    if not beside.exists():
        raise fault("sidecar", f"no {beside.name} beside {file.name}", "a caption in it")
    try:
        encoding = encoding_of(beside).name
        if encoding != UTF_8:
            logger.warning_once(f"{file.parent}: captions in .txt that are not UTF-8 are read as {encoding}.")
        with open_text(beside, encoding=encoding) as text:
            return text.read().strip()
    except (OSError, ValueError) as error:
        raise fault("sidecar", f"{beside.name}, which cannot be read ({error})", "a caption in it") from error


CAPTIONS: dict[str, Captioner] = {
    "names": lambda file: _from_name(file.stem),
    "folders": lambda file: _from_name(file.parent.name),
    "sidecar": _from_sidecar,
}
