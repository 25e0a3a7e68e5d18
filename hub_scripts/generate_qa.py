"""Writes multi-turn questions and answers about images, from the images alone: what `coma pretrain` trains on.

A vision-language model is asked for questions that cover the image, and then answers them turn by turn in one
conversation. It runs on any server that speaks like OpenAI's (vLLM, TGI, Ollama, a paid one), which takes the extra
`qa` (pip install "coma-embedding[qa]"), or on this machine.

  coma generate-qa photos/ dialogues.jsonl --server http://localhost:8000/v1 --model Qwen/Qwen2.5-VL-7B-Instruct
  coma generate-qa photos/ dialogues.jsonl --server https://api.example.com/v1 --model m --api-key-file key.txt
  coma generate-qa photos/ dialogues.jsonl --local Qwen/Qwen2.5-VL-3B-Instruct --batch-size 16
  coma generate-qa photos/ captions.jsonl --format caption --local my-backbone

OUT has a row for every image, in their order: `id`, `images` (a path), `messages`. It grows row by row; after an
interruption of any kind the same command goes on where it was. Images without a dialogue are in OUT.failed.jsonl,
with the reason, and are tried again with --retry-failed. OUT.report.json says what was written.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.arguments import DTYPES, add_table_options, command_parser, positive, take_text_format
from hub_scripts.common.terminal import one_line
from trainers.data.qa.prompts import FORMATS, QAFormat


if TYPE_CHECKING:
    from trainers.data.corpus import Columns, Corpus
    from trainers.data.qa.chat import Chat
    from trainers.data.qa.generation import Source
    from trainers.data.text_format import TextFormat


__all__ = ["generate_dialogues", "main"]

AT_ONE_TIME = 256  # rows that are read from a table
OF_A_SERVER = ("model", "concurrency", "requests_per_second", "timeout", "retries", "backoff", "max_wait")
OF_THIS_MACHINE = ("batch_size", "max_pixels", "dtype", "device")


def main(argv: list[str]) -> int:
    """Runs `coma generate-qa`; returns the exit code."""
    parser = _parser()
    arguments = vars(parser.parse_args(argv))
    if (arguments["server"] is None) != ("model" not in arguments):
        parser.error("--server and --model go together: --model is the name by which the server knows it")
    if "turns" in arguments and arguments["format"] != "multi-turn":
        parser.error(f"--turns is for the format multi-turn; {arguments['format']} has one")
    arguments["text_format"] = take_text_format(arguments)
    key_file = arguments.pop("api_key_file")
    for name in OF_THIS_MACHINE if arguments["local"] is None else OF_A_SERVER:
        arguments.pop(name, None)
    if key_file is not None and arguments["local"] is None:
        arguments["api_key"] = _read_key(key_file)

    from trainers.data.qa.report import report_lines

    started = time.perf_counter()
    report = generate_dialogues(**arguments, tell=lambda line: print(one_line(line)))
    seconds, out = time.perf_counter() - started, one_line(arguments["out"])
    print(*map(one_line, report_lines(report)), sep="\n")
    print(f"written      {out}, in {seconds:.1f} s; the same numbers in {out}.report.json")
    if report["rows"]["failed"]:
        print(f"failed       {out}.failed.jsonl says why; --retry-failed tries them again")
    if not report["rows"]["good"]:
        raise ValueError(f"None of the {report['rows']['failed']} images has a dialogue: {report['failures']}")
    return 0


def generate_dialogues(  # noqa: PLR0913 - what can be set
    inputs: str | Path,
    out: str | Path,
    *,
    server: str | None = None,
    local: str | None = None,
    format: QAFormat = "multi-turn",
    turns: tuple[int, int] = (3, 5),
    max_question: int = 300,
    max_answer: int = 2000,
    attempts: int = 3,
    seed: int = 0,
    retry_failed: bool = False,
    id_column: str | None = None,
    image_column: str | None = None,
    image_root: str | Path | None = None,
    max_image_pixels: int | None = None,
    text_format: "TextFormat | None" = None,
    tell: Callable[[str], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    r"""
    Has a vision-language model write dialogues about images, as `coma generate-qa` does: rows of stage 1. What is in
    the file already is kept, so that the same call goes on after an interruption.

    Args:
        inputs (`str` or `Path`):
            A folder of images, or a table with a column of them.
        out (`str` or `Path`):
            JSON lines with the rows; beside it are `OUT.failed.jsonl`, `OUT.stats.jsonl` and `OUT.report.json`.
        server (`str`, *optional*):
            Address of a server, up to and with the version. It goes with the option `model`.
        local (`str`, *optional*):
            Instead of a server, a model for this machine: a folder, or a name on the Hub.
        format (`str`, *optional*, defaults to `"multi-turn"`):
            Or `"single-turn"`, `"caption"`, `"description"`.
        turns (`tuple[int, int]`, *optional*, defaults to `(3, 5)`):
            At least and at most so many, of multi-turn dialogues.
        max_question, max_answer (`int`, *optional*, defaults to 300 and 2000):
            Most characters of each.
        attempts (`int`, *optional*, defaults to 3):
            How often the model may try to write something good.
        seed (`int`, *optional*, defaults to 0):
            Of what is drawn.
        retry_failed (`bool`, *optional*, defaults to `False`):
            Try failed images again, after the others.
        id_column, image_column, image_root (*optional*):
            Of a table: the columns with names of rows and with images, and where paths begin.
        max_image_pixels (`int`, *optional*):
            Images with more get no dialogue; by default 89478485.
        text_format (`TextFormat`, *optional*):
            Encoding and separator of a table of text; by default what is found by looking.
        tell (`Callable`, *optional*):
            Is given a line for a person, if files are left alone.
        options:
            Of a server those of [`~trainers.data.qa.server.ServerSettings`]: `model`, `api_key`, `temperature`,
            `max_tokens`, `concurrency` …; of this machine those of
            [`~trainers.data.qa.local.LocalChat.from_pretrained`]: `batch_size`, `max_pixels`, `dtype`, `device` …

    Returns:
        `dict`: what `OUT.report.json` has, numbers about all rows that were ever written there.

    Raises:
        ValueError: for inputs that are not those of the file or cannot be read, settings that make no sense or are
            not those that the file was begun with, and a server that refuses every request.
        ConnectionError: for a server that is gone.

    Example:

        >>> report = generate_dialogues("photos/", "captions.jsonl", server="http://localhost:8000/v1", model="m",
        ...                             format="caption")
        >>> report["rows"]
        {'good': 120, 'failed': 2}
    """
    from trainers.data.corpus import Columns
    from trainers.data.qa import generation
    from trainers.data.qa.dialogue import QASettings
    from trainers.data.qa.filters import Limits
    from trainers.data.qa.output import QAOutput
    from trainers.data.qa.report import write_report

    if (server is None) == (local is None):
        raise ValueError("Give the address of a server, or a model for this machine: one of `server` and `local`.")
    settings = QASettings(format, *turns, Limits(max_question, max_answer), attempts, seed, max_image_pixels)
    corpus = _open(inputs, Columns(id_column, None, image_column), image_root, text_format, tell)

    async def write() -> None:
        async with _open_chat(server, local, options) as chat:
            with QAOutput(Path(out), {**settings.fingerprint, **chat.fingerprint}) as output:
                await generation.write_dialogues(_sources(corpus), chat, output, settings, corpus.num_rows)
                if retry_failed and not all(written.good for written in output.written()):
                    await generation.retry_failed(_sources(corpus), chat, output, settings, corpus.num_rows)

    _run(write())
    return write_report(Path(out))


def _open(
    inputs: str | Path,
    columns: "Columns",
    image_root: str | Path | None,
    text_format: "TextFormat | None",
    tell: Callable[[str], None] | None,
) -> "Corpus":
    """The images, after it is said which files are none."""
    from trainers.data.corpus import open_corpus

    corpus = open_corpus(Path(inputs), columns, image_root, text_format, videos=False)
    if corpus.left_alone and tell is not None:
        tell(corpus.left_alone)
    return corpus


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Runs to the end; in a notebook, where a loop is running already, in a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


def _open_chat(server: str | None, local: str | None, options: dict[str, Any]) -> AbstractAsyncContextManager["Chat"]:
    if local is not None:
        from trainers.data.qa.local import LocalChat

        return nullcontext(LocalChat.from_pretrained(local, **options))
    from trainers.data.qa.server import ServerChat, ServerSettings

    return ServerChat(ServerSettings(server, **options))


def _sources(corpus: "Corpus") -> Iterator["Source"]:
    from trainers.data.qa.generation import Source

    for start in range(0, corpus.num_rows, AT_ONE_TIME):
        for row in corpus.read(start, min(start + AT_ONE_TIME, corpus.num_rows)):
            yield Source(row["id"], row["image"], row["error"])


def _read_key(file: Path) -> str:
    """The key in a file. What is wrong with it is said without showing it."""
    try:
        key = file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text with a key in it.") from error
    if not key:
        raise ValueError(f"{file} is empty, and there should be a key in it.")
    return key


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("generate-qa", __doc__)
    add = parser.add_argument
    add("inputs", metavar="INPUTS", type=Path, help="folder of images, or a .csv, .tsv, .jsonl or .parquet")
    add("out", metavar="OUT", type=Path, help="JSON lines to be made, or to be gone on with")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--server", metavar="URL", help="a server, up to and with the version: http://localhost:8000/v1")
    who.add_argument("--local", metavar="MODEL", help="a Qwen-VL model: folder, or name on the Hub")
    add("--format", choices=FORMATS, default="multi-turn", help="what is written (default: %(default)s)")
    add("--max-question", type=positive, default=300, metavar="N", help="its characters (default: %(default)s)")
    add("--max-answer", type=positive, default=2000, metavar="N", help="its characters (default: %(default)s)")
    add("--attempts", type=positive, default=3, metavar="N", help="to write something good (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: %(default)s)")
    add("--retry-failed", action="store_true", help="try failed images again, after the others")
    add("--image-column", metavar="NAME", help="column with images (default: image)")
    add("--id-column", metavar="NAME", help="column that names rows (default: id, or else the number of the row)")
    add("--image-root", metavar="FOLDER", type=Path, help="where paths begin (default: at the folder of the table)")
    add("--max-image-pixels", type=positive, metavar="N", help="images with more have failed (default: 89478485)")
    add_table_options(parser)
    add = partial(add, default=argparse.SUPPRESS)  # the defaults of these are those of what they are given to
    add("--turns", type=positive, nargs=2, metavar=("MIN", "MAX"), help="of multi-turn (default: 3 5)")
    add("--temperature", type=float, metavar="T", help="of the model (default: 0.7 of a server, 0 here)")
    add("--max-tokens", type=positive, metavar="N", help="of a reply (default: 1024)")
    group = parser.add_argument_group("a server")
    group.add_argument("--api-key-file", metavar="FILE", type=Path, help="file with the key, if it wants one")
    add = partial(group.add_argument, default=argparse.SUPPRESS)
    add("--model", metavar="NAME", help="name by which the server knows the model")
    add("--concurrency", type=positive, metavar="N", help="requests at one time (default: 16)")
    add("--requests-per-second", type=float, metavar="R", help="most requests that are begun in a second")
    add("--timeout", type=float, metavar="S", help="seconds for a reply (default: 120)")
    add("--retries", type=int, metavar="N", help="of a request that failed (default: 6)")
    add("--backoff", type=float, metavar="S", help="seconds before the first one (default: 0.5)")
    max_wait = "seconds that a server may ask to be left alone; an image has failed if it asks for more (default: 300)"
    add("--max-wait", type=float, metavar="S", help=max_wait)
    add = partial(parser.add_argument_group("this machine").add_argument, default=argparse.SUPPRESS)
    add("--batch-size", type=positive, metavar="N", help="conversations (default: 8)")
    add("--max-pixels", type=positive, metavar="N", help="images are shrunk to this (default: as it is)")
    add("--dtype", choices=DTYPES, help="precision; auto, the default, is that of the checkpoint")
    add("--device", help="for instance cpu or cuda:1; auto, the default, takes an accelerator")
    return parser
