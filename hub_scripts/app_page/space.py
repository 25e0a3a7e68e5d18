"""A folder that is a Hugging Face Space with the page: the index, small copies of its images, three small files."""

import os
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from hub_scripts.app_page.pictures import Pictures
from hub_scripts.common.folders import new_folder
from hub_scripts.embedding.store import index_metadata, read_rows
from hub_scripts.hub.public_names import is_hub_id
from modeling_coma.inputs_coma import MAX_IMAGE_PIXELS


__all__ = ["write_space"]

LIMIT = 200 * 2**20  # bytes of an index with its images
SIDE = 512  # pixels of a copy

README = """---
title: "{title}"
sdk: gradio
sdk_version: {gradio}
app_file: app.py
models:
- {model}
---

A page of [CoMa](https://arxiv.org/abs/2511.08480), over an index that `coma embed` made with [{model}](https://huggingface.co/{model}).
"""
APP = """import threading

from hub_scripts import open_app


with open_app("{index}", model="{model}", image_root="images", host="0.0.0.0", port=7860):
    threading.Event().wait()
"""


def write_space(index: Path, folder: Path, model: str | None, image_root: Path, limit: int = LIMIT) -> int:
    """
    Writes the folder, whole or not at all.

    Args:
        index (`Path`): made by `coma embed`.
        folder (`Path`): a folder that is empty or not there.
        model (`str`, *optional*): name on the Hub of the model that made it; by default what it was called by then.
        image_root (`Path`): the folder below which its images lie.
        limit (`int`, *optional*): most bytes of the index and the copies of its images.

    Returns:
        `int`: the bytes of both.

    Raises:
        ValueError: for a model that is no name on the Hub, for an image that is not below the root, has an absolute
            path or cannot be decoded, and where the limit is passed.
    """
    metadata, name = index_metadata(index), model
    name = metadata["model"] if name is None else name
    if not is_hub_id(name):
        raise ValueError(
            f"A Space loads its model from the Hub, where {name!r} is no name: `coma push` it, then give --model "
            "ORG/NAME."
        )
    files = [index] if index.is_file() else sorted(index.glob("*.parquet"))
    pictures, size = Pictures(image_root, MAX_IMAGE_PIXELS), sum(file.stat().st_size for file in files)
    with new_folder(folder) as space:
        for path in _paths(index):
            if os.path.isabs(path):
                raise ValueError(f"{path!r} is an absolute path, which leads nowhere in a Space: embed relative ones.")
            size += _copy(pictures, path, space / "images" / os.path.normpath(path))
            if size > limit:
                raise ValueError(f"The index and its images are over {limit} bytes, as many as a Space is given here.")
        place = "index.parquet" if index.is_file() else "index"
        if index.is_dir():
            (space / place).mkdir()
        for file in files:
            shutil.copy(file, space / place)
        values = {"index": place, "model": name, "title": name.partition("/")[2], "gradio": version("gradio")}
        for file, text in {"README.md": README, "app.py": APP, "requirements.txt": "coma-embedding[app]\n"}.items():
            (space / file).write_text(text.format(**values), encoding="utf-8")
    return size


def _paths(index: Path) -> Iterator[str]:
    """The paths of its images, each once in a piece of it."""
    for rows in read_rows(index, ["image"]):
        yield from filter(None, rows.table["image"].unique().to_pylist())


def _copy(pictures: Pictures, path: str, target: Path) -> int:
    """Copies an image small, without what else its file says; its name stays, whatever it ends with."""
    if target.exists():
        return 0
    image = pictures.open(path)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.info = {}
    target.parent.mkdir(parents=True, exist_ok=True)
    image.save(target, "JPEG", quality=90)
    return target.stat().st_size
