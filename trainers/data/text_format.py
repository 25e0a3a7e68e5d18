"""How a table of text is written: its encoding and its separator, as somebody says or as is found by looking."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from transformers.utils import logging

from trainers.data.csv_separator import check_separator, find_separator, usual_separator
from trainers.data.encodings import UTF_8, check_encoding
from trainers.data.text_files import encoding_of, printable


__all__ = ["SEPARATED", "TextFormat", "complete_format"]

logger = logging.get_logger(__name__)

SEPARATED = (".csv", ".tsv")


class TextFormat(NamedTuple):
    r"""
    How a table of text is written. What is `None` is found by looking.

    Args:
        encoding (`str`, *optional*): any that Python knows, `"cp1252"` for instance.
        separator (`str`, *optional*): what is between the fields of a .csv or .tsv file, `";"` for instance.

    Example:

        >>> rows = load_pairs("pairs.csv", columns, text_format=TextFormat(encoding="cp1250", separator=";"))
    """

    encoding: str | None = None
    separator: str | None = None


def complete_format(path: Path, given: TextFormat) -> TextFormat:
    """
    What is given, checked, and what is found for the rest; what is found and unusual is said in one line of the log.

    Args:
        path (`Path`): a .csv, .tsv, .txt, .json or .jsonl file.
        given ([`TextFormat`]): what somebody says.

    Raises:
        ValueError: for an encoding that does not exist, a separator that is none or does not act, and where looking
            does not tell.
    """
    is_separated, said = path.suffix.lower() in SEPARATED, []
    if given.encoding is None:
        encoding, example = encoding_of(path)
        if encoding != UTF_8:
            said.append(f"read as {encoding}" + f" ({example})" * bool(example))
    else:
        encoding = check_encoding(given.encoding)
    if given.separator is None:
        separator = find_separator(path, encoding) if is_separated else None
        if is_separated and separator != usual_separator(path):
            said.append(f"separated by {separator!r}")
    elif is_separated:
        separator = check_separator(given.separator)
    else:
        raise ValueError(f"{printable(path)} has no separator, and {given.separator!r} cannot act: leave it out.")
    if said:
        logger.warning_once(f"{printable(path)}: {', '.join(said)}. (Else: --encoding, --csv-separator.)")
    return TextFormat(encoding, separator)
