"""What the command lines of several commands have in common."""

import argparse


__all__ = ["add_model_options", "command_parser", "positive"]

DTYPES = ("auto", "float32", "bfloat16", "float16")


def command_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser for `coma NAME` whose help begins with the docstring of the module, as it stands there."""
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"coma {name}", description=description, formatter_class=raw)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options for a command that computes with a model."""
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="precision; auto is that of the checkpoint")
    parser.add_argument("--device", default="auto", help="for instance cpu or cuda:1; auto takes an accelerator")


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
