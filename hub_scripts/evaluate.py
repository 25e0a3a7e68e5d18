"""Evaluates a model: on MMEB-v1, on the images, videos and visual documents of MMEB-V2, or on pairs of your own.

DATA is a folder with a subfolder or a file per set of MMEB (ImageNet-1K/*.parquet; ViDoRe_docvqa/ with queries, qrels
and corpus), a clone of MMEB-V2 with its videos, a table of pairs, whose columns are named as in `coma mine` or are
query and positive, or a name on the Hub. "visdoc" and "video" are all sets of a kind on the Hub, "emoji" the packaged
images of a style that is not trained on. Missing sets are named and nothing is evaluated; --sets chooses some.

Every unique input is embedded once. FOLDER gets a file of scores per set, and results.json with the means that the
benchmark defines. After an interruption the same command goes on after the last set that was finished; what another
model or other settings have left there is refused. A row that cannot be read is an error; of pairs, --on-bad-row skip
leaves it out, and the results say of how many rows they are not. --vectors 4 scores besides by MaxSim of the first
four states of a document and as many of a query as the model was trained with (late_interaction_budgets). Started by
`accelerate launch` or `torchrun`, the processes share the work.

  coma evaluate my-coma MMEB-eval/ --output results --image-root eval_images/ --sets ImageNet-1K,MSCOCO_t2i
  coma evaluate my-coma visdoc --output results --dtype bfloat16
  coma evaluate my-coma MMEB-V2/ --output results                             # its 18 sets of videos
  coma evaluate demo/model emoji --output results
  coma evaluate my-coma pairs.csv --output results --query-text question --positive-image image
  coma evaluate my-coma pairs.jsonl --output results --instruction "shop=Find the product."
  coma evaluate my-coma pairs.jsonl --output results --html results.html      # queries, and what they found
  torchrun --nproc-per-node 8 --no-python coma evaluate my-coma MMEB-eval/ --output results
"""

import argparse
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hub_scripts.common.arguments import (
    PAIR_COLUMNS,
    add_batch_tokens,
    add_column_options,
    add_model_options,
    add_table_options,
    command_parser,
    positive,
    take_text_format,
    whole,
)
from hub_scripts.common.terminal import one_line


if TYPE_CHECKING:
    from accelerate import PartialState

    from hub_scripts.evaluation.data import NamedSet, PairOptions
    from hub_scripts.evaluation.files import ResultsFolder
    from hub_scripts.evaluation.page import ResultsPage
    from modeling_coma import ComaForEmbedding, ComaProcessor
    from trainers.data.text_format import TextFormat


__all__ = ["evaluate_model", "main"]


def main(argv: list[str]) -> int:
    """Runs `coma evaluate`; returns the exit code."""
    arguments = _parser().parse_args(argv)
    options = vars(arguments)
    options["text_format"] = take_text_format(options)
    options["instructions"] = _instructions(options.pop("instruction"))
    options["sets"] = options["sets"].split(",") if options["sets"] else None
    options["vectors"] = options["vectors"].split(",") if options["vectors"] else ()
    options["columns"] = {name: options.pop(name) for name in PAIR_COLUMNS}

    from accelerate import PartialState
    from transformers.utils import logging

    from hub_scripts.evaluation.table import results_table

    state = PartialState(cpu=arguments.device == "cpu")
    if not state.is_main_process:
        logging.disable_progress_bar()
    results = evaluate_model(**options, tell=lambda line: print(one_line(line), flush=True))
    if state.is_main_process:
        lines = [*results_table(results), f"results  {arguments.output / 'results.json'}"]
        lines += [f"page     {arguments.html}"] if arguments.html else []
        print(*map(one_line, lines), sep="\n")
    state.destroy_process_group()
    return 0


def evaluate_model(  # noqa: PLR0913 - what can be set
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    sets: Collection[str] | None = None,
    columns: Mapping[str, str | None] | None = None,
    image_root: str | Path | None = None,
    among_all: bool = False,
    instructions: dict[str | None, str] | None = None,
    on_bad_row: Literal["raise", "skip"] = "raise",
    html: str | Path | None = None,
    vectors: Sequence[int | str] = (),
    any_vectors: bool = False,
    batch_tokens: int | None = None,
    num_workers: int = 0,
    dtype: str = "auto",
    device: str = "auto",
    max_image_pixels: int | None = None,
    text_format: "TextFormat | None" = None,
    video_root: str | Path | None = None,
    video_frames: int = 8,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    r"""
    Scores a model on MMEB or on pairs, as `coma evaluate` does. Every process of a distributed run calls it.

    Args:
        model (`str` or `Path`):
            A CoMa model or adapter: a folder, or a name on the Hub.
        data (`str`, `Path`, or a list of them):
            Folders, tables, names on the Hub, `"video"`, `"visdoc"` or `"emoji"`.
        output (`str` or `Path`):
            Folder for the results; an old one is continued.
        sets (`Collection[str]`, *optional*):
            Names of the sets to evaluate, by default all.
        columns (`dict[str, str]`, *optional*):
            Columns of tables of pairs, as in [`~trainers.data.pairs.PairColumns`]. Rows that have `query` and
            `positive` need none.
        image_root (`str` or `Path`, *optional*):
            Where paths of images begin, by default at the folder.
        among_all (`bool`, *optional*, defaults to `False`):
            Rank images among the candidates of all rows, not of their own.
        instructions (`dict`, *optional*):
            What stands before the queries of pairs, by their `source`; `None` is for rows without one.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves bad rows out of pairs, counted.
        html (`str` or `Path`, *optional*):
            File for a page of some queries of each set with what they found, images and all. Sets that are finished
            are embedded once more for it.
        vectors (`Sequence[int or str]`, *optional*):
            Budgets of several vectors, which are scored by MaxSim beside the one vector: how many states of a
            document, with as many of a query as in the training, or `"2x4"`, two of a query and four of a document.
        any_vectors (`bool`, *optional*, defaults to `False`):
            Whether to take budgets that the model was not trained for, as well.
        batch_tokens (`int`, *optional*):
            Most tokens of a batch; by default the fastest of a few sizes, tried on the first inputs of each set.
        num_workers (`int`, *optional*, defaults to 0):
            Processes that decode images.
        dtype, device (`str`, *optional*, defaults to `"auto"`):
            Precision, and where to compute.
        max_image_pixels (`int`, *optional*):
            Images with more are refused; by default as the model has it.
        text_format (`TextFormat`, *optional*):
            Of tables of pairs that are text; by default what is found by looking.
        video_root (`str` or `Path`, *optional*):
            The folder `video-tasks` of MMEB-V2, where the frames of its videos are; by default it is in the folder.
        video_frames (`int`, *optional*, defaults to 8):
            How many frames of a video of MMEB-V2 are shown.
        tell (`Callable`, *optional*):
            Is given a line about each set, on the main process.

    Returns:
        `dict`: what `results.json` in the folder has: `metadata`, `metrics` by modality and set, and `means`.

    Raises:
        ValueError: for data that are not there or bad, missing sets, a model that is none or was not trained for so
            many vectors, and a folder with results of another model, other data or other settings.

    Example:

        >>> results = evaluate_model("my-coma", "shop.jsonl", "shop-results")
        >>> results["metrics"]["retrieval"]["shop"]["hit@1"]
    """
    from hub_scripts.evaluation.data import PairOptions, open_sets
    from hub_scripts.evaluation.video_data import Footage

    model, data = str(model), map(str, [data] if isinstance(data, str | Path) else data)
    pairs = PairOptions(columns=columns, instructions=instructions, on_bad_row=on_bad_row, text_format=text_format)
    footage = Footage(root=video_root, num_frames=video_frames)
    named_sets = open_sets(data, sets, image_root, among_all, pairs=pairs, footage=footage)
    with _begun(output, device) as state:
        coma = _load(model, dtype, device, max_image_pixels, state)
        budgets = _on_main(state, lambda: _budgets(model, coma[0], vectors, any_vectors))
        settings = _settings_of_data(among_all, pairs, max_image_pixels, budgets)
        folder = _folder(output, model, coma, settings, named_sets, state)
        page = None if html is None else _on_main(state, lambda: _page(html, model, coma[1]))
        options = {"skip_bad_rows": on_bad_row == "skip", "batch_tokens": batch_tokens, "num_workers": num_workers}
        run = _Run(coma=coma, options=options, budgets=budgets, folder=folder, page=page, state=state, tell=tell)
        return run.results(named_sets)


@contextmanager
def _begun(output: str | Path, device: str) -> "Iterator[PartialState]":
    """The processes, while nobody else writes into the folder for results."""
    from accelerate import PartialState

    from trainers.files import one_writer

    state = PartialState(cpu=device == "cpu")
    with ExitStack() as stack:

        def hold() -> None:
            stack.enter_context(one_writer(output))

        _on_main(state, hold)
        yield state


def _load(
    model: str, dtype: str, device: str, max_image_pixels: int | None, state: "PartialState"
) -> "tuple[ComaForEmbedding, ComaProcessor]":
    """The model; of several processes each has it where it computes."""
    from hub_scripts.common.loading import load_model

    return load_model(model, dtype, str(state.device) if state.num_processes > 1 else device, max_image_pixels)


def _folder(
    output: str | Path,
    name: str,
    coma: "tuple[ComaForEmbedding, ComaProcessor]",
    of_data: dict[str, Any],
    named_sets: "list[NamedSet]",
    state: "PartialState",
) -> "ResultsFolder":
    from hub_scripts.evaluation.files import ResultsFolder, model_settings

    _check_frames(named_sets, coma[1].max_video_frames)
    folder = ResultsFolder(output, model_settings(name, *coma) | of_data)
    _on_main(state, lambda: folder.check(named_sets))
    return folder


def _check_frames(named_sets: "list[NamedSet]", most: int) -> None:
    """Raises `ValueError` for a set that shows more frames of a video than the processor takes: it would leave out."""
    for one in named_sets:
        if (shown := one.shown.get("video_frames", 0)) > most:
            told = f"{one.name} shows {shown} frames of a video, and the model takes {most} (max_video_frames)"
            raise ValueError(f"{told}: pass --video-frames {most}, or give the model more.")


def _budgets(
    name: str, model: "ComaForEmbedding", vectors: Sequence[int | str], any_vectors: bool
) -> dict[str, tuple[int, int]]:
    """Budgets of several vectors that the model was trained for, by what they are called."""
    from hub_scripts.hub.trained_dims import checked_budgets

    if any_vectors and not vectors:
        raise ValueError("--any-vectors (any_vectors=True) says that --vectors N may be any: give them, too.")
    found = checked_budgets(name, vectors, model.config.num_compression_tokens, any_vectors)
    return {f"{queries}x{documents}": (queries, documents) for queries, documents in found}


def _settings_of_data(
    among_all: bool, pairs: "PairOptions", max_image_pixels: int | None, budgets: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    """What scores depend on beside the model and the data; which rows are left out, if any is."""
    settings = {"candidates": "all" if among_all else "own"}
    settings["instructions"] = {source or "": text for source, text in (pairs.instructions or {}).items()}
    settings |= {"vectors": list(budgets)} if budgets else {}
    limit = {} if max_image_pixels is None else {"max_image_pixels": max_image_pixels}
    return settings | ({"on_bad_row": "skip", **limit} if pairs.on_bad_row == "skip" else {})


def _page(html: str | Path, model: str, processor: "ComaProcessor") -> "ResultsPage":
    from hub_scripts.evaluation.page import ResultsPage

    return ResultsPage(html, Path(model).name if Path(model).exists() else model, processor.max_image_pixels)


class _Run(NamedTuple):
    """
    What every set is evaluated with, on all processes together.

    Args:
        coma (`tuple[ComaForEmbedding, ComaProcessor]`): the model.
        options (`dict`): how it embeds, as in [`~trainers.evaluation.retrieval.embed_set`].
        budgets (`dict[str, tuple[int, int]]`): budgets of several vectors, by what they are called.
        folder ([`ResultsFolder`]): where scores go.
        page ([`ResultsPage`], *optional*): where queries go with what they found.
        state (`PartialState`): the processes.
        tell (`Callable`, *optional*): is given a line about each set, on the main process.
    """

    coma: "tuple[ComaForEmbedding, ComaProcessor]"
    options: dict[str, Any]
    budgets: dict[str, tuple[int, int]]
    folder: "ResultsFolder"
    page: "ResultsPage | None"
    state: "PartialState"
    tell: Callable[[str], None] | None

    def results(self, named_sets: "list[NamedSet]") -> dict[str, Any]:
        """Evaluates sets, and puts the scores of all of them together."""
        for number, named_set in enumerate(named_sets, 1):
            self.say(f"{named_set.name} ({number} of {len(named_sets)})")
            self.evaluate(named_set)
        return _on_main(self.state, lambda: self.write(named_sets))

    def say(self, line: str) -> None:
        if self.tell and self.state.is_main_process:
            self.tell(line)

    def evaluate(self, named_set: "NamedSet") -> None:
        """Embeds and scores a set, unless its scores are there and no page needs more."""
        from trainers.evaluation.retrieval import embed_set, score_set

        retrieval, page, budgets = named_set.read(), self.page, self.budgets
        digest, number = retrieval.digest, len(retrieval.items)
        is_finished = _on_main(self.state, lambda: self.folder.read_scores(named_set, digest) is not None)
        if is_finished:
            self.say(f"  is finished already{'' if page is None else ', and embedded again for the page'}")
        if is_finished and page is None:
            return
        started = time.perf_counter()
        options = {"description": one_line(named_set.name), **self.options}
        options["num_vectors"] = max(map(max, budgets.values()), default=0) or None
        retrieval, vectors, left_out = embed_set(retrieval, *self.coma, **options)
        embeddings = vectors[:, 0] if budgets else vectors
        for reason in left_out:
            self.say(f"  left out: {reason}")
        if page is not None:
            _on_main(self.state, lambda: page.add(named_set.name, retrieval, embeddings))
        if is_finished:
            return
        scores = score_set(retrieval, embeddings)
        if budgets:
            scores["vectors"] = {name: score_set(retrieval, vectors[:, 1:], pair) for name, pair in budgets.items()}
        _on_main(self.state, lambda: self.folder.write_scores(named_set, scores, digest))
        seconds = time.perf_counter() - started
        rate = f"{number} inputs in {seconds:.1f} s, {number / seconds:.1f} a second"
        self.say(f"  {named_set.metric} {100 * scores[named_set.metric]:.1f}%  {rate}")

    def write(self, named_sets: "list[NamedSet]") -> dict[str, Any]:
        """Writes the results, and the page."""
        from hub_scripts.evaluation.table import results_table

        results = self.folder.write_results(named_sets, self.coma[0])
        if self.page is not None:
            self.page.write(results_table(results))
        return results


def _on_main(state: "PartialState", act: Callable[[], Any]) -> Any:
    """What a function returns on the main process; if it fails there, the others end, and that one says why."""
    from accelerate.utils import broadcast_object_list

    answer, error = None, None
    if state.is_main_process:
        try:
            answer = act()
        except ValueError as raised:
            error = raised
    answer, is_done = broadcast_object_list([answer, error is None])
    if error is not None:
        raise error
    if not is_done:
        raise SystemExit(1)
    return answer


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("evaluate", __doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="CoMa model or adapter: a folder, or a name on the Hub")
    add("data", metavar="DATA", nargs="+", help="folders, tables or names on the Hub")
    add("--output", metavar="FOLDER", type=Path, required=True, help="for the results; an old one is continued")
    add("--sets", metavar="NAMES", help="sets to evaluate, with commas between them (default: all)")
    add("--image-root", metavar="FOLDER", type=Path, help="where paths of images begin (default: at the folder)")
    add(
        "--video-root",
        metavar="FOLDER",
        type=Path,
        help="video-tasks of MMEB-V2, with its frames (default: in DATA)",
    )
    add("--video-frames", metavar="N", type=positive, default=8, help="frames of a video of MMEB-V2 (default: 8)")
    among_all = "images: rank among the candidates of all rows (default: of its own)"
    add("--among-all", action="store_true", help=among_all)
    instruction = "pairs: before queries of a source; =TEXT for those without; repeatable"
    add("--instruction", metavar="SOURCE=TEXT", action="append", default=[], help=instruction)
    add("--on-bad-row", choices=("raise", "skip"), default="raise", help="pairs: skip leaves bad rows out, counted")
    add("--html", metavar="FILE", type=Path, help="a page of some queries with what they found")
    several = "states of a document, or of a query and a document, as 1,2x4: MaxSim"
    add("--vectors", metavar="N,QxN", help=several)
    add("--any-vectors", action="store_true", help="--vectors that the model was not trained for, as well")
    add_batch_tokens(parser)
    default = min(8, (os.cpu_count() or 1) // 2)
    workers = f"processes that decode (default here: {default})"
    add("--workers", dest="num_workers", type=whole, default=default, metavar="N", help=workers)
    add_table_options(parser)
    add_model_options(parser)
    add_column_options(parser)
    return parser


def _instructions(words: list[str]) -> dict[str | None, str]:
    pairs = [word.partition("=") for word in words]
    if bad := [word for word, (_, sign, text) in zip(words, pairs, strict=True) if not (sign and text)]:
        raise ValueError(f"--instruction {bad[0]!r} is not SOURCE=TEXT.")
    sources = [source for source, _, _ in pairs]
    if twice := [source for place, source in enumerate(sources) if source in sources[:place]]:
        raise ValueError(f"--instruction is given twice for the source {twice[0]!r}.")
    return {source or None: text for source, _, text in pairs}
