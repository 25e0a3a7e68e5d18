"""Evaluates a model: on MMEB-v1, on the pictures and visual documents of MMEB-V2, or on pairs of your own.

DATA is a folder with a subfolder or a file per set of MMEB (ImageNet-1K/*.parquet; ViDoRe_docvqa/ with queries, qrels
and corpus), a table of pairs with the columns query and positive, or a name on the Hub. "visdoc" is all sets of visual
documents on the Hub, "emoji" the packaged pictures of a drawing style that is not trained on. If sets are missing,
they are named and nothing is evaluated; --sets chooses some.

Every unique input is embedded once. FOLDER gets a file of scores per set, and results.json with the means that the
benchmark defines. After an interruption the same command goes on after the last set that was finished. Started by
`accelerate launch` or `torchrun`, the processes share the work.

  coma evaluate my-coma MMEB-eval/ --output results --image-root eval_images/
  coma evaluate my-coma MMEB-eval/ --output results --sets ImageNet-1K,MSCOCO_t2i
  coma evaluate my-coma visdoc --output results --dtype bfloat16
  coma evaluate demo/model emoji --output results
  coma evaluate my-coma pairs.jsonl --output results --instruction "shop=Find the product."
  torchrun --nproc-per-node 8 -m hub_scripts.cli evaluate my-coma MMEB-eval/ --output results
"""

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.arguments import add_model_options, command_parser, positive


if TYPE_CHECKING:
    from accelerate import PartialState

    from hub_scripts.evaluation_data import NamedSet
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Runs `coma evaluate`; returns the exit code."""
    arguments = _parser().parse_args(argv)
    instructions = _instructions(arguments.instruction)

    from accelerate import PartialState
    from transformers.utils import logging

    from hub_scripts.evaluation_data import open_sets
    from hub_scripts.evaluation_results import model_settings, write_results
    from hub_scripts.loading import load_model

    chosen = set(arguments.sets.split(",")) if arguments.sets else None
    sets = open_sets(arguments.data, chosen, arguments.image_root, instructions, arguments.among_all)
    state = PartialState(cpu=arguments.device == "cpu")
    device = str(state.device) if state.num_processes > 1 else arguments.device
    if not state.is_main_process:
        logging.disable_progress_bar()
    model, processor = load_model(arguments.model, arguments.dtype, device)
    settings = model_settings(arguments.model, model, processor)
    settings |= {"instructions": {source or "": text for source, text in instructions.items()}}
    settings |= {"candidates": "all" if arguments.among_all else "own"}
    for number, one in enumerate(sets, 1):
        if state.is_main_process:
            print(f"{one.name} ({number} of {len(sets)})", flush=True)
        _evaluate(one, model, processor, settings, arguments, state)
    if state.is_main_process:
        print(write_results(arguments.output, sets, settings, model))
    state.destroy_process_group()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("evaluate", __doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="CoMa model or adapter: a folder, or a name on the Hub")
    add("data", metavar="DATA", nargs="+", help="folders, tables or names on the Hub")
    add("--output", metavar="FOLDER", type=Path, required=True, help="for the results; an old one is continued")
    add("--sets", metavar="NAMES", help="sets to evaluate, with commas between them (default: all)")
    add("--image-root", metavar="FOLDER", type=Path, help="where paths of pictures begin (default: at the folder)")
    add(
        "--among-all",
        action="store_true",
        help="pictures: rank among the candidates of all rows (default: of its own)",
    )
    add("--instruction", metavar="SOURCE=TEXT", action="append", default=[],
        help="pairs: what stands before queries of a source; =TEXT for those without; repeatable")  # fmt: skip
    add("--batch-tokens", type=positive, default=16384, metavar="N", help="tokens of a batch (default: %(default)s)")
    workers = min(8, (os.cpu_count() or 1) // 2)
    add("--workers", type=int, default=workers, metavar="N", help="processes that decode (default here: %(default)s)")
    add_model_options(parser)
    return parser


def _instructions(words: list[str]) -> dict[str | None, str]:
    pairs = [word.partition("=") for word in words]
    if bad := [word for word, (_, sign, text) in zip(words, pairs, strict=True) if not (sign and text)]:
        raise ValueError(f"--instruction {bad[0]!r} is not SOURCE=TEXT.")
    return {source or None: text for source, _, text in pairs}


def _evaluate(
    one: "NamedSet",
    model: "ComaForEmbedding",
    processor: "ComaProcessor",
    settings: dict[str, Any],
    arguments: argparse.Namespace,
    state: "PartialState",
) -> None:
    """Embeds and scores a set on all processes together, unless its scores are there."""
    from accelerate.utils import broadcast_object_list

    from hub_scripts.evaluation_results import is_finished, write_scores
    from trainers.evaluation import score_set
    from trainers.shared_encoding import embed_shared

    task = one.read()
    settings = {**settings, "data": task.digest}
    finished = [state.is_main_process and is_finished(arguments.output, one, settings)]
    if broadcast_object_list(finished)[0]:
        if state.is_main_process:
            print("  is finished already")
        return
    started = time.perf_counter()
    options = {"batch_tokens": arguments.batch_tokens, "num_workers": arguments.workers, "description": one.name}
    embeddings = embed_shared(model, processor, task.items, **options)
    if state.is_main_process:
        scores = score_set(task, embeddings)
        write_scores(arguments.output, one, scores, settings)
        seconds = time.perf_counter() - started
        rate = f"{len(task.items)} inputs in {seconds:.1f} s, {len(task.items) / seconds:.1f} a second"
        print(f"  {one.metric} {100 * scores[one.metric]:.1f}%  {rate}", flush=True)
