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
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.arguments import (
    PAIR_COLUMNS,
    Dtype,
    add_column_options,
    add_encode_options,
    add_table_options,
    command_parser,
    instructions_by_source,
    number_within,
    positive,
    take_text_format,
    whole,
)
from hub_scripts.common.terminal import one_line


if TYPE_CHECKING:
    from datasets import Dataset

    from trainers.data.text_format import TextFormat
    from trainers.mining.mine import MiningSettings
    from trainers.mining.pairs import PairIndex


__all__ = ["main", "mine_negatives"]

MOST = 0.5  # of the rows; with fewer negatives than that, training on them is hardly training on hard negatives


def main(argv: list[str]) -> int:
    """Runs `coma mine`; returns the exit code."""
    arguments = vars(_parser().parse_args(argv))
    arguments["text_format"] = take_text_format(arguments)
    columns = {name: arguments.pop(name) for name in PAIR_COLUMNS}
    report = mine_negatives(columns=columns, **arguments)
    sys.stdout.writelines(f"{one_line(line)}\n" for line in _lines(report))
    out = arguments["out"]
    print(f"written    {one_line(out)}; the same numbers in {one_line(_report_file(out))}")
    return 0


def mine_negatives(  # noqa: PLR0913 - what can be set
    model: str | Path,
    data: "str | Path | Dataset",
    out: str | Path,
    *,
    columns: Mapping[str, str | None] | None = None,
    instructions: Mapping[str, str] | None = None,
    image_root: str | Path | None = None,
    batch_tokens: int | None = None,
    part_rows: int = 8192,
    num_workers: int = 0,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_image_pixels: int | None = None,
    text_format: "TextFormat | None" = None,
    **settings: float | None,
) -> dict[str, Any]:
    r"""
    Adds hard negatives to pairs, as `coma mine` does; after an interruption the same call goes on.

    Args:
        model (`str` or `Path`): CoMa model or adapter: a folder, or a name on the Hub.
        data (`str`, `Path` or `Dataset`): pairs: a table, a folder of `save_to_disk`, a data set, or `"emoji"`.
        out (`str` or `Path`): folder to be made.
        columns (`dict[str, str]`, *optional*): columns of a table, as in [`~trainers.data.pairs.PairColumns`].
        instructions (`dict[str, str]`, *optional*): of queries, by source.
        image_root (`str` or `Path`, *optional*): where paths of images begin; by default at the folder of the table.
        batch_tokens (`int`, *optional*): most tokens of a batch; by default the fastest of a few sizes, tried on the
            first queries.
        part_rows (`int`, *optional*, defaults to 8192): rows that are lost at most by an interruption.
        num_workers (`int`, *optional*, defaults to 0): processes that decode images.
        dtype, device (`str`, *optional*, defaults to `"auto"`): precision, and where to compute.
        max_image_pixels (`int`, *optional*): images with more are refused; by default as the model has it.
        text_format (`TextFormat`, *optional*): encoding and separator of a table; by default what is found by looking.
        settings: what a hard negative is: `number`, `depth`, `skip`, `relative_margin`, `absolute_margin`, `max_score`
            of [`~trainers.mining.mine.MiningSettings`].

    Returns:
        `dict`: the report that is beside the folder, as in [`~trainers.mining.mine.Mined`], and `warnings`: where
            most rows found no negative, a sentence on why, and what to change.

    Raises:
        ValueError: for a bad row, settings that make no sense, and files that are there and not from this call.
        OSError: if a file cannot be written.

    Example:

        >>> report = mine_negatives("my-coma", "pairs.csv", "mined", columns={"query_text": "question"}, number=8)
        >>> report["rows_with_fewer"]
    """
    from hub_scripts.common.folders import new_folder
    from hub_scripts.common.loading import load_model
    from trainers.files import one_writer, write_record
    from trainers.mining.mine import MiningSettings

    what = MiningSettings(**settings)
    options = {"batch_tokens": batch_tokens, "num_workers": num_workers, "shard_rows": part_rows}
    if part_rows < 1:
        raise ValueError(f"part_rows={part_rows} must be 1 or more.")
    model, out = str(model), Path(out)
    parts = out.with_name(f"{out.name}.parts")
    with one_writer(out):
        _check_report(_report_file(out))
        with new_folder(out) as folder:
            dataset = _load(data, columns or {}, image_root, text_format)
            index = _index(dataset, instructions)
            coma = load_model(model, dtype, device, max_image_pixels)
            options["made_by"] = _begin(parts, model, coma, {"data": _known_as(data), "instructions": instructions})
            rows, found = _mine(dataset, index, instructions, what, coma, parts, options)
            rows.save_to_disk(folder)
        shutil.rmtree(parts)
        report = {"model": model, **vars(what), **found, "warnings": _warnings(what, found)}
        write_record(_report_file(out), report)
    return report


def _begin(parts: Path, model: str, coma: tuple, made_of: dict[str, Any]) -> str:
    """Begins the folder of embeddings, or goes on in it; gives what the model is known by."""
    from hub_scripts.embedding.model_record import begin_shards, model_record

    record = model_record(model, coma)
    begin_shards(parts, record, made_of)
    return json.dumps(record["probe"])


def _known_as(data: "str | Path | Dataset") -> str:
    return str(data) if isinstance(data, str | Path) else data._fingerprint


def _report_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.report.json")


def _check_report(file: Path) -> None:
    """Raises `ValueError` if a file is there that no `coma mine` has written."""
    from trainers.files import read_record

    what = "report of coma mine"
    if file.exists() and not {"rows_by_number", "too_near", "mined"} <= read_record(file, what).keys():
        raise ValueError(f"{file} is there already and is no {what}: move it, or give another OUT.")


def _load(
    data: "str | Path | Dataset",
    columns: Mapping[str, str | None],
    image_root: str | Path | None,
    text_format: "TextFormat | None" = None,
) -> "Dataset":
    from hub_scripts.common.training import EMOJI, emoji_styles
    from trainers.data.emoji import emoji_pairs, load_emoji
    from trainers.data.pairs import PairColumns, load_pairs
    from trainers.data.tables import refuse_format

    if isinstance(data, str) and data == EMOJI:
        refuse_format(text_format, EMOJI)
        return emoji_pairs(load_emoji(emoji_styles(evaluation=False)))
    return load_pairs(data, PairColumns(**columns), image_root, text_format=text_format)


def _index(dataset: "Dataset", instructions: Mapping[str, str] | None) -> "PairIndex":
    from trainers.contrastive.sources import check_named
    from trainers.data.images import without_decoding
    from trainers.mining.pairs import index_pairs

    index = index_pairs(without_decoding(dataset), instructions)
    check_named(instructions or (), index.sources, "--instructions")
    return index


def _mine(
    dataset: "Dataset",
    index: "PairIndex",
    instructions: Mapping[str, str] | None,
    settings: "MiningSettings",
    coma: tuple,
    parts: Path,
    options: dict[str, Any],
) -> tuple["Dataset", dict[str, Any]]:
    """The rows with their negatives, and the report; what is made on the way is written to `parts`."""
    from trainers.data.images import without_decoding
    from trainers.encoding.encoder import Encoder
    from trainers.encoding.shards import EmbeddingShards, ShardRows, embed_in_shards
    from trainers.mining.mine import add_negatives, mine
    from trainers.mining.pairs import PairItems

    encoder = Encoder(*coma, **{name: options.pop(name) for name in ("batch_tokens", "num_workers")})
    embeddings = []
    for name, places in (("queries", index.query_places), ("documents", index.document_places)):
        rows = ShardRows.of(PairItems(without_decoding(dataset), places, instructions))
        files, _ = embed_in_shards(encoder, rows, parts / name, description=name.capitalize(), **options)
        embeddings.append(EmbeddingShards.open(files))
    mined = mine(index, *embeddings, settings, encoder.model.device)
    return add_negatives(dataset, index, mined.documents, parts / "rows.arrow"), mined.report


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
    add_table_options(parser)
    add_column_options(parser)
    add_encode_options(parser, part_rows=8192)
    return parser


def _warnings(settings: "MiningSettings", report: Mapping[str, Any]) -> list[str]:
    """A sentence if most rows found nothing: how many, the setting that was in the way, and what to change."""
    without = report["rows"] - report["rows_with_mined"]
    if without <= MOST * report["rows"]:
        return []
    found_none = f"{without} of {report['rows']} rows found no negative"
    if not report["kept_out_by"]:
        return [f"{found_none}: there is no document of their source that is no known positive or negative of theirs."]
    name, rows = max(report["kept_out_by"].items(), key=lambda item: item[1])
    option, value = f"--{name.replace('_', '-')}", report["would_help"][name]
    reason = f"in {rows} of them {option} {getattr(settings, name)} keeps out all of the {settings.depth} nearest"
    change = f"with {option} {value} half of these would find one"
    if name == "absolute_margin" and value < 0:  # which it cannot be
        change = f"leave {option} out"
    further = min(10 * settings.depth, report["documents"])
    deeper = f"; look further, --depth {further}" if further > settings.depth else ""
    return [f"{found_none}: {reason}. What to do: {change}{deeper}; or mine with a model that finds the positives."]


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
        *(f"WARNING    {sentence}" for sentence in report["warnings"]),
    ]
