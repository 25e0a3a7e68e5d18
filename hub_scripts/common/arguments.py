"""What the command lines of several commands have in common: short errors, options of a model, ranges of numbers."""

import argparse
import difflib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

from hub_scripts.common.terminal import one_line


if TYPE_CHECKING:
    from trainers.data.text_format import TextFormat


__all__ = [
    "DTYPES",
    "PAIR_COLUMNS",
    "PRECISIONS",
    "CommandParser",
    "Dtype",
    "Precision",
    "ShortErrors",
    "add_column_options",
    "add_encode_options",
]
__all__ += [
    "add_batch_tokens",
    "add_model_options",
    "add_table_options",
    "command_parser",
    "did_you_mean",
    "instructions_by_source",
]
__all__ += ["number_within", "positive", "take_text_format", "whole"]

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES = get_args(Dtype)
# In which an index keeps vectors, see `hub_scripts.embedding.precision`.
Precision = Literal["float32", "float16", "int8", "ubinary"]
PRECISIONS = get_args(Precision)
# Columns of a table of pairs, as `trainers.data.pairs.PairColumns` has them.
PAIR_COLUMNS = [f"{side}_{kind}" for side in ("query", "positive", "negative") for kind in ("text", "image", "video")]
PAIR_COLUMNS += ["source", "group"]


class ShortErrors(argparse.ArgumentParser):
    """A parser that says of a wrong command line what is wrong with it and where to read, and no more."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n`{self.prog} --help` shows how it is used.\n")


class CommandParser(ShortErrors):
    """
    The parser of a command. Its help begins with what must be given; an option that does not exist is named, with the
    one that was meant.
    """

    def format_usage(self) -> str:
        """What must be given, without a list of all options above the list of all options."""
        either = [group._group_actions for group in self._mutually_exclusive_groups if group.required]
        words = [f"({' | '.join(_use(action) for action in group)})" for group in either]
        words += [_use(action) for action in self._actions if action.required and action.option_strings]
        positional = [_use(action) for action in self._actions if not action.option_strings]
        return f"usage: {' '.join([self.prog, *positional, *words, '[OPTION …]'])}\n"

    def format_help(self) -> str:
        """As in `argparse`."""
        self.usage = self.usage or self.format_usage().strip().removeprefix("usage: ")
        return super().format_help()

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As in `argparse`, which would first complain of what is missing where an option is misspelt."""
        options = [action.option_strings[0] for action in self._actions if action.option_strings]
        for word in takewhile(lambda word: word != "--", args or ()):
            name = word.partition("=")[0]
            if name.startswith("--") and " " not in name and not self._knows(name):
                self.error(f"there is no option {name}{did_you_mean(name, options)}")
        return super().parse_known_args(args, namespace)

    def _knows(self, name: str) -> bool:
        known = self._option_string_actions
        return name in known or (self.allow_abbrev and any(option.startswith(name) for option in known))


def _use(action: argparse.Action) -> str:
    """How an argument is given."""
    if action.option_strings:
        return f"{action.option_strings[0]} {action.metavar or action.dest.upper()}"
    return {"+": f"{action.metavar} …", "?": f"[{action.metavar}]"}.get(str(action.nargs), str(action.metavar))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Ends a sentence about a name that does not exist, with the one that was meant by all appearances."""
    spelled = {other.replace("_", "-"): other for other in known}
    closest = difflib.get_close_matches(name.replace("_", "-"), spelled, n=1)
    return f"; did you mean {spelled[closest[0]]}?" if closest else "."


def command_parser(name: str, description: str) -> CommandParser:
    """A parser for `coma NAME` whose help begins with the docstring of the module, as it stands there."""
    as_it_stands = argparse.RawDescriptionHelpFormatter
    return CommandParser(prog=f"coma {name}", description=description, formatter_class=as_it_stands)


def add_column_options(parser: argparse.ArgumentParser) -> None:
    """Options that name the columns of a table of pairs."""
    group = parser.add_argument_group("columns of a table")
    for name in PAIR_COLUMNS:
        group.add_argument(f"--{name.replace('_', '-')}", metavar="NAME")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options for a command that computes with a model."""
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="precision; auto is that of the checkpoint")
    parser.add_argument("--device", default="auto", help="for instance cpu or cuda:1; auto takes an accelerator")
    limit = "images with more are refused, not shrunk (default: as the model has it)"
    parser.add_argument("--max-image-pixels", type=positive, metavar="N", help=limit)


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Options for a command that reads tables."""
    parser.add_argument("--encoding", metavar="NAME", help="of a table of text (default: found by looking)")
    parser.add_argument("--csv-separator", metavar="SIGN", help="between its fields (default: found by looking)")


def add_batch_tokens(parser: argparse.ArgumentParser) -> None:
    """The option for the size of batches; it is `None` if that is to be found."""
    fastest = "tokens of a batch, or auto: the fastest of a few sizes, tried on the first rows (default: auto)"
    parser.add_argument("--batch-tokens", type=_positive_or_auto, metavar="N", help=fastest)


def add_encode_options(parser: argparse.ArgumentParser, part_rows: int) -> None:
    """Options for a command that embeds many rows, in parts."""
    add = parser.add_argument
    add_batch_tokens(parser)
    add("--part-rows", type=positive, default=part_rows, metavar="N", help="rows of a part (default: %(default)s)")
    workers = min(8, (os.cpu_count() or 1) // 2)
    decode = "processes that decode (default here: %(default)s)"
    add("--workers", dest="num_workers", type=whole, default=workers, metavar="N", help=decode)
    add_model_options(parser)


def take_text_format(arguments: dict[str, Any]) -> "TextFormat":
    """What the options of [`add_table_options`] say, which are taken out of the arguments."""
    from trainers.data.text_format import TextFormat

    return TextFormat(arguments.pop("encoding"), arguments.pop("csv_separator"))


def _whole_from(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
        return int(text)

    return parse


def _positive_or_auto(text: str) -> int | None:
    return None if text == "auto" else positive(text)


positive = _whole_from(1)
whole = _whole_from(0)


def number_within(least: float, most: float) -> Callable[[str], float]:
    """For numbers, infinite ones excluded, from `least` to `most`."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and least <= number <= most):
            lower = f" from {least:g}" if math.isfinite(least) else ""
            upper = f" to {most:g}" if math.isfinite(most) else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not a number{lower}{upper}")
        return number

    return parse


def instructions_by_source(text: str) -> dict[str, str]:
    """Instructions of sources, in JSON."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise argparse.ArgumentTypeError(f"{text[:80]!r} has a source twice")
        return dict(pairs)

    try:
        instructions = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not JSON: {error}") from error
    lines = instructions.values() if isinstance(instructions, dict) else [None]
    if not all(isinstance(line, str) and line.strip() for line in lines):
        raise argparse.ArgumentTypeError(f'{text[:80]!r} is not like {{"a source": "Its instruction."}}')
    return instructions
