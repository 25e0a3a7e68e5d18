"""What `coma evaluate` finds in the data it is given: sets by name, each read when its turn comes."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

from datasets import Dataset, get_dataset_config_names, load_dataset

from hub_scripts.common.training import EMOJI, emoji_styles
from hub_scripts.evaluation.tables import part_of, rows_in, table_in
from hub_scripts.evaluation.video_data import Footage, video_part, video_rows, video_rows_on_hub
from trainers.contrastive.sources import check_named, sources_of
from trainers.data.emoji import emoji_pairs, load_emoji
from trainers.data.images import without_decoding
from trainers.data.mmeb.sets import SETS
from trainers.data.pairs import PairColumns, load_pairs
from trainers.data.rows import ROW, BadRows
from trainers.data.tables import refuse_format, saved_dataset
from trainers.data.text_format import TextFormat
from trainers.evaluation.mmeb import read_image_set
from trainers.evaluation.retrieval import RetrievalSet
from trainers.evaluation.video_sets import read_video_set
from trainers.evaluation.visual_documents import TABLES, read_visual_documents


__all__ = ["OWN", "NamedSet", "PairOptions", "open_sets"]

OWN = "retrieval"  # the modality of sets that are no part of MMEB


class NamedSet(NamedTuple):
    """
    A set that can be evaluated.

    Args:
        name, modality, metric (`str`): as the leaderboard calls them; the metric is the one that counts.
        read (`Callable`): reads it.
        sources (`Callable`, *optional*): the sources of its rows, of pairs.
        has_columns (`bool`, *optional*, defaults to `False`): whether its columns can be named.
        shown (`dict`, *optional*): of its data, what stands beside its scores.
    """

    name: str
    modality: str
    metric: str
    read: Callable[[], RetrievalSet]
    sources: Callable[[], Iterable[str | None]] = tuple
    has_columns: bool = False
    shown: Mapping[str, Any] = {}


class PairOptions(NamedTuple):
    """
    How pairs are read, which are no part of MMEB.

    Args:
        columns (`dict[str, str]`, *optional*): fields of [`PairColumns`], of tables; rows with `query` and `positive`
            need none.
        instructions (`dict`, *optional*): for the queries, by their `source`, `None` being without one.
        on_bad_row (`str`, *optional*, defaults to `"raise"`): `"skip"` leaves bad rows out and counts them.
        text_format (`TextFormat`, *optional*): encoding and separator of tables that are text; by default what is
            found by looking.
    """

    columns: Mapping[str, str | None] | None = None
    instructions: dict[str | None, str] | None = None
    on_bad_row: Literal["raise", "skip"] = "raise"
    text_format: TextFormat | None = None

    @property
    def pair_columns(self) -> PairColumns:
        """The columns as readers of pairs take them."""
        return PairColumns(**(self.columns or {}))


def open_sets(
    data: Iterable[str],
    chosen: Collection[str] | None = None,
    image_root: str | Path | None = None,
    among_all: bool = False,
    *,
    pairs: PairOptions | None = None,
    footage: Footage | None = None,
) -> list[NamedSet]:
    """
    Finds the sets.

    Args:
        data (`Iterable[str]`): folders with a subfolder or a file per set of MMEB, tables or saved data sets of pairs,
            names on the Hub, "video", "visdoc", or "emoji", the packaged images of a style that is not trained on.
        chosen (`Collection[str]`, *optional*): names of the sets that are wanted; by default all that are there, and
            of MMEB every set of the modalities that are there.
        image_root (`str` or `Path`, *optional*): where paths begin; by default at the folder.
        among_all (`bool`, *optional*, defaults to `False`): in image sets, rank among the candidates of all rows.
        pairs ([`PairOptions`], *optional*): how pairs are read.
        footage ([`Footage`], *optional*): where the videos of MMEB are, and how many of their frames are shown.

    Returns:
        `list[NamedSet]`: in the order of the benchmark, then others.

    Raises:
        ValueError: for data that is not there or is no such thing, sets that are there twice, and sets that are not;
            for instructions of a source that no row has, for rows of a benchmark that are to be left out, and for
            names of columns where no table of pairs has any.
    """
    pairs, footage = pairs or PairOptions(), footage or Footage()
    named = pairs.pair_columns.named()
    finder = _Finder(image_root=image_root, among_all=among_all, pairs=pairs, footage=footage)
    found: dict[str, NamedSet] = {}
    for place in data:
        for named_set in finder.sets_in(place):
            if named_set.name in found:
                raise ValueError(f"The set {named_set.name} is there twice, the second time in {place}.")
            found[named_set.name] = named_set
    if not found:
        raise ValueError("There is nothing to evaluate: give folders, tables or names on the Hub.")
    modalities = {named_set.modality for named_set in found.values()}
    expected = set(chosen or [name for name, of in SETS.items() if of.modality in modalities] + list(found))
    if missing := sorted(expected - found.keys(), key=_order):
        told = f"{len(missing)} of {len(expected)} sets are missing: {', '.join(missing)}."
        raise ValueError(f"{told} There are {', '.join(found)}. Add them, or choose others with --sets.")
    wanted = [found[name] for name in sorted(expected, key=_order)]
    if pairs.on_bad_row != "raise" and (whole := [one.name for one in wanted if one.modality != OWN]):
        raise ValueError(f"Scores of {whole[0]} are those of all its rows: bad ones may be left out of pairs only.")
    if named and not any(one.has_columns for one in wanted):
        raise ValueError(f"{', '.join(named)} cannot act: no table of pairs is evaluated. Leave them out.")
    if pairs.instructions:
        check_named(pairs.instructions, {source for one in wanted for source in one.sources()}, "--instruction")
    return wanted


def _order(name: str) -> tuple[int, str]:
    return list(SETS).index(name) if name in SETS else len(SETS), name


class _Finder(NamedTuple):
    """Finds sets in places of every kind. The fields are those of [`open_sets`]."""

    image_root: str | Path | None
    among_all: bool
    pairs: PairOptions
    footage: Footage

    def sets_in(self, place: str) -> list[NamedSet]:
        """What is in a folder or file, in the package, or on the Hub."""
        if not os.path.exists(place):
            refuse_format(self.pairs.text_format, place)
            return self.packaged_or_on_hub(place)
        path = Path(place)
        if not path.is_dir() or saved_dataset(path) is not None:
            columns, text_format = self.pairs.pair_columns, self.pairs.text_format
            load = partial(load_pairs, place, columns, self.image_root, text_format=text_format)
            return [self.set_of_pairs(path.stem, load, has_columns=True)]
        refuse_format(self.pairs.text_format, place)
        inside = {name: file for name in SETS if (file := part_of(path, name) or video_part(path, name)) is not None}
        if not inside:
            raise ValueError(
                f"{place} has no folder or file that is named like a set of MMEB, and is no table of pairs."
            )
        return [self.in_folder(name, file, path) for name, file in inside.items()]

    def in_folder(self, name: str, path: Path, folder: Path) -> NamedSet:
        """A set of MMEB in a file or subfolder of a folder."""
        if SETS[name].modality == "visdoc":
            return _of_mmeb(name, lambda: read_visual_documents(*(table_in(path, table) for table in TABLES), name))
        if SETS[name].modality == "video":
            return self.videos(name, lambda: video_rows(path, name), self.footage.root_in(folder))
        root = self.image_root or folder
        return _of_mmeb(name, lambda: read_image_set(rows_in(path), SETS[name], root, self.among_all))

    def packaged_or_on_hub(self, place: str) -> list[NamedSet]:
        """What a name stands for that is no path."""
        if place == EMOJI:
            return [self.set_of_pairs(place, lambda _: emoji_pairs(load_emoji(emoji_styles(evaluation=True))))]
        if named := [name for name, of in SETS.items() if of.repository and place in (of.modality, of.repository)]:
            return [self.from_hub(name, SETS[name].repository) for name in named]
        if place.count("/") != 1:
            raise ValueError(f"{place} is not there, and no name on the Hub, which would be ORGANISATION/NAME.")
        configs = get_dataset_config_names(place)
        if names := [name for name in SETS if name in configs]:
            return [self.from_hub(name, place) for name in names]
        load = partial(load_dataset, place, split="test")
        name, columns = place.split("/")[1], self.pairs.pair_columns
        if not columns.named():
            return [self.set_of_pairs(name, lambda _: load())]
        with_columns = partial(load_pairs, columns=columns, image_root=self.image_root)
        return [self.set_of_pairs(name, lambda bad_rows: with_columns(load(), on_bad_row=bad_rows), True)]

    def from_hub(self, name: str, repository: str) -> NamedSet:
        """A set of MMEB from a repository."""
        if SETS[name].modality == "visdoc":
            split = "train" if name.startswith("VisRAG_") else "test"
            load_table = partial(load_dataset, repository, split=split)
            return _of_mmeb(name, lambda: read_visual_documents(*map(load_table, TABLES), name))
        if SETS[name].modality == "video":
            return self.videos(name, lambda: video_rows_on_hub(name), self.footage.root_for(repository))
        if self.image_root is None:
            raise ValueError(
                f"The images of {repository} are archives: unpack them and give their folder, --image-root."
            )
        load = partial(load_dataset, repository, name, split="test")
        return _of_mmeb(name, lambda: read_image_set(load().to_list(), SETS[name], self.image_root, self.among_all))

    def videos(self, name: str, rows: Callable[[], list[dict[str, Any]]], root: Path) -> NamedSet:
        """A video set of MMEB."""
        frames = self.footage.num_frames
        one = _of_mmeb(name, lambda: read_video_set(rows(), SETS[name], root, frames))
        return one._replace(shown={"video_frames": frames})

    def set_of_pairs(self, name: str, load: Callable[[BadRows], Dataset], has_columns: bool = False) -> NamedSet:
        """A set of pairs, which is no part of MMEB."""

        def read() -> RetrievalSet:
            bad_rows = BadRows(self.pairs.on_bad_row, name)
            rows = without_decoding(load(bad_rows))
            there = (number for number in count() if number not in bad_rows.reasons)  # in the file, not among the good
            numbered = ({**row, ROW: number} for row, number in zip(rows, there, strict=False))
            return RetrievalSet.from_rows(numbered, self.pairs.instructions, bad_rows)

        def sources() -> Iterable[str | None]:
            return sources_of(load(BadRows(self.pairs.on_bad_row, name)))

        return NamedSet(name, OWN, "hit@1", read, sources, has_columns)


def _of_mmeb(name: str, read: Callable[[], RetrievalSet]) -> NamedSet:
    return NamedSet(name, SETS[name].modality, SETS[name].metric, read)
