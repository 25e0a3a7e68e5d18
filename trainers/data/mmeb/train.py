"""Rows of stage 2 from MMEB-train (`TIGER-Lab/MMEB-train`), downloaded to a folder with its images unpacked.

A set is a folder with a file per split: `original` prompts, or `diverse_instruction`, worded in many ways. Columns are
`qry, qry_image_path, pos_text, pos_image_path`, in some sets `neg_text, neg_image_path`. An empty string is nothing.
The mark `<|image_1|>` stands for the image, which comes first in our inputs: the mark goes, the rest of the text
stays as it is, line breaks included.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from trainers.data.build import Policy, build_dataset
from trainers.data.column_names import refuse_misnamed
from trainers.data.faults import describe, fault
from trainers.data.images import ImageRoot, as_stored, root_of
from trainers.data.mmeb.prompts import IMAGE_MARK
from trainers.data.mmeb.sets import SETS
from trainers.data.pairs import item_of
from trainers.data.rows import BadRows
from trainers.data.schema import PAIR_FEATURES
from trainers.data.tables import open_records


__all__ = ["SPLITS", "TRAIN_SETS", "load_mmeb_train"]

SPLITS = ("original", "diverse_instruction")
# The twenty sets of the paper: those of the evaluation that are in the training distribution, one spelt otherwise.
TRAIN_SETS = tuple(
    one.name.replace("ImageNet-1K", "ImageNet_1K")
    for one in SETS.values()
    if one.modality == "image" and one.in_distribution
)
SIDES = {"query": ("qry", "qry_image_path"), "positive": ("pos_text", "pos_image_path")}
COLUMNS = (*SIDES["query"], *SIDES["positive"])
NEGATIVES = ("neg_text", "neg_image_path")
KNOWN = (*COLUMNS, *NEGATIVES)


def load_mmeb_train(
    folder: str | Path,
    sets: Sequence[str] | None = None,
    split: str = "original",
    image_root: str | Path | None = None,
    on_bad_row: Policy = "raise",
) -> Dataset:
    r"""
    Loads training sets of MMEB as rows of stage 2.

    Args:
        folder (`str` or `Path`):
            A download of `TIGER-Lab/MMEB-train`.
        sets (`Sequence[str]`, *optional*):
            Names of sets, as the folders are called; by default the twenty of the paper, [`TRAIN_SETS`].
        split (`str`, *optional*, defaults to `"original"`):
            Or `"diverse_instruction"`.
        image_root (`str` or `Path`, *optional*):
            Folder at which the paths of images begin; by default `folder`.
        on_bad_row (`str` or [`BadRows`], *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave bad rows out; a [`BadRows`] afterwards knows how many, and why, by file and
            row.

    Returns:
        `Dataset`: columns `query`, `positive`, `negatives`, and `source`, which is the name of the set.

    Raises:
        ValueError: for a set or a split that is not there, images that have not been unpacked, and a bad row with
            its number, column, what was found and what was expected.
    """
    folder = Path(folder).absolute()
    root = root_of(folder, image_root)
    if split not in SPLITS:
        raise ValueError(f"split={split!r} does not exist; choose {' or '.join(SPLITS)}.")
    datasets = []
    for name in TRAIN_SETS if sets is None else sets:
        for file in _files(folder, name, split):
            records = open_records(file)._replace(name=f"{name}/{file.name}")
            convert = partial(mmeb_row, name=name, root=root)
            bad_rows = BadRows(on_bad_row.policy if isinstance(on_bad_row, BadRows) else on_bad_row)
            datasets.append(build_dataset(records, convert, PAIR_FEATURES, bad_rows, COLUMNS, KNOWN))
            if isinstance(on_bad_row, BadRows):
                on_bad_row.take({f"{records.name}, {row}": reason for row, reason in bad_rows.reasons.items()})
            _check_unpacked(datasets[-1], root.folder, name)
    return concatenate_datasets(datasets)


def _files(folder: Path, name: str, split: str) -> list[Path]:
    files = sorted(file for kind in ("parquet", "jsonl") for file in (folder / name).glob(f"{split}*.{kind}"))
    if not files:
        found = sorted(path.parent.name for path in folder.glob("*/*") if path.suffix in (".parquet", ".jsonl"))
        raise ValueError(
            f"{folder / name} has no {split}*.parquet or .jsonl: give the folder to which MMEB-train was downloaded, "
            f"and names of its sets; there are {sorted(set(found))}."
        )
    return files


def _check_unpacked(dataset: Dataset, root: str, name: str) -> None:
    """The first image must be there: what all rows lack is told at once."""
    row = dataset.with_format("arrow")[:1].to_pylist()[0]
    image = row["query"]["image"] or row["positive"]["image"]
    if image and image["path"] and not Path(image["path"]).is_file():
        raise ValueError(
            f"Row 0 of {name}: there is no image {image['path']}. Unpack the archives of images of MMEB-train "
            f"into {root}, or name the folder at which their paths begin: image_root."
        )


def mmeb_row(record: dict[str, Any], name: str, root: ImageRoot) -> dict[str, Any]:
    """A row of stage 2."""
    refuse_misnamed(record, KNOWN)
    row: dict[str, Any] = {"source": name}
    for side, (text, image) in SIDES.items():
        if not isinstance(record.get(text), str | None):
            raise fault(text, describe(record[text]), "a text")
        columns = (text, image)
        row[side] = _item_of(*_marked(record.get(text), record.get(image), columns, root), columns, root)
    texts, images = (_listed(record.get(column), column) for column in NEGATIVES)
    row["negatives"] = []
    for place, values in enumerate(zip_longest(texts, images)):
        columns = (f"{NEGATIVES[0]}[{place}]", f"{NEGATIVES[1]}[{place}]")
        text, image = _marked(*values, columns, root)
        if text is not None or image is not None:
            row["negatives"].append(_item_of(text, image, columns, root))
    return row


def _item_of(text: str | None, image: Any, columns: tuple[str, str], root: ImageRoot) -> dict[str, Any]:
    return item_of({"text": text, "image": image}, {"text": columns[0], "image": columns[1]}, root)


def _marked(text: str | None, image: Any, columns: tuple[str, str], root: ImageRoot) -> tuple[str | None, Any]:
    """A text without its mark, which must stand for its image, and that image."""
    text, image = text or "", as_stored(image, columns[1], root)
    marks = text.count("<|image_")
    if marks > (image is not None) or marks > text.count(IMAGE_MARK):
        images = "no image" if image is None else "one image"
        raise fault(columns[0], f"{marks} marks and {images}", f"one {IMAGE_MARK} where there is an image")
    text = text.replace(IMAGE_MARK, "")
    return text if text.strip() else None, image


def _listed(value: Any, column: str) -> list[Any]:
    """Negatives as a list: of one text, of many, or written as Python writes a list; never evaluated."""
    if isinstance(value, list):
        listed = list(value)
    elif isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        listed = _parse(value, column)
    else:
        listed = [value]
    for place, one in enumerate(listed):
        if not isinstance(one, str | None):
            raise fault(f"{column}[{place}]", describe(one), "a text")
    return listed


def _parse(value: str, column: str) -> list[Any]:
    expected = "a text, a list, or a list written as Python writes it"
    try:
        listed = ast.literal_eval(value)
        tokens = tokenize.generate_tokens(io.StringIO(value).readline)
        kinds = [token.type for token in tokens if token.type != tokenize.NL]
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError) as error:
        raise fault(column, describe(value), expected) from error
    if not isinstance(listed, list):
        raise fault(column, describe(value), expected)
    # An array as NumPy writes it has no commas, and Python takes 'a' 'b' for 'ab'.
    if any(pair == (tokenize.STRING, tokenize.STRING) for pair in zip(kinds, kinds[1:], strict=False)):
        raise fault(column, describe(value), f"commas between the texts of {expected}")
    return listed
