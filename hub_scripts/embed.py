"""Embeds a corpus to a Parquet file: a folder of images, a text file with a row per line, or a table.

Tables end with .csv, .tsv, .jsonl, .json or .parquet and have columns `text`, `image` (a path; in Parquet also the
bytes of a file), or both; a row with both shows the image first. The result has the rows in the order of the input.
Where OUT does not end with .parquet it is a folder of such files, part-00000.parquet and so on.

It is made in parts, in the folder OUT.parts. After an interruption the same command goes on where it was: parts whose
rows are the same are kept. Parts of another model or corpus are refused, as is a folder of that name that is nobody's.
A row that cannot be embedded is an error with its number and its file, unless it is to be skipped: then
OUT.skipped.jsonl says which rows are not there, and why.

Vectors can be small. --dims keeps the first numbers of each, where the model was trained for that (matryoshka_dims);
--precision keeps numbers in 16 bits, in 8, or as signs, with 8 bits for the best of those. The ranges of 8 bits are
those of this corpus; the parts have whole vectors in float32, are gone through twice, and fit any of these options.

  coma embed my-coma photos/ photos.parquet
  coma embed my-coma products.csv products.parquet --text-column title --image-column file --image-root images/
  coma embed my-coma crawl.jsonl crawl.parquet --on-error skip --dtype bfloat16
  coma embed my-coma crawl.jsonl crawl/ --dims 256 --precision ubinary
"""

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hub_scripts.common.arguments import (
    PRECISIONS,
    Dtype,
    Precision,
    add_encode_options,
    add_table_options,
    command_parser,
    positive,
    take_text_format,
)
from hub_scripts.common.terminal import one_line
from trainers.files import RECORD


if TYPE_CHECKING:
    from trainers.data.corpus import Corpus
    from trainers.data.text_format import TextFormat
    from trainers.encoding.shards import Part


__all__ = ["EmbeddedTable", "embed_table", "main"]


WAY_OUT = "Mend it and go on by the same command, or add --on-error skip."


class EmbeddedTable(NamedTuple):
    """
    What [`embed_table`] has done.

    Args:
        num_rows (`int`): rows of the file, each with an embedding.
        num_embedded (`int`): rows that were embedded now, and not before an interruption.
        seconds (`float`): how long that took, without loading the model.
        num_skipped (`int`): rows that could not be embedded; they are listed in `OUT.skipped.jsonl`.
        model (`dict`): what the file has in its metadata about the model, and of its vectors `dims` and `precision`.
    """

    num_rows: int
    num_embedded: int
    seconds: float
    num_skipped: int
    model: dict[str, Any]


def main(argv: list[str]) -> int:
    """Runs `coma embed`; returns the exit code."""
    arguments = _parser().parse_args(argv)
    options = vars(arguments)
    options["text_format"] = take_text_format(options)
    made = embed_table(**options, tell=lambda line: print(one_line(line), flush=True))
    kept = f"{made.model['dims']} numbers" + (f" ({arguments.precision})" if arguments.precision != "float32" else "")
    print(f"{made.num_rows} rows of {kept} in {one_line(arguments.out)}")
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
    id_column: str | None = None,
    image_root: str | Path | None = None,
    dims: int | None = None,
    any_dims: bool = False,
    precision: Precision = "float32",
    on_error: Literal["raise", "skip"] = "raise",
    batch_tokens: int = 16384,
    part_rows: int = 2048,
    num_workers: int = 0,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_image_pixels: int | None = None,
    text_format: "TextFormat | None" = None,
    tell: Callable[[str], None] | None = None,
) -> EmbeddedTable:
    r"""
    Embeds a corpus to a Parquet file, or a folder of such, as `coma embed` does; after an interruption the same call
    goes on.

    Args:
        model (`str` or `Path`): CoMa model or adapter: a folder, or a name on the Hub.
        data (`str` or `Path`): a folder of images, or a .txt, .csv, .tsv, .jsonl, .json or .parquet file.
        out (`str` or `Path`): the file to be made; a folder of files, if its name does not end with `.parquet`.
        text_column, image_column (`str`, *optional*): columns of a table; by default `text` and `image`.
        id_column (`str`, *optional*): column that names rows; by default `id`, or else the number of the row.
        image_root (`str` or `Path`, *optional*): where paths of images begin; by default at the folder of the table.
        dims (`int`, *optional*): how many of the first numbers of an embedding are kept, of length 1 again; by default
            all. The model must have been trained for them, by its record of the training.
        any_dims (`bool`, *optional*, defaults to `False`): whether to cut where it was not, as well.
        precision (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"float16"`, `"int8"` or `"ubinary"`, in
            which numbers are kept; the last two need sentence-transformers. All of them are searched by
            [`~hub_scripts.search.search_index`].
        on_error (`str`, *optional*, defaults to `"raise"`): `"skip"` leaves out rows that cannot be embedded.
        batch_tokens (`int`, *optional*, defaults to 16384): most tokens of a batch.
        part_rows (`int`, *optional*, defaults to 2048): rows that are lost at most by an interruption.
        num_workers (`int`, *optional*, defaults to 0): processes that decode images.
        dtype, device (`str`, *optional*, defaults to `"auto"`): precision, and where to compute.
        max_image_pixels (`int`, *optional*): images with more are refused; by default as the model has it.
        text_format (`TextFormat`, *optional*): encoding and separator of a table; by default what is found by looking.
        tell (`Callable`, *optional*): is given a line for a person, if files are left alone.

    Returns:
        [`EmbeddedTable`]

    Raises:
        ValueError: for a row that cannot be embedded, for files that are there already and not from this call, and for
            dimensions that the model was not trained for.
        ImportError: if there is no sentence-transformers for a precision that needs it.
        OSError: if a file cannot be written.

    Example:

        >>> made = embed_table("my-coma", "photos/", "photos.parquet")
        >>> made.num_rows
    """
    from hub_scripts.common.loading import load_model
    from hub_scripts.hub.trained_dims import checked_dims
    from trainers.data.corpus import Columns, open_corpus
    from trainers.files import one_writer

    _check_choices(on_error, part_rows, precision)
    model, out, columns = str(model), Path(out), Columns(id_column, text_column, image_column)
    made_of = {"inputs": os.path.abspath(data), "columns": list(columns), "part_rows": part_rows}
    made_of["image_root"] = image_root and os.path.abspath(image_root)
    # It decides which rows are in the parts.
    made_of |= {"max_image_pixels": max_image_pixels} if max_image_pixels is not None and on_error == "skip" else {}
    options = {"batch_tokens": batch_tokens, "num_workers": num_workers, "skip_errors": on_error == "skip"}
    with one_writer(out):
        _check_free(out)
        corpus = open_corpus(Path(data), columns, image_root, text_format)
        if corpus.left_alone and tell is not None:
            tell(corpus.left_alone)
        coma = load_model(model, dtype, device, max_image_pixels)
        dims = checked_dims(model, dims, coma[0].config.hidden_size, any_dims)
        return _embed(corpus, out, model, coma, made_of, options, {"dims": dims, "precision": precision})


def _check_choices(on_error: str, part_rows: int, precision: str) -> None:
    """Raises for what can be known to be wrong before anything is read."""
    from hub_scripts.embedding.precision import VectorForm

    if on_error not in ("raise", "skip") or part_rows < 1:
        raise ValueError(f"on_error={on_error!r} is raise or skip, and part_rows={part_rows} 1 or more.")
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is none of {', '.join(PRECISIONS)}.")
    if VectorForm(1, precision).needs_ranges:  # which only the last step would import
        import sentence_transformers  # noqa: F401


def _check_free(out: Path) -> None:
    """Raises `ValueError` for what would be overwritten, before a model is loaded; what was begun has a record."""
    is_begun = (_beside(out, "parts") / RECORD).exists()
    for path in [out] if is_begun else [out, _beside(out, "skipped.jsonl")]:
        if os.path.lexists(path):
            raise ValueError(f"{path} is there already, and nothing is overwritten: remove it or give another OUT.")


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name}.{ending}")


def _embed(
    corpus: "Corpus",
    out: Path,
    name: str,
    coma: tuple,
    made_of: dict[str, Any],
    options: dict[str, Any],
    kept: dict[str, Any],
) -> EmbeddedTable:
    from hub_scripts.embedding.index import write_index
    from hub_scripts.embedding.model_record import begin_shards
    from trainers.encoding.shards import ShardRows, embed_in_shards

    started = time.perf_counter()
    parts = _beside(out, "parts")
    record = begin_shards(parts, name, coma, made_of)
    options |= {"made_by": json.dumps(record["probe"]), "shard_rows": made_of["part_rows"]}
    rows = ShardRows(corpus.num_rows, partial(_read_part, corpus), way_out=WAY_OUT)
    files, num_embedded = embed_in_shards(*coma, rows, parts, **options)
    record |= kept
    num_rows, num_skipped = write_index(out, files, _beside(out, "skipped.jsonl"), record)
    for file in [*parts.glob("*.arrow"), parts / RECORD]:
        file.unlink()
    with contextlib.suppress(OSError):  # there may be something else in it
        parts.rmdir()
    seconds = time.perf_counter() - started
    return EmbeddedTable(num_rows, num_embedded, seconds, num_skipped, record)


def _read_part(corpus: "Corpus", start: int, stop: int) -> "Part":
    """Rows of a corpus with what the index has of them. A row that cannot be stored is the reason why."""
    from trainers.encoding.shards import Part

    rows = corpus.read(start, stop)
    columns = {"row": list(range(start, stop)), "id": _column(rows, "id"), "text": _column(rows, "text")}
    items = [_item(number, row) for number, row in enumerate(rows, start)]
    return Part(items, {**columns, "image": _column(rows, "path")})


def _column(rows: list[dict[str, Any]], name: str) -> list[str | None]:
    return [row[name] for row in rows]


def _item(number: int, row: dict[str, Any]) -> dict[str, Any] | ValueError:
    if row["error"] is not None:  # whoever read it knows why
        return ValueError(row["error"])
    for column, name in (("id", "the id"), ("text", "the text"), ("path", "a file name")):
        try:
            (row[column] or "").encode("utf-8")
        except UnicodeEncodeError:  # a half of a surrogate pair, or bytes of another encoding
            return ValueError(f"Row {number}: {name} is not UTF-8 and cannot be stored: {row[column]!r}.")
    return {"image": row["image"], "text": row["text"]}


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("embed", __doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="CoMa model or adapter: a folder, or a name on the Hub")
    add("data", metavar="INPUTS", type=Path, help="folder of images, .txt, .csv, .tsv, .jsonl, .json or .parquet")
    add("out", metavar="OUT", type=Path, help="file to be made, if it ends with .parquet, else a folder of such files")
    add("--text-column", metavar="NAME", help="column with texts (default: text, if there is one)")
    add("--image-column", metavar="NAME", help="column with images (default: image, if there is one)")
    add("--id-column", metavar="NAME", help="column that names rows (default: id, or else the number of the row)")
    add("--image-root", metavar="FOLDER", type=Path, help="where paths begin (default: at the folder of the table)")
    add("--dims", type=positive, metavar="N", help="how many of the first numbers are kept (default: all)")
    add("--any-dims", action="store_true", help="--dims that the model was not trained for, as well")
    kept = "in which vectors are kept (default: %(default)s)"
    add("--precision", choices=PRECISIONS, default="float32", help=kept)
    add("--on-error", choices=("raise", "skip"), default="raise", help="for rows that cannot be embedded")
    add_table_options(parser)
    add_encode_options(parser, part_rows=2048)
    return parser
