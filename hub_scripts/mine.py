"""Adds hard negatives to pairs: documents that a model finds close to a query and that are not its answer.

DATA is what `coma finetune` reads: a table whose columns are named, a folder of `Dataset.save_to_disk`, or emoji. OUT
is a folder of the same rows with `negatives`, for `coma finetune` to train on; negatives that are there already stay.
A negative comes from the same source as its query, is no known positive of it (of an equal query, or of its `group`),
and is not as near as the positive: its score is at most p - M·|p|, where p is that of the positive.

  coma mine my-coma pairs.csv mined/ --query-text question --positive-image image
  coma mine my-coma pairs/ mined/ --number 8 --depth 200 --skip 5 --relative-margin 0.1
  coma finetune --model my-coma --data mined/ --output_dir out

Embeddings are kept in OUT.parts until all is done; after an interruption the same command goes on where it was, and
one with another model or other data is refused. OUT.report.json and the last lines say how many rows got fewer
negatives than was wanted. One process at a time writes OUT.
"""

import argparse
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.arguments import (
    add_model_options,
    command_parser,
    instructions_by_source,
    number_within,
    positive,
    whole,
)
from hub_scripts.common.terminal import one_line
from trainers.files import begin_folder, write_record


if TYPE_CHECKING:
    from datasets import Dataset

    from modeling_coma import ComaForEmbedding, ComaProcessor
    from trainers.mining.mine import MiningSettings
    from trainers.mining.pairs import PairIndex


__all__ = ["main"]

COLUMNS = [f"{side}_{kind}" for side in ("query", "positive", "negative") for kind in ("text", "image")]
COLUMNS += ["source", "group"]


def main(argv: list[str]) -> int:
    """Runs `coma mine`; returns the exit code."""
    arguments = _parser().parse_args(argv)

    from hub_scripts.common.folders import new_folder
    from trainers.files import one_writer
    from trainers.mining.mine import MiningSettings

    names = ("number", "depth", "skip", "relative_margin", "absolute_margin", "max_score")
    settings = MiningSettings(**{name: getattr(arguments, name) for name in names})
    report_file = arguments.out.with_name(f"{arguments.out.name}.report.json")
    parts = arguments.out.with_name(f"{arguments.out.name}.parts")
    with one_writer(arguments.out):
        _check_report(report_file)
        with new_folder(arguments.out) as folder:
            report = _mine(arguments, settings, folder, parts)
        shutil.rmtree(parts)
        write_record(report_file, {"model": arguments.model, **vars(settings), **report})
    sys.stdout.writelines(f"{one_line(line)}\n" for line in _lines(report))
    print(f"written    {one_line(arguments.out)}; the same numbers in {one_line(report_file)}")
    return 0


def _mine(arguments: argparse.Namespace, settings: "MiningSettings", folder: Path, parts: Path) -> dict[str, Any]:
    """Writes the rows with their negatives to a folder, and what is made on the way to `parts`."""
    from hub_scripts.common.loading import load_model
    from hub_scripts.hub.golden import identity
    from trainers.contrastive.sources import check_named
    from trainers.data.images import without_decoding
    from trainers.mining.mine import mine
    from trainers.mining.mined_rows import add_negatives
    from trainers.mining.pairs import index_pairs

    dataset = _load(arguments)
    index = index_pairs(without_decoding(dataset), arguments.instructions)
    check_named(arguments.instructions or (), index.sources, "--instructions")
    model, processor = load_model(arguments.model, arguments.dtype, arguments.device)
    made_by = identity(arguments.model, model, processor)
    begin_folder(parts, {**made_by, "data": arguments.data, "instructions": arguments.instructions})
    queries, documents = _embed(arguments, dataset, index, model, processor, parts, json.dumps(made_by))
    mined = mine(index, queries, documents, settings, model.device)
    try:
        add_negatives(dataset, index, mined.documents, parts / "rows.arrow").save_to_disk(folder)
    except OSError as error:
        raise ValueError(f"{arguments.out} cannot be written: {error}") from error
    return mined.report


def _check_report(file: Path) -> None:
    """Raises `ValueError` if a file is there that no `coma mine` has written."""
    if not file.exists():
        return
    try:
        ours = {"rows_by_number", "too_near", "mined"} <= json.loads(file.read_text(encoding="utf-8")).keys()
    except (ValueError, AttributeError):
        ours = False
    if not ours:
        raise ValueError(f"{file} is there already and is no report of coma mine: move it, or give another OUT.")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mine", __doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="CoMa model or adapter: a folder, or a name on the Hub")
    add("data", metavar="DATA", help="pairs: a table, a folder of save_to_disk, or emoji")
    add("out", metavar="OUT", type=Path, help="folder to be made")
    add("--number", type=positive, default=5, metavar="N", help="negatives of a row (default: %(default)s)")
    add("--depth", type=positive, default=100, metavar="N", help="nearest documents to look at (default: %(default)s)")
    add("--skip", type=whole, default=0, metavar="N", help="of these, the first to leave out (default: %(default)s)")
    margin = "M above; below 0, more than p is allowed (default: %(default)s)"
    any_number, distance, cosine = number_within(-math.inf, math.inf), number_within(0, 2), number_within(-1, 1)
    add("--relative-margin", type=any_number, default=0.05, metavar="M", help=margin)
    add("--absolute-margin", type=distance, metavar="A", help="scores are at most p - A (default: not looked at)")
    add("--max-score", type=cosine, metavar="S", help="scores are at most S (default: not looked at)")
    add(
        "--instructions",
        type=instructions_by_source,
        metavar="JSON",
        help='of queries by source, as in finetune: {"a": "Find it."}',
    )
    add("--image-root", metavar="FOLDER", help="where paths of images begin (default: at the folder of the table)")
    add("--batch-tokens", type=positive, default=16384, metavar="N", help="tokens of a batch (default: %(default)s)")
    add("--part-rows", type=positive, default=8192, metavar="N", help="rows of a part (default: %(default)s)")
    workers = min(8, (os.cpu_count() or 1) // 2)
    add(
        "--workers", type=whole, default=workers, metavar="N", help="processes that decode (default here: %(default)s)"
    )
    group = parser.add_argument_group("columns of a table")
    for name in COLUMNS:
        group.add_argument(f"--{name.replace('_', '-')}", metavar="NAME")
    add_model_options(parser)
    return parser


def _load(arguments: argparse.Namespace) -> "Dataset":
    from hub_scripts.common.training import EMOJI, emoji_styles
    from trainers.data.emoji import emoji_pairs, load_emoji
    from trainers.data.pairs import PairColumns, load_pairs

    if arguments.data == EMOJI:
        return emoji_pairs(load_emoji(emoji_styles(evaluation=False)))
    columns = PairColumns(**{name: getattr(arguments, name) for name in COLUMNS})
    return load_pairs(arguments.data, columns, arguments.image_root)


def _embed(
    arguments: argparse.Namespace,
    dataset: "Dataset",
    index: "PairIndex",
    model: "ComaForEmbedding",
    processor: "ComaProcessor",
    parts: Path,
    made_by: str,
) -> list[Any]:
    """Embeddings of the different queries and documents."""
    from trainers.data.images import without_decoding
    from trainers.encoding.shards import embed_in_shards
    from trainers.mining.pairs import PairItems

    raw = without_decoding(dataset)
    options = {"batch_tokens": arguments.batch_tokens, "num_workers": arguments.workers}
    options |= {"made_by": made_by, "shard_rows": arguments.part_rows}
    sides = {
        "Queries": (index.query_places, index.query_keys),
        "Documents": (index.document_places, index.document_keys),
    }
    found = []
    for name, (places, keys) in sides.items():
        items = PairItems(raw, places, arguments.instructions)
        folder = parts / name.lower()
        found.append(embed_in_shards(model, processor, items, keys, folder, description=name, **options))
    return found


def _lines(report: dict[str, Any]) -> list[str]:
    numbers = ", ".join(f"{rows} with {number}" for number, rows in report["rows_by_number"].items() if rows)
    fewer = f"{report['rows_with_fewer']} of {report['rows']} rows have fewer than {report['wanted']} mined negatives"
    scores = f"positives {report['mean_positive_score']}, negatives {report['mean_negative_score']}"
    scores += f", on average of the {report['rows_with_mined']} rows with mined negatives"
    without = f"{report['rows_without_negatives']} of {report['rows']} rows have no negatives at all"
    return [
        f"rows       {report['rows']} ({report['queries']} queries, {report['documents']} documents)",
        f"negatives  {report['mined']} ({numbers})",
        f"fewer      {fewer}" if report["rows_with_fewer"] else "fewer      none",
        f"without    {without}" if report["rows_without_negatives"] else "without    none",
        f"too near   {report['too_near']} documents that a margin has kept out",
        f"scores     {scores}" if report["rows_with_mined"] else "scores     none",
    ]
