"""Evaluates a model: on MMEB-v1, on the images and visual documents of MMEB-V2, or on pairs of your own.

DATA is a folder with a subfolder or a file per set of MMEB (ImageNet-1K/*.parquet; ViDoRe_docvqa/ with queries, qrels
and corpus), a table of pairs with the columns query and positive, or a name on the Hub. "visdoc" is all sets of visual
documents on the Hub, "emoji" the packaged images of a drawing style that is not trained on. If sets are missing,
they are named and nothing is evaluated; --sets chooses some.

Every unique input is embedded once. FOLDER gets a file of scores per set, and results.json with the means that the
benchmark defines. After an interruption the same command goes on after the last set that was finished; what another
model or other settings have left there is refused. A row that cannot be read is an error; of pairs, --on-bad-row skip
leaves it out, and the results say of how many rows they are not. Started by `accelerate launch` or `torchrun`, the
processes share the work.

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
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.arguments import add_model_options, command_parser, positive, whole
from hub_scripts.common.terminal import one_line


if TYPE_CHECKING:
    from accelerate import PartialState

    from hub_scripts.evaluation.data import NamedSet
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Runs `coma evaluate`; returns the exit code."""
    arguments = _parser().parse_args(argv)
    instructions = _instructions(arguments.instruction)

    from accelerate import PartialState
    from transformers.utils import logging

    from hub_scripts.evaluation.data import open_sets
    from trainers.files import one_writer

    chosen = set(arguments.sets.split(",")) if arguments.sets else None
    options = (arguments.image_root, instructions, arguments.among_all, arguments.on_bad_row)
    sets = open_sets(arguments.data, chosen, *options)
    state = PartialState(cpu=arguments.device == "cpu")
    if not state.is_main_process:
        logging.disable_progress_bar()
    with ExitStack() as stack:
        if not _on_main(state, lambda: stack.enter_context(one_writer(arguments.output))):
            return 1
        ended = _evaluate_all(sets, instructions, arguments, state)
    state.destroy_process_group()
    return ended


def _evaluate_all(
    sets: list["NamedSet"], instructions: dict[str | None, str], arguments: argparse.Namespace, state: "PartialState"
) -> int:
    from hub_scripts.common.loading import load_model
    from hub_scripts.evaluation.files import check_folder, model_settings, write_results

    device = str(state.device) if state.num_processes > 1 else arguments.device
    model, processor = load_model(arguments.model, arguments.dtype, device)
    settings = model_settings(arguments.model, model, processor)
    settings |= {"instructions": {source or "": text for source, text in instructions.items()}}
    settings |= {"candidates": "all" if arguments.among_all else "own"}
    if arguments.on_bad_row != "raise":
        settings["on_bad_row"] = arguments.on_bad_row
    if not _on_main(state, lambda: check_folder(arguments.output, sets, settings)):
        return 1
    for number, one in enumerate(sets, 1):
        if state.is_main_process:
            print(f"{one_line(one.name)} ({number} of {len(sets)})", flush=True)
        _evaluate(one, model, processor, settings, arguments, state)
    if state.is_main_process:
        lines = write_results(arguments.output, sets, settings, model).splitlines()
        print(*map(one_line, lines), sep="\n")
    return 0


def _on_main(state: "PartialState", act: Callable[[], Any]) -> bool:
    """Does something on the main process, which alone says what is wrong; whether the others may go on."""
    from accelerate.utils import broadcast_object_list

    error = None
    if state.is_main_process:
        try:
            act()
        except ValueError as why:
            error = why
    done = broadcast_object_list([error is None])[0]
    if error is not None:
        raise error
    return done


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("evaluate", __doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="CoMa model or adapter: a folder, or a name on the Hub")
    add("data", metavar="DATA", nargs="+", help="folders, tables or names on the Hub")
    add("--output", metavar="FOLDER", type=Path, required=True, help="for the results; an old one is continued")
    add("--sets", metavar="NAMES", help="sets to evaluate, with commas between them (default: all)")
    add("--image-root", metavar="FOLDER", type=Path, help="where paths of images begin (default: at the folder)")
    add(
        "--among-all",
        action="store_true",
        help="images: rank among the candidates of all rows (default: of its own)",
    )
    add("--instruction", metavar="SOURCE=TEXT", action="append", default=[],
        help="pairs: what stands before queries of a source; =TEXT for those without; repeatable")  # fmt: skip
    add("--on-bad-row", choices=("raise", "skip"), default="raise", help="pairs: skip leaves bad rows out, counted")
    add("--batch-tokens", type=positive, default=16384, metavar="N", help="tokens of a batch (default: %(default)s)")
    workers = min(8, (os.cpu_count() or 1) // 2)
    add(
        "--workers", type=whole, default=workers, metavar="N", help="processes that decode (default here: %(default)s)"
    )
    add_model_options(parser)
    return parser


def _instructions(words: list[str]) -> dict[str | None, str]:
    pairs = [word.partition("=") for word in words]
    if bad := [word for word, (_, sign, text) in zip(words, pairs, strict=True) if not (sign and text)]:
        raise ValueError(f"--instruction {bad[0]!r} is not SOURCE=TEXT.")
    sources = [source for source, _, _ in pairs]
    if twice := [source for place, source in enumerate(sources) if source in sources[:place]]:
        raise ValueError(f"--instruction is given twice for the source {twice[0]!r}.")
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

    from hub_scripts.evaluation.files import is_finished, write_scores
    from trainers.encoding.encode import embed_shared
    from trainers.evaluation.retrieval import score_set

    task = one.read()
    settings = {**settings, "data": task.digest}
    finished = [state.is_main_process and is_finished(arguments.output, one, settings)]
    if broadcast_object_list(finished)[0]:
        if state.is_main_process:
            print("  is finished already")
        return
    started = time.perf_counter()
    options = {
        "batch_tokens": arguments.batch_tokens,
        "num_workers": arguments.workers,
        "description": one_line(one.name),
    }
    failures: dict[int, str] | None = None if arguments.on_bad_row == "raise" else {}
    embeddings = embed_shared(model, processor, task.items, names=task.names, failures=failures, **options)
    skipped = one.rows_skipped()
    if failures:
        task, more = task.without(failures)
        skipped += more
        if state.is_main_process:
            print(*(f"  left out: {one_line(reason)}" for reason in failures.values()), sep="\n", flush=True)
    if state.is_main_process:
        scores = {**score_set(task, embeddings), **({"rows_skipped": skipped} if skipped else {})}
        write_scores(arguments.output, one, scores, settings)
        seconds = time.perf_counter() - started
        rate = f"{len(task.items)} inputs in {seconds:.1f} s, {len(task.items) / seconds:.1f} a second"
        print(f"  {one.metric} {100 * scores[one.metric]:.1f}%  {rate}", flush=True)
