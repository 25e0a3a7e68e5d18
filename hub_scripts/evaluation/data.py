"""What `coma evaluate` finds in the data it is given: sets by name, each read when its turn comes."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset, get_dataset_config_names, load_dataset

from hub_scripts.common.training import EMOJI, emoji_styles
from trainers.contrastive.sources import check_named, sources_of
from trainers.data.emoji import emoji_pairs, load_emoji
from trainers.data.image_folders import is_system_file
from trainers.data.images import without_decoding
from trainers.data.mmeb.sets import SETS
from trainers.data.pairs import load_pairs
from trainers.data.rows import ROW, BadRows
from trainers.data.schema import check_text
from trainers.data.tables import open_records, saved_dataset
from trainers.evaluation.mmeb import read_image_set
from trainers.evaluation.retrieval import EvaluationSet
from trainers.evaluation.retrieval_callback import RetrievalSet
from trainers.evaluation.visual_documents import TABLES, read_visual_documents


__all__ = ["FROM_HUB", "NamedSet", "open_sets"]

FROM_HUB = "visdoc"  # all sets of visual documents, each from its repository
OWN = "retrieval"  # the modality of sets that are no part of MMEB


class NamedSet(NamedTuple):
    """
    A set that can be evaluated: its name, where it belongs, what counts, and how to read it; of pairs the sources of
    their rows. `rows_skipped` says of a set that has been read how many bad rows were left out then.
    """

    name: str
    modality: str
    metric: str
    read: Callable[[], EvaluationSet]
    sources: Callable[[], set[str | None]] | None = None
    rows_skipped: Callable[[], int] = lambda: 0


class _Options(NamedTuple):
    image_root: Path | None
    instructions: dict[str | None, str]
    among_all: bool
    on_bad_row: str


def open_sets(
    data: Iterable[str],
    chosen: set[str] | None = None,
    image_root: Path | None = None,
    instructions: dict[str | None, str] | None = None,
    among_all: bool = False,
    on_bad_row: str = "raise",
) -> list[NamedSet]:
    """
    Finds the sets.

    Args:
        data (`Iterable[str]`): folders with a subfolder or a file per set of MMEB, tables or saved data sets of pairs,
            names on the Hub, "visdoc", or "emoji", the packaged images of a style that is not trained on.
        chosen (`set[str]`, *optional*): names of the sets that are wanted; by default all that are there, and of MMEB
            every set of the modalities that are there.
        image_root (`Path`, *optional*): where paths begin; by default at the folder.
        instructions (`dict`, *optional*): for the queries of pairs, by their `source`, `None` being without one.
        among_all (`bool`, *optional*, defaults to `False`): in image sets, rank among the candidates of all rows.
        on_bad_row (`str`, *optional*, defaults to `"raise"`): of pairs, `"skip"` leaves bad rows out and counts them.

    Returns:
        `list[NamedSet]`: in the order of the benchmark, then others.

    Raises:
        ValueError: for data that is not there or is no such thing, sets that are there twice, and sets that are not;
            for instructions of a source that no row has, and for rows of a benchmark that are to be left out.
    """
    options = _Options(image_root, instructions or {}, among_all, on_bad_row)
    found: dict[str, NamedSet] = {}
    for place in data:
        for one in _sets_in(place, options):
            if one.name in found:
                raise ValueError(f"The set {one.name} is there twice, the second time in {place}.")
            found[one.name] = one
    expected = chosen or _whole({one.modality for one in found.values()}) | found.keys()
    if missing := sorted(expected - found.keys(), key=_order):
        told = f"{len(missing)} of {len(expected)} sets are missing: {', '.join(missing)}."
        raise ValueError(f"{told} There are {', '.join(found)}. Add them, or choose others with --sets.")
    wanted = [found[name] for name in sorted(expected, key=_order)]
    if on_bad_row != "raise" and (whole := [one.name for one in wanted if one.modality != OWN]):
        raise ValueError(f"Scores of {whole[0]} are those of all its rows: bad ones may be left out of pairs only.")
    if instructions:
        check_named(instructions, set().union(*(one.sources() for one in wanted if one.sources)), "--instruction")
    return wanted


def _whole(modalities: set[str]) -> set[str]:
    return {one.name for one in SETS.values() if one.modality in modalities}


def _order(name: str) -> tuple[int, str]:
    return list(SETS).index(name) if name in SETS else len(SETS), name


def _sets_in(place: str, options: _Options) -> list[NamedSet]:
    path, is_there = Path(place), os.path.exists(place)
    if place == FROM_HUB and not is_there:
        return [_from_hub(name, one.repository, options) for name, one in SETS.items() if one.repository]
    if place == EMOJI and not is_there:
        return [_pairs(place, lambda _: emoji_pairs(load_emoji(emoji_styles(evaluation=True))), options)]
    if not is_there:
        return _on_hub(place, options)
    if not path.is_dir() or saved_dataset(path) is not None:
        return [_pairs(path.stem, partial(load_pairs, place, None, options.image_root), options)]
    inside = {name: one for name in SETS if (one := _part(path, name)) is not None}
    if not inside:
        raise ValueError(f"{place} has no folder or file that is named like a set of MMEB, and is no table of pairs.")
    return [_local(name, one, options._replace(image_root=options.image_root or path)) for name, one in inside.items()]


def _part(folder: Path, name: str) -> Path | None:
    """A folder with Parquet or JSON-lines files, or one such file."""
    there = [one for suffix in ("", ".parquet", ".jsonl") if (one := folder / f"{name}{suffix}").exists()]
    if len(there) > 1:  # a folder without tables has images
        there = [one for one in there if one.is_file() or any(one.glob("*.parquet")) or any(one.glob("*.jsonl"))]
    if len(there) > 1:
        raise ValueError(f"{folder} has the set {name} twice, {' and '.join(one.name for one in there)}: keep one.")
    return there[0] if there else None


def _local(name: str, path: Path, options: _Options) -> NamedSet:
    if SETS[name].modality == "visdoc":
        return _visual_documents(name, lambda table: _read(path, table), options)
    return _images(name, lambda: [row for file in _files(path) for row in _rows(file)], options)


def _on_hub(repository: str, options: _Options) -> list[NamedSet]:
    if of := [name for name, one in SETS.items() if one.repository == repository]:
        return [_from_hub(of[0], repository, options)]
    if repository.count("/") != 1:
        raise ValueError(f"{repository} is not there, and no name on the Hub, which would be ORGANISATION/NAME.")
    configs = get_dataset_config_names(repository)
    if names := [name for name in SETS if name in configs]:
        return [_from_hub(name, repository, options) for name in names]
    return [_pairs(repository.split("/")[1], lambda _: load_dataset(repository, split="test"), options)]


def _from_hub(name: str, repository: str, options: _Options) -> NamedSet:
    if SETS[name].modality == "visdoc":
        split = "train" if name.startswith("VisRAG_") else "test"
        return _visual_documents(name, lambda table: load_dataset(repository, table, split=split), options)
    if options.image_root is None:
        raise ValueError(f"The images of {repository} are archives: unpack them and give their folder, --image-root.")
    return _images(name, lambda: load_dataset(repository, name, split="test").to_list(), options)


def _images(name: str, rows: Callable[[], list[dict]], options: _Options) -> NamedSet:
    def read() -> EvaluationSet:
        return read_image_set(rows(), SETS[name], options.image_root, options.among_all)

    return NamedSet(name, SETS[name].modality, SETS[name].metric, read)


def _visual_documents(name: str, table: Callable[[str], Dataset], options: _Options) -> NamedSet:
    def read() -> EvaluationSet:
        return read_visual_documents(*map(table, TABLES), name)

    return NamedSet(name, SETS[name].modality, SETS[name].metric, read)


def _pairs(name: str, load: Callable[[BadRows], Dataset], options: _Options) -> NamedSet:
    bad_rows = BadRows(options.on_bad_row, name)

    def read() -> EvaluationSet:
        rows = without_decoding(load(bad_rows))
        there = (number for number in count() if number not in bad_rows.reasons)  # in the file, not among the good
        numbered = ({**row, ROW: number} for row, number in zip(rows, there, strict=False))
        task = RetrievalSet.from_rows(numbered, options.instructions, bad_rows)
        numbers, present = task.relevance.documents.tolist(), task.relevance.grades > 0
        relevant = [row[: int(count)] for row, count in zip(numbers, present.sum(1), strict=True)]
        more = {"names": task.names, "documents_of": task.documents_of}
        return EvaluationSet.of(task.queries, task.documents, relevant, **more)

    def sources() -> set[str | None]:
        return set(sources_of(load(BadRows(options.on_bad_row, name))))

    return NamedSet(name, OWN, "hit@1", read, sources, lambda: bad_rows.skipped)


def _files(path: Path) -> list[Path]:
    """A file, or all files of a folder in the order of their names, which are of one kind."""
    if not path.is_dir():
        return [path]
    kinds = {kind: sorted(path.glob(f"*.{kind}")) for kind in ("parquet", "jsonl")}
    found = {kind: [file for file in files if not is_system_file(file.name)] for kind, files in kinds.items()}
    if all(found.values()):
        raise ValueError(f"{path} has .parquet and .jsonl files, and one of the two would not be read: keep one kind.")
    if not any(found.values()):
        raise ValueError(f"{path} has no .parquet and no .jsonl file.")
    return found["parquet"] or found["jsonl"]


def _rows(file: Path) -> Iterable[dict[str, Any]]:
    for number, row in enumerate(open_records(file).rows()):
        if isinstance(row, ValueError):
            raise ValueError(f"Row {number} of {file} is bad: {row}") from row
        try:
            for column, value in row.items():
                for text in value if isinstance(value, list) else [value]:
                    check_text(text if isinstance(text, str) else None, column)
        except ValueError as error:
            raise ValueError(f"Row {number} of {file} is bad: {error}") from error
        yield row


def _read(path: Path, table: str) -> Dataset:
    """A table of a set of visual documents; its pages are too large to be read at once, and are mapped into memory."""
    if not (path / table).exists():
        raise ValueError(f"{path} has no folder {table}.")
    files = _files(path / table)
    if table == "corpus" and files[0].suffix == ".parquet":
        for file in files:
            open_records(file)  # which says what is wrong with a damaged one
        return load_dataset("parquet", data_files=list(map(str, files)), split="train")
    try:
        return Dataset.from_list([row for file in files for row in _rows(file)])
    except pa.ArrowException as error:
        raise ValueError(f"{path / table}: a column has values of several types: {error}") from error
