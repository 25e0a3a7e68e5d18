"""Turns vision-language models into multimodal embedding models: compression, then matching (CoMa).

from a backbone to a search:
  coma create Qwen/Qwen2.5-VL-3B-Instruct my-coma     # or: coma create --tiny qwen2_5_vl my-coma
  coma embed my-coma photos/ photos.parquet
  coma search my-coma photos.parquet "a red bicycle"

`coma COMMAND --help` explains a command and shows its use.
An error is one line and exit code 1, or 2 for a wrong command line; with --debug it is a traceback.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import warnings
from pathlib import Path

from hub_scripts.common.arguments import ShortErrors, did_you_mean
from hub_scripts.common.terminal import drop_unwritten, flush, is_read, one_line, show_every_letter


__all__ = ["COMMANDS", "main"]

# In the order of a project. Each is a module of this package with `main(argv) -> int`, imported when it is called, so
# that `coma --help` answers at once.
COMMANDS = {
    "create": "make a CoMa folder from a vision-language backbone",
    "generate-qa": "write questions and answers about images, for stage 1",
    "recipes": "list the recipes for both trainings, or print one",
    "pretrain": "stage 1: train a model to answer dialogues from its compression tokens alone",
    "mine": "add hard negatives to pairs, found by a model",
    "finetune": "stage 2: train a model to match queries and documents",
    "merge": "fold an adapter into the weights of its base",
    "convert": "make a CoMa model of a published checkpoint, or the other way round",
    "push": "publish a model or an adapter on the Hub, checked before and in one commit",
    "verify": "check that a published model is whole and embeds as it did",
    "evaluate": "score a model on MMEB or on pairs of your own",
    "embed": "embed a folder of images, or a table, to a Parquet file",
    "index": "make an index of such a file, for a quick search in millions of rows",
    "search": "find in either what is nearest to a text or an image",
    "ask": "answer a question from the memory of what is nearest, without its image",
    "serve": "serve a model over HTTP, /v1/embeddings in the manner of OpenAI",
    "app": "open a page over either: search, more like this, questions to the memory",
    "demo": "train a small model on real images, from nothing, and show what it finds",
}

# What bad input, missing files, missing extras and too small a machine raise. Anything else is a fault of ours and
# keeps its traceback.
EXPECTED = (ValueError, OSError, ImportError, MemoryError)
LONGEST_ERROR = 600  # characters; transformers can list every model it knows
INTERRUPTED = 130  # exit code, as shells have it for SIGINT
NOBODY_READS = 141  # … and for SIGPIPE


def main(argv: list[str] | None = None) -> int:
    """
    Runs one command.

    Args:
        argv (`list[str]`, *optional*): the command line without the name of the program.

    Returns:
        `int`: exit code; 1 for an error, 130 if interrupted, 141 if nobody reads what it prints any more.
    """
    if message := _hidden_package():
        print(f"coma: error: {message}", file=sys.stderr)
        return 1
    argv = sys.argv[1:] if argv is None else argv
    options = argv[: argv.index("--")] if "--" in argv else argv
    debug = "--debug" in options
    arguments = _parser().parse_args([word for word in options if word != "--debug"] + argv[len(options) :])
    command = arguments.command
    # Workers that read data tokenize as well; told so beforehand, tokenizers neither warn nor start threads there.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not debug:
        warnings.simplefilter("ignore", FutureWarning)  # of libraries, to each other's authors
        warnings.filterwarnings("ignore", message="'pin_memory' argument is set")  # on a CPU there is nothing to do
    show_every_letter(sys.stdout)
    try:
        code = importlib.import_module(f"hub_scripts.{command.replace('-', '_')}").main(arguments.arguments)
        flush()
        return code
    except EXPECTED as error:
        if isinstance(error, BrokenPipeError) and not is_read():
            return NOBODY_READS
        if debug:
            raise
        print(f"coma {command}: error: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"coma {command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        drop_unwritten()


def _parser() -> argparse.ArgumentParser:
    from trainers import __version__  # not before it is known that they are ours

    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    title, _, example = (__doc__ or "").partition("\n\n")
    parser = ShortErrors(
        prog="coma",
        usage="coma [--debug] COMMAND …",
        description=f"{title}\n\ncommands:\n{lines}\n\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"coma {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("command", type=_command, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _command(name: str) -> str:
    if name not in COMMANDS:
        raise argparse.ArgumentTypeError(f"there is no command {name!r}{did_you_mean(name, COMMANDS)}")
    return name


def _hidden_package() -> str:
    """What is wrong where a folder or file of somebody else would be imported in place of the packages beside this."""
    for package in ("modeling_coma", "trainers"):
        spec = importlib.util.find_spec(package)
        if spec is not None:
            place = next(iter(spec.submodule_search_locations or [spec.origin]))
            if Path(place).resolve() != Path(__file__).parents[1].joinpath(package).resolve():
                return (
                    f"{place} hides the package {package} of this command: run it in another folder, rename what "
                    "hides it, or start it as `coma`, not by `python -m`."
                )
    return ""


def _extra_with(module: str) -> str | None:
    """The extra of this package that installs a module, if one does."""
    from packaging.requirements import Requirement

    try:
        metadata = importlib.metadata.metadata("coma-embedding")
    except importlib.metadata.PackageNotFoundError:
        return None
    name = module.partition(".")[0].replace("_", "-")
    wanted = [Requirement(line) for line in metadata.get_all("Requires-Dist") or []]
    markers = [requirement.marker for requirement in wanted if requirement.name == name and requirement.marker]
    extras = metadata.get_all("Provides-Extra") or []
    return next((extra for extra in extras for marker in markers if marker.evaluate({"extra": extra})), None)


def _one_line(error: BaseException) -> str:
    message = one_line(" ".join(str(error).split()))
    if isinstance(error, MemoryError):  # Python's own says nothing
        message = f"the memory of this machine is not enough. {message}".strip()
    if isinstance(error, ModuleNotFoundError) and (extra := _extra_with(error.name or "")):
        message = f"{message}: pip install 'coma-embedding[{extra}]'"
    message = message or type(error).__name__
    return message if len(message) <= LONGEST_ERROR else f"{message[:LONGEST_ERROR]} … (--debug shows all of it)"


if __name__ == "__main__":
    sys.exit(main())
