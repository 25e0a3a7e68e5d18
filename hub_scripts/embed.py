"""Embeds a corpus to a Parquet file: a folder of images, a text file with a row per line, or a table.

Tables end with .csv, .tsv, .jsonl, .json or .parquet and have columns `text`, `image` (a path; in Parquet also the
bytes of a file), or both; a row with both shows the image first. The result has the rows in the order of the input.

It is made in parts, in the folder OUT.parts. After an interruption the same command goes on where it was: parts whose
rows are the same are kept. Parts of another model or corpus are refused, as is a folder of that name that is nobody's.
A row that cannot be embedded is an error with its number and its file, unless it is to be skipped: then
OUT.skipped.jsonl says which rows are not there, and why.

  coma embed my-coma photos/ photos.parquet
  coma embed my-coma products.csv products.parquet --text-column title --image-column file --image-root images/
  coma embed my-coma crawl.jsonl crawl.parquet --on-error skip --dtype bfloat16
"""

import argparse
import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.arguments import add_model_options, command_parser, positive
from hub_scripts.common.terminal import one_line
from hub_scripts.embedding.parts import PartsFolder


if TYPE_CHECKING:
    import pyarrow as pa

    from modeling_coma import ComaForEmbedding, ComaProcessor
    from trainers.data.corpus import Corpus


__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Runs `coma embed`; returns the exit code."""
    arguments = _parser().parse_args(argv)

    from trainers.files import one_writer

    with one_writer(arguments.out):
        _embed(arguments)
    return 0


def _embed(arguments: argparse.Namespace) -> None:
    from hub_scripts.common.loading import load_model
    from hub_scripts.embedding.index import join_parts
    from trainers.data.corpus import Columns, open_corpus

    parts = PartsFolder.of(arguments.out)
    parts.check_free()
    columns = Columns(arguments.id_column, arguments.text_column, arguments.image_column)
    corpus = open_corpus(arguments.inputs, columns, arguments.image_root)
    if corpus.left_alone:
        print(f"{corpus.left_alone} files of {one_line(arguments.inputs)} are no images and are left alone")
    model, processor = load_model(arguments.model, arguments.dtype, arguments.device)
    started = time.perf_counter()
    metadata = _metadata(arguments, model, processor)
    parts.begin({**metadata, **_settings(arguments)})
    files, embedded = _embed_parts(arguments, corpus, model, processor, parts.folder, metadata)
    rows, skipped = join_parts(files, arguments.out, parts.skipped, metadata)
    parts.remove()
    seconds = time.perf_counter() - started
    print(f"{rows} rows of {model.config.hidden_size} numbers in {one_line(arguments.out)}")
    print(f"{embedded} embedded now, in {seconds:.1f} s: {embedded / seconds:.1f} a second")
    if skipped:
        print(f"{skipped} rows skipped, listed in {one_line(parts.skipped)}")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("embed", __doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="CoMa model or adapter: a folder, or a name on the Hub")
    add("inputs", metavar="INPUTS", type=Path, help="folder of images, .txt, .csv, .tsv, .jsonl, .json or .parquet")
    add("out", metavar="OUT", type=Path, help="Parquet file to be made")
    add("--text-column", metavar="NAME", help="column with texts (default: text, if there is one)")
    add("--image-column", metavar="NAME", help="column with images (default: image, if there is one)")
    add("--id-column", metavar="NAME", help="column that names rows (default: id, or else the number of the row)")
    add("--image-root", metavar="FOLDER", type=Path, help="where paths begin (default: at the folder of the table)")
    add("--batch-tokens", type=positive, default=16384, metavar="N", help="tokens of a batch (default: %(default)s)")
    add("--part-rows", type=positive, default=2048, metavar="N", help="rows of a part (default: %(default)s)")
    add("--on-error", choices=("raise", "skip"), default="raise", help="for rows that cannot be embedded")
    workers = min(8, (os.cpu_count() or 1) // 2)
    add("--workers", type=int, default=workers, metavar="N", help="processes that decode (default here: %(default)s)")
    add_model_options(parser)
    return parser


def _metadata(arguments: argparse.Namespace, model: "ComaForEmbedding", processor: "ComaProcessor") -> dict[str, Any]:
    from hub_scripts.cli import coma_version
    from hub_scripts.hub.clean_load import library_versions
    from hub_scripts.hub.golden import identity

    return {
        **identity(arguments.model, model, processor),
        "dim": model.config.hidden_size,
        "versions": {"coma": coma_version(), **library_versions()},
    }


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What else the parts depend on."""
    root = arguments.image_root
    return {
        "inputs": os.path.abspath(arguments.inputs),
        "columns": [arguments.id_column, arguments.text_column, arguments.image_column],
        "image_root": None if root is None else os.path.abspath(root),
        "part_rows": arguments.part_rows,
    }


def _embed_parts(
    arguments: argparse.Namespace,
    corpus: "Corpus",
    model: "ComaForEmbedding",
    processor: "ComaProcessor",
    parts: Path,
    metadata: dict[str, Any],
) -> tuple[list[Path], int]:
    """Makes the parts that are not there yet; returns all of them, and how many rows were embedded."""
    from transformers.utils import logging

    from hub_scripts.embedding.index import part_is_good, write_part

    files, embedded = [], 0
    with logging.tqdm(total=corpus.num_rows, desc="Embedding", unit="row", smoothing=0.05) as progress:
        for start in range(0, corpus.num_rows, arguments.part_rows):
            rows = corpus.read(start, min(start + arguments.part_rows, corpus.num_rows))
            digest = _digest(rows, metadata)
            files.append(parts / f"{start:012d}.parquet")
            if part_is_good(files[-1], digest, with_errors=arguments.on_error == "skip"):
                progress.total -= len(rows)
                continue
            table = _embed_rows(arguments, rows, start, model, processor, progress)
            write_part(files[-1], table, digest)
            embedded += table["error"].null_count
    return files, embedded


def _embed_rows(
    arguments: argparse.Namespace,
    rows: list[dict],
    first_row: int,
    model: "ComaForEmbedding",
    processor: "ComaProcessor",
    progress: Any,
) -> "pa.Table":
    import torch

    from hub_scripts.embedding.index import index_table
    from trainers.encoding.encode import encode_batches

    unfit = _unfit(rows, first_row)
    # What cannot be embedded is reported among the failures, as all others are.
    items = [
        None if place in unfit else {"image": row["image"], "text": row["text"]} for place, row in enumerate(rows)
    ]
    embeddings, errors = torch.zeros(len(rows), model.config.hidden_size), {}
    options = {"batch_tokens": arguments.batch_tokens, "num_workers": arguments.workers, "first_row": first_row}
    try:
        for batch in encode_batches(model, processor, items, **options):
            for place, reason in batch.failures.items():
                errors[place] = _with_path(unfit.get(place, reason), rows[place]["path"])
            if errors and arguments.on_error == "raise":
                reason = errors[min(errors)]
                raise ValueError(
                    f"{reason.rstrip('.?')}. Mend it and go on by the same command, or add --on-error skip."
                )
            embeddings[batch.rows] = batch.embeddings
            progress.update(len(batch.rows) + len(batch.failures))
    except torch.OutOfMemoryError as error:
        hint = f"Go on by the same command with fewer --batch-tokens than {arguments.batch_tokens}."
        raise MemoryError(hint) from error
    return index_table(first_row, rows, embeddings, errors)


def _unfit(rows: list[dict], first_row: int) -> dict[int, str]:
    """What is wrong with rows before anybody looks at their images, by place."""
    reasons = {}
    for place, row in enumerate(rows):
        names = [name for name in ("id", "text", "path") if not _is_unicode(row[name])]
        if row["error"] is not None:  # whoever read it knows why
            reasons[place] = row["error"]
        elif names:
            what = "a file name" if names[0] == "path" else f"the {names[0]}"
            reasons[place] = f"Row {first_row + place}: {what} is not UTF-8 and cannot be stored: {row[names[0]]!r}."
    return reasons


def _is_unicode(text: str | None) -> bool:
    """Whether a text can be written to a file; not so with halves of surrogate pairs, or bytes of other encodings."""
    try:
        (text or "").encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _with_path(reason: str, path: str | None) -> str:
    """What is wrong with a row, and with which file."""
    return reason if path is None or path in reason else f"{reason.removesuffix('.')}; the image is {path!r}."


def _digest(rows: list[dict], metadata: dict[str, Any]) -> str:
    """What a part is made of: the model, its settings, the texts, and the images or the state of their files."""
    settings = {**metadata, "model": None, "versions": None}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for row in rows:
        image = row["image"]
        if isinstance(image, str):
            image = f"{image} {_state(image)}".encode("utf-8", "surrogatepass")
        digest.update(json.dumps([row["id"], row["text"], row["error"]]).encode())
        digest.update(image or b"")
    return digest.hexdigest()


def _state(image: str) -> tuple[int, int] | None:
    """Differs when the content of a file does."""
    try:
        state = os.stat(image)
    except (OSError, ValueError):  # it is not there, or this is no path
        return None
    return state.st_size, state.st_mtime_ns
