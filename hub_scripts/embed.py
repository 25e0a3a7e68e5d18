"""Embeds a corpus to a Parquet file: a folder of images, PDFs and videos, a PDF, a text, a table, WebDataset shards.

Tables end with .csv, .tsv, .jsonl, .json or .parquet and have columns `text`, `image`, `video` (a path; in Parquet
also the bytes of a file), or several: the image comes first, then the video. The pages of a PDF are images, r.pdf#3.
Shards are a .tar file or 'shards/*.tar'. Tables and a .tar may be in object storage. Rows stay in their order.

It is made in parts, in the folder OUT.parts. After an interruption the same command goes on where it was: parts whose
rows are the same are kept. Parts of another model or corpus are refused, as is a folder of that name that is nobody's.
A row that cannot be embedded is an error with its number and its file, unless it is to be skipped: then
OUT.skipped.jsonl says which rows are not there, and why.

Vectors can be small. --dims keeps the first numbers of each, where the model was trained for that (matryoshka_dims);
--precision keeps numbers in 16 bits, in 8, or as signs, with 8 bits for the best of those. Parts have whole vectors,
and fit any of these. --vectors N keeps N vectors of a row besides, of models that were trained for them; --memory
what `coma ask` answers from, of models of stage 1. On a cluster of Ray, --engine ray makes the same parts, by actors
with a model each (docs/corpus.md).

  coma embed my-coma photos/ photos.parquet
  coma embed my-coma products.csv products.parquet --text-column title --image-column file --image-root images/
  coma embed my-coma s3://bucket/crawl.parquet crawl/ --precision ubinary --engine ray --address auto
"""

import argparse
import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hub_scripts.common.arguments import (
    PRECISIONS,
    Dtype,
    Precision,
    add_encode_options,
    add_table_options,
    command_parser,
    number_within,
    positive,
    take_text_format,
)
from hub_scripts.common.terminal import one_line
from hub_scripts.embedding.kept import Kept, Untrained
from hub_scripts.embedding.model_settings import ModelSettings
from hub_scripts.embedding.ray_cluster import RayOptions, ray_cluster
from trainers.files import RECORD


if TYPE_CHECKING:
    from hub_scripts.embedding.engine import LocalEngine
    from hub_scripts.embedding.ray_engine import RayEngine
    from hub_scripts.embedding.remote_inputs import Inputs
    from trainers.data.corpus import Corpus
    from trainers.data.text_format import TextFormat


__all__ = ["EmbeddedTable", "embed_table", "main"]

ENGINES = ("local", "ray")


class EmbeddedTable(NamedTuple):
    """
    What [`embed_table`] has done.

    Args:
        num_rows (`int`): rows of the file, each with an embedding.
        num_embedded (`int`): rows that were embedded now, and not before an interruption.
        seconds (`float`): how long that took, without loading the model.
        num_skipped (`int`): rows that could not be embedded; they are listed in `OUT.skipped.jsonl`.
        model (`dict`): what the file has in its metadata about the model, and of its vectors `dims`, `precision` and,
            where there are several of a row, `vectors`; `memory` where it is kept.
    """

    num_rows: int
    num_embedded: int
    seconds: float
    num_skipped: int
    model: dict[str, Any]


@dataclass(frozen=True)
class _Rows:
    """
    What is embedded, as [`embed_table`] is told: where rows lie, how they are read, and in which parts. The columns
    are fields of [`~trainers.data.corpus.Columns`], in that order; at the root, paths of images begin.
    """

    data: str | Path
    columns: dict[str, str | None]
    root: str | Path | None
    text_format: "TextFormat | None"
    part_rows: int
    on_error: str

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip") or self.part_rows < 1:
            raise ValueError(f"on_error={self.on_error!r} is raise or skip, and part_rows={self.part_rows} 1 or more.")

    def open(self, tell: Callable[[str], None] | None) -> "tuple[Inputs, Corpus]":
        from hub_scripts.embedding.remote_inputs import find_inputs
        from trainers.data.corpus import Columns, open_corpus

        source = find_inputs(self.data)
        corpus = open_corpus(source.fetch(), Columns(**self.columns), self.root, self.text_format)
        if corpus.left_alone and tell is not None:
            tell(corpus.left_alone)
        return source, corpus

    def made_of(self, source: "Inputs", settings: ModelSettings) -> dict[str, Any]:
        """What the parts depend on; a limit of pixels decides which rows are in them, where others are skipped."""
        columns, how = list(self.columns.values()), settings.encoding
        if not self.columns["video"]:  # as parts have it from before there was such a column
            columns.pop()
        rows = {"inputs": source.name, "columns": columns, "part_rows": self.part_rows}
        rows["image_root"] = self.root and os.path.abspath(self.root)
        limit = settings.max_image_pixels if self.on_error == "skip" else None
        given = {"max_image_pixels": limit, "reduced_jpeg": how["reduced_jpeg"] or None, "vectors": how["num_vectors"]}
        return rows | {name: value for name, value in given.items() if value is not None}


def main(argv: list[str]) -> int:
    """Runs `coma embed`; returns the exit code."""
    arguments = _parser().parse_args(argv)
    options = vars(arguments)
    options["text_format"] = take_text_format(options)
    options["ray"] = RayOptions(**{name: options.pop(name) for name in RayOptions._fields})
    from hub_scripts.embedding.precision import SeveralVectors
    from hub_scripts.embedding.stored_memory import StoredMemory

    made = embed_table(**options, tell=lambda line: print(one_line(line), flush=True))
    kept = f"{made.model['dims']} numbers" + (f" ({arguments.precision})" if arguments.precision != "float32" else "")
    print(f"{made.num_rows} rows of {kept} in {one_line(arguments.out)}")
    if several := SeveralVectors.of(made.model):
        print(f"and {several.number} vectors of each, {several.num_bytes} bytes a row, for MaxSim")
    if stored := StoredMemory.of(made.model):
        print(f"and the memory of each, {stored.num_bytes} bytes a row, for questions")
    rate = f"{made.num_embedded / made.seconds:.1f} a second"
    print(f"{made.num_embedded} embedded now, in {made.seconds:.1f} s: {rate}")
    if made.num_skipped:
        print(f"{made.num_skipped} rows skipped, listed in {one_line(_beside(arguments.out, 'skipped.jsonl'))}")
    return 0


def embed_table(  # noqa: PLR0913 - what can be set
    model: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    text_column: str | None = None,
    image_column: str | None = None,
    video_column: str | None = None,
    id_column: str | None = None,
    image_root: str | Path | None = None,
    dims: int | None = None,
    any_dims: bool = False,
    precision: Precision = "float32",
    vectors: int | None = None,
    any_vectors: bool = False,
    memory: bool = False,
    any_memory: bool = False,
    on_error: Literal["raise", "skip"] = "raise",
    batch_tokens: int | None = None,
    part_rows: int = 2048,
    num_workers: int = 0,
    reduced_jpeg: bool = False,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_image_pixels: int | None = None,
    text_format: "TextFormat | None" = None,
    engine: Literal["local", "ray"] = "local",
    ray: RayOptions | None = None,
    tell: Callable[[str], None] | None = None,
) -> EmbeddedTable:
    r"""
    Embeds a corpus to a Parquet file, or a folder of such, as `coma embed` does; after an interruption the same call
    goes on.

    Args:
        model (`str` or `Path`): CoMa model or adapter: a folder, or a name on the Hub.
        data (`str` or `Path`): a folder of images, PDFs and videos, a .pdf, .txt, .csv, .tsv, .jsonl, .json, .parquet
            or .tar file, or a pattern for .tar files; of such a file also the address in a storage that fsspec knows,
            `s3://…`.
        out (`str` or `Path`): the file to be made; a folder of files, if its name does not end with `.parquet`.
        text_column, image_column, video_column (`str`, *optional*): columns of a table; by default `text`, `image` and
            `video`.
        id_column (`str`, *optional*): column that names rows; by default `id`, or else the number of the row.
        image_root (`str` or `Path`, *optional*): where paths of images begin; by default at the folder of the table.
        dims (`int`, *optional*): how many of the first numbers of an embedding are kept, of length 1 again; by default
            all. The model must have been trained for them, by its record of the training.
        any_dims (`bool`, *optional*, defaults to `False`): whether to cut where it was not, as well.
        precision (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"float16"`, `"int8"` or `"ubinary"`, in
            which numbers are kept; the last two need sentence-transformers. All of them are searched by
            [`~hub_scripts.search.search_index`].
        vectors (`int`, *optional*): how many of the first states of a row are kept as well, to be compared by MaxSim.
            The model must have been trained for them, by its record of the training.
        any_vectors (`bool`, *optional*, defaults to `False`): whether to keep them where it was not, as well.
        memory (`bool`, *optional*, defaults to `False`): whether the memory of a row is kept as well, in fp16, or in
            int8 with a precision of int8 or ubinary, to be asked by [`~hub_scripts.ask.ask_index`]. The model must
            have been trained to answer from it, by its record of the training.
        any_memory (`bool`, *optional*, defaults to `False`): whether to keep it where it was not, as well.
        on_error (`str`, *optional*, defaults to `"raise"`): `"skip"` leaves out rows that cannot be embedded.
        batch_tokens (`int`, *optional*): most tokens of a batch; by default the fastest of a few sizes, tried on the
            first rows. An actor tries them once.
        part_rows (`int`, *optional*, defaults to 2048): rows that are lost at most by an interruption.
        num_workers (`int`, *optional*, defaults to 0): processes that decode images.
        reduced_jpeg (`bool`, *optional*, defaults to `False`): whether JPEG files are decoded at a reduced scale where
            that leaves twice what the model sees; embeddings differ a little.
        dtype, device (`str`, *optional*, defaults to `"auto"`): precision, and where to compute.
        max_image_pixels (`int`, *optional*): images with more are refused; by default as the model has it.
        text_format (`TextFormat`, *optional*): encoding and separator of a table; by default what is found by looking.
        engine (`str`, *optional*, defaults to `"local"`): `"ray"` makes the same in actors on the machines of a
            cluster of Ray, each with a model of its own.
        ray ([`~hub_scripts.embedding.ray_cluster.RayOptions`], *optional*): which cluster, how many actors and with
            what; by default a cluster that is started on this machine.
        tell (`Callable`, *optional*): is given a line for a person, if files are left alone.

    Returns:
        [`EmbeddedTable`]

    Raises:
        ValueError: for a row that cannot be embedded, for files that are there already and not from this call, and for
            dimensions and vectors that the model was not trained for.
        ImportError: if there is no Ray for the engine of that name, or no sentence-transformers for a precision.
        OSError: if a file cannot be written; if there is no cluster at the address, or actors die again and again.

    Example:

        >>> made = embed_table("my-coma", "photos/", "photos.parquet")
        >>> made.num_rows
    """
    columns = {"id": id_column, "text": text_column, "image": image_column, "video": video_column}
    rows = _Rows(
        data=data, columns=columns, root=image_root, text_format=text_format, part_rows=part_rows, on_error=on_error
    )
    untrained = Untrained(dims=any_dims, vectors=any_vectors, memory=any_memory)
    kept = Kept(dims=dims, precision=precision, vectors=vectors, memory=memory, untrained=untrained)
    how = kept.encoding | {"batch_tokens": batch_tokens, "num_workers": num_workers, "reduced_jpeg": reduced_jpeg}
    coma = ModelSettings(name=str(model), dtype=dtype, device=device, max_image_pixels=max_image_pixels, encoding=how)
    return _embed(rows, Path(out), coma, kept, _cluster(engine, ray), tell)


def _cluster(engine: str, ray: RayOptions | None) -> RayOptions | None:
    """Where an engine has its actors, `None` for this machine alone; raises for options that cannot act."""
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is none of {', '.join(ENGINES)}.")
    given = {name: value for name, value in ray._asdict().items() if value is not None} if ray else {}
    if engine == "local" and given:
        raise ValueError(f"{', '.join(given)} can act with engine ray alone: choose that, or leave it out.")
    if given.get("num_actors", 1) < 1 or not 0 <= given.get("gpus_per_actor", 0) < math.inf:
        raise ValueError(f"num_actors must be 1 or more and gpus_per_actor 0 or more, not {given}.")
    return None if engine == "local" else ray or RayOptions()


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """While this process alone makes a file that is not there."""
    from trainers.files import one_writer

    with one_writer(out):
        _check_free(out)
        yield


def _check_free(out: Path) -> None:
    """Raises `ValueError` for what would be overwritten, before a model is loaded; what was begun has a record."""
    is_begun = (_beside(out, "parts") / RECORD).exists()
    for path in [out] if is_begun else [out, _beside(out, "skipped.jsonl")]:
        if os.path.lexists(path):
            raise ValueError(f"{path} is there already, and nothing is overwritten: remove it or give another OUT.")


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name}.{ending}")


@contextlib.contextmanager
def _engine(
    settings: ModelSettings, corpus: "Corpus", source: "Inputs", cluster: RayOptions | None
) -> "Iterator[LocalEngine | RayEngine]":
    """What makes the parts: a model in this process, or in each of the actors of a cluster."""
    from hub_scripts.embedding.engine import LocalEngine

    if cluster is None:
        yield LocalEngine(settings, corpus)
        return
    with ray_cluster(cluster.address):
        from hub_scripts.embedding.ray_engine import RayEngine  # not before Ray was told how to behave

        with RayEngine(settings, corpus, source, cluster) as engine:
            yield engine


def _embed(
    rows: _Rows,
    out: Path,
    settings: ModelSettings,
    kept: Kept,
    cluster: RayOptions | None,
    tell: Callable[[str], None] | None,
) -> EmbeddedTable:
    with _writing(out):
        source, corpus = rows.open(tell)
        made_of = rows.made_of(source, settings)
        with _engine(settings, corpus, source, cluster) as engine:
            return _make_index(engine, out, made_of, kept, skip_errors=rows.on_error == "skip")


def _make_index(
    engine: "LocalEngine | RayEngine", out: Path, made_of: dict[str, Any], kept: Kept, skip_errors: bool
) -> EmbeddedTable:
    from hub_scripts.embedding.index import write_index
    from hub_scripts.embedding.model_record import begin_shards

    started = time.perf_counter()
    parts, record = _beside(out, "parts"), engine.record
    said = kept.of_model(record)
    begin_shards(parts, record, made_of)
    options = {"made_by": json.dumps(record["probe"]), "shard_rows": made_of["part_rows"]}
    files, num_embedded = engine.embed(parts, skip_errors=skip_errors, **options)
    record |= said
    num_rows, num_skipped = write_index(out, files, _beside(out, "skipped.jsonl"), record)
    for file in [*parts.glob("*.arrow"), parts / RECORD]:
        file.unlink()
    with contextlib.suppress(OSError):  # there may be something else in it
        parts.rmdir()
    seconds = time.perf_counter() - started
    return EmbeddedTable(num_rows, num_embedded, seconds, num_skipped, record)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("embed", __doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="CoMa model or adapter: a folder, or a name on the Hub")
    add(
        "data",
        metavar="INPUTS",
        help="folder, or .pdf, .txt, .csv, .tsv, .jsonl, .json, .parquet or .tar",
    )
    add("out", metavar="OUT", type=Path, help="file to be made, or where it is not *.parquet a folder of them")
    add("--text-column", metavar="NAME", help="column with texts (default: text, if there is one)")
    add("--image-column", metavar="NAME", help="column with images (default: image, if there is one)")
    add("--video-column", metavar="NAME", help="column with videos (default: video, if there is one)")
    add("--id-column", metavar="NAME", help="column that names rows (default: id, or else the number of the row)")
    add("--image-root", metavar="FOLDER", type=Path, help="where paths begin (default: at the folder of the table)")
    add("--dims", type=positive, metavar="N", help="how many of the first numbers are kept (default: all)")
    add("--any-dims", action="store_true", help="--dims that the model was not trained for, as well")
    add("--precision", choices=PRECISIONS, default="float32", metavar="NAME", help=", ".join(PRECISIONS))
    several = "first states of a row that are kept as well, to be searched by MaxSim"
    add("--vectors", type=positive, metavar="N", help=several)
    add("--any-vectors", action="store_true", help="--vectors that the model was not trained for, as well")
    add("--memory", action="store_true", help="keep what questions are answered from, for coma ask")
    add("--any-memory", action="store_true", help="--memory of a model that was not trained for it, as well")
    on_error = "raise or skip, for rows that cannot be embedded (default: raise)"
    add("--on-error", choices=("raise", "skip"), default="raise", metavar="HOW", help=on_error)
    add_table_options(parser)
    add_encode_options(parser, part_rows=2048)
    reduced = "decode JPEG at a reduced scale, where it leaves twice what is seen"
    add("--reduced-jpeg", action="store_true", help=reduced)
    add = parser.add_argument_group("many machines").add_argument
    add("--engine", choices=ENGINES, default="local", help="local is this machine alone (default: %(default)s)")
    add("--address", help="auto or HOST:6379 (default: a cluster is started here)")
    add("--num-actors", type=positive, metavar="N", help="models (default: one per GPU, or per machine)")
    add("--gpus-per-actor", type=number_within(0, math.inf), metavar="N", help="of each (default: 1, where there are)")
    return parser
