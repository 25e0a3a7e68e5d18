"""Writes multi-turn questions and answers about images, from the images alone: what `coma pretrain` trains on.

A vision-language model is asked for questions that cover the image, and then answers them turn by turn in one
conversation. It runs on any server that speaks like OpenAI's (vLLM, TGI, Ollama, a paid one), or on this machine.
INPUTS is a folder of images or a table with a column of them, as for `coma embed`; its texts are left alone.

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
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.arguments import DTYPES, command_parser, positive
from hub_scripts.common.terminal import one_line
from trainers.data.qa.prompts import FORMATS


if TYPE_CHECKING:
    from trainers.data.corpus import Corpus
    from trainers.data.qa.chat import Chat
    from trainers.data.qa.dialogue import QASettings
    from trainers.data.qa.generation import Source


__all__ = ["main"]

AT_ONE_TIME = 256  # rows that are read from a table


def main(argv: list[str]) -> int:
    """Runs `coma generate-qa`; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if (arguments.server is None) != (arguments.model is None):
        parser.error("--server and --model go together: --model is the name by which the server knows it")
    if arguments.turns and arguments.format != "multi-turn":
        parser.error(f"--turns is for the format multi-turn; {arguments.format} has one")

    from trainers.data.corpus import Columns, open_corpus
    from trainers.data.qa.output import QAFiles
    from trainers.data.qa.report import report_lines, report_on

    corpus = open_corpus(
        arguments.inputs, Columns(arguments.id_column, None, arguments.image_column), arguments.image_root
    )
    if corpus.left_alone:
        print(f"{corpus.left_alone} files of {one_line(arguments.inputs)} are no images and are left alone")
    started = time.perf_counter()
    asyncio.run(_generate(arguments, corpus))
    report = report_on(QAFiles.of(arguments.out))
    report_file = arguments.out.with_name(f"{arguments.out.name}.report.json")
    report_file.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    sys.stdout.writelines(f"{one_line(line)}\n" for line in report_lines(report))
    seconds, out = time.perf_counter() - started, one_line(arguments.out)
    print(f"written      {out}, in {seconds:.1f} s; the same numbers in {one_line(report_file)}")
    if report["rows"]["failed"]:
        print(f"failed       {out}.failed.jsonl says why; --retry-failed tries them again")
    if not report["rows"]["good"]:
        raise ValueError(f"None of the {report['rows']['failed']} images has a dialogue: {report['failures']}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("generate-qa", __doc__)
    add = parser.add_argument
    add("inputs", metavar="INPUTS", type=Path, help="folder of images, or a .csv, .tsv, .jsonl or .parquet")
    add("out", metavar="OUT", type=Path, help="JSON lines to be made, or to be gone on with")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--server", metavar="URL", help="a server, up to and with the version: http://localhost:8000/v1")
    who.add_argument("--local", metavar="MODEL", help="Qwen2-VL, Qwen2.5-VL or Qwen3-VL: folder, or name on the Hub")
    add("--format", choices=FORMATS, default="multi-turn", help="what is written (default: %(default)s)")
    add("--turns", type=positive, nargs=2, metavar=("MIN", "MAX"), help="of multi-turn (default: 3 5)")
    add("--max-question", type=positive, default=300, metavar="N", help="its characters (default: %(default)s)")
    add("--max-answer", type=positive, default=2000, metavar="N", help="its characters (default: %(default)s)")
    add("--attempts", type=positive, default=3, metavar="N", help="to write something good (default: %(default)s)")
    add("--temperature", type=float, metavar="T", help="of the model (default: 0.7 of a server, 0 here)")
    add("--max-tokens", type=positive, default=1024, metavar="N", help="of a reply (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: %(default)s)")
    add("--retry-failed", action="store_true", help="try failed images again, after the others")
    add("--image-column", metavar="NAME", help="column with images (default: image)")
    add("--id-column", metavar="NAME", help="column that names rows (default: id, or else the number of the row)")
    add("--image-root", metavar="FOLDER", type=Path, help="where paths begin (default: at the folder of the table)")
    _add_server_options(parser.add_argument_group("a server"))
    local = parser.add_argument_group("this machine")
    local.add_argument("--batch-size", type=positive, default=8, metavar="N", help="conversations (default: 8)")
    local.add_argument(
        "--max-pixels", type=positive, metavar="N", help="images are shrunk to this (default: as it is)"
    )
    local.add_argument("--dtype", choices=DTYPES, default="auto", help="precision; auto is that of the checkpoint")
    local.add_argument("--device", default="auto", help="for instance cpu or cuda:1; auto takes an accelerator")
    return parser


def _add_server_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", metavar="NAME", help="name by which the server knows the model")
    add("--api-key-file", metavar="FILE", type=Path, help="file with the key, if it wants one")
    add("--concurrency", type=positive, default=16, metavar="N", help="requests at one time (default: %(default)s)")
    add("--requests-per-second", type=float, metavar="R", help="most requests that are begun in a second")
    add("--timeout", type=float, default=120, metavar="S", help="seconds for a reply (default: %(default)s)")
    add("--retries", type=int, default=6, metavar="N", help="of a request that failed (default: %(default)s)")
    add("--backoff", type=float, default=0.5, metavar="S", help="seconds before the first one (default: %(default)s)")
    add(
        "--max-wait",
        type=float,
        default=300,
        metavar="S",
        help="seconds that a server may ask to be left alone; an image has failed if it asks for more (default: 300)",
    )


async def _generate(arguments: argparse.Namespace, corpus: "Corpus") -> None:
    from trainers.data.qa.generation import generate_dialogues, retry_failed
    from trainers.data.qa.output import QAOutput

    settings = _settings(arguments)
    async with _chat(arguments) as chat:
        with QAOutput(arguments.out, {**settings.fingerprint, **chat.fingerprint}) as output:
            await generate_dialogues(_sources(corpus), chat, output, settings, corpus.num_rows)
            if arguments.retry_failed and not all(written.good for written in output.written()):
                await retry_failed(_sources(corpus), chat, output, settings, corpus.num_rows)


def _settings(arguments: argparse.Namespace) -> "QASettings":
    from trainers.data.qa.dialogue import QASettings
    from trainers.data.qa.filters import Limits

    limits = Limits(arguments.max_question, arguments.max_answer)
    at_least, at_most = arguments.turns or (3, 5)
    return QASettings(arguments.format, at_least, at_most, limits, arguments.attempts, arguments.seed)


@contextlib.asynccontextmanager
async def _chat(arguments: argparse.Namespace) -> AsyncIterator["Chat"]:
    written: dict[str, Any] = {"max_tokens": arguments.max_tokens}
    if arguments.temperature is not None:
        written["temperature"] = arguments.temperature
    if arguments.local:
        from trainers.data.qa.local import LocalChat

        written |= {"batch_size": arguments.batch_size, "max_pixels": arguments.max_pixels}
        yield LocalChat.from_pretrained(arguments.local, arguments.dtype, arguments.device, **written)
        return
    from trainers.data.qa.server import ServerChat, ServerSettings

    names = ("concurrency", "requests_per_second", "timeout", "retries", "backoff", "max_wait")
    written |= {name: getattr(arguments, name) for name in names}
    key = None if arguments.api_key_file is None else _read_key(arguments.api_key_file)
    async with ServerChat(ServerSettings(arguments.server, arguments.model, key, **written)) as chat:
        yield chat


def _read_key(file: Path) -> str:
    """The key in a file. What is wrong with it is said without showing it."""
    try:
        key = file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text with a key in it.") from error
    if not key:
        raise ValueError(f"{file} is empty, and there should be a key in it.")
    return key


def _sources(corpus: "Corpus") -> Iterator["Source"]:
    from trainers.data.qa.generation import Source

    for start in range(0, corpus.num_rows, AT_ONE_TIME):
        for row in corpus.read(start, min(start + AT_ONE_TIME, corpus.num_rows)):
            yield Source(row["id"], row["image"], row["error"])
