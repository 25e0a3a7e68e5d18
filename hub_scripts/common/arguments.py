"""What the command lines of several commands have in common."""

import argparse
import json
import math
import os
from collections.abc import Callable
from typing import Any


__all__ = [
    "add_encode_options",
    "add_model_options",
    "command_parser",
    "instructions_by_source",
    "number_within",
    "positive",
    "whole",
]

DTYPES = ("auto", "float32", "bfloat16", "float16")


def command_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser for `coma NAME` whose help begins with the docstring of the module, as it stands there."""
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"coma {name}", description=description, formatter_class=raw)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options for a command that computes with a model."""
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="precision; auto is that of the checkpoint")
    parser.add_argument("--device", default="auto", help="for instance cpu or cuda:1; auto takes an accelerator")


def add_encode_options(parser: argparse.ArgumentParser, part_rows: int) -> None:
    """Options for a command that embeds many rows, in parts."""
    add = parser.add_argument
    add("--batch-tokens", type=positive, default=16384, metavar="N", help="tokens of a batch (default: %(default)s)")
    add("--part-rows", type=positive, default=part_rows, metavar="N", help="rows of a part (default: %(default)s)")
    workers = min(8, (os.cpu_count() or 1) // 2)
    decode = "processes that decode (default here: %(default)s)"
    add("--workers", dest="num_workers", type=whole, default=workers, metavar="N", help=decode)
    add_model_options(parser)


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def number_within(least: float, most: float) -> Callable[[str], float]:
    """For numbers, infinite ones excluded, from `least` to `most`."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and least <= number <= most):
            bounds = [f"from {least:g}"] * math.isfinite(least) + [f"to {most:g}"] * math.isfinite(most)
            raise argparse.ArgumentTypeError(f"{text!r} is not {' '.join(['a number', *bounds])}")
        return number

    return parse


def instructions_by_source(text: str) -> dict[str, str]:
    """Instructions of sources, in JSON."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise argparse.ArgumentTypeError(f"{text[:80]!r} has a source twice")
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not JSON: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(one, str) and one.strip() for one in found.values()):
        raise argparse.ArgumentTypeError(f'{text[:80]!r} is not like {{"a source": "Its instruction."}}')
    return found
