"""What the command lines of several commands have in common: options of a model, and numbers in their range."""

import argparse
import json
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args


if TYPE_CHECKING:
    from trainers.data.text_format import TextFormat


__all__ = ["DTYPES", "Dtype", "add_encode_options", "add_model_options", "add_table_options", "command_parser"]
__all__ += ["instructions_by_source", "number_within", "positive", "take_text_format", "whole"]

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES = get_args(Dtype)


def command_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser for `coma NAME` whose help begins with the docstring of the module, as it stands there."""
    as_it_stands = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"coma {name}", description=description, formatter_class=as_it_stands)


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


def add_encode_options(parser: argparse.ArgumentParser, part_rows: int) -> None:
    """Options for a command that embeds many rows, in parts."""
    add = parser.add_argument
    add("--batch-tokens", type=positive, default=16384, metavar="N", help="tokens of a batch (default: %(default)s)")
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
