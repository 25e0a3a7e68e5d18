"""What stands between the fields of a .csv or .tsv file, found by looking at its first rows."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from trainers.data.text_files import open_text, printable


__all__ = ["SAYS_SEPARATOR", "check_separator", "find_separator", "usual_separator"]

SEPARATORS = (",", ";", "\t", "|")
LOOKED_AT = 2**20  # characters
SAYS_SEPARATOR = re.compile('"?sep=(.)"?[\r\n]*')  # as a first line, which Excel understands


def usual_separator(path: Path) -> str:
    """A tab in a .tsv file, a comma in any other."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def check_separator(separator: str) -> str:
    r"""Gives back a separator, a tab for `\t`; raises `ValueError` for what is none."""
    separator = "\t" if separator in ("\\t", "tab") else separator
    if len(separator) != 1 or separator in '"\r\n\0' or separator.isalnum():
        raise ValueError(rf"The separator {separator!r} is not one sign such as ; or | or \t.")
    return separator


def find_separator(path: Path, encoding: str) -> str:
    r"""
    The separator of a file. That of its suffix is looked for, and ";", tabs, "|" and commas: it divides the names of
    the columns, and every row into as many fields.

    Args:
        path (`Path`): the file.
        encoding (`str`): its encoding.

    Raises:
        ValueError: where it could be several, or where the rows have other numbers of fields than there are names.
    """
    usual = usual_separator(path)
    with open_text(path, newline="", encoding=encoding) as file:
        text = file.read(LOOKED_AT)
        is_all = not file.read(1)
    if says := SAYS_SEPARATOR.match(text):
        return says[1]
    dividing = [separator for separator in SEPARATORS if len(next(_rows(text, separator), [])) > 1]
    if dividing in ([], [usual]):
        return usual
    even = [separator for separator in dividing if _is_even(text, separator, is_all)]
    if len(even) == 1:
        return even[0]
    header = text.strip().partition("\n")[0].rstrip("\r")
    if even:
        ways = " or ".join(map(repr, even))
        raise ValueError(f"{printable(path)}: its fields could be separated by {ways}: say which, --csv-separator.")
    if usual in dividing:
        return usual  # and rows with other numbers of fields are bad rows
    raise ValueError(
        f"{printable(path)}: its first line, {header[:200]!r}, names one column, or several with {dividing[0]!r} "
        "between them, which does not fit its rows: give --csv-separator."
    )


def _rows(text: str, separator: str) -> filter:
    return filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=separator))


def _is_even(text: str, separator: str, is_all: bool) -> bool:
    """Whether all rows have as many fields as the first; of a text that goes on, the last one is not looked at."""
    try:
        lengths = [len(row) for row in _rows(text, separator)]
    except csv.Error:
        return False
    return len(set(lengths if is_all else lengths[:-1])) == 1
