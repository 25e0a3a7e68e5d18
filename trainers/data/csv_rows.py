r"""Rows of .csv and .tsv files, exactly: fields of any length, and no row that the file does not have.

The module `csv` splits the rows, RFC 4180 with any line ends. Around it stands what it does not say: which lines a row
has, where a quote was opened, and whether the quotes of a row may be trusted.

After broken quotes nobody knows where the next row begins. Where text follows a closing quote in a line with an even
number of quotes, the next line is taken for the next row, and from there on nothing else may be odd about quotes; all
other broken quotes end the reading, bad rows being skipped or not.

Quotes inside of a field that does not begin with one stand for themselves, as everywhere (`5" screen`). But where a
file has fields between quotes, a line with an odd number of quotes, one of them in such a place, is what is left of a
field of several lines that was closed too early, and ends the reading, too.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from trainers.data.csv_separator import SAYS_SEPARATOR
from trainers.data.encodings import UTF_8
from trainers.data.text_files import open_text


__all__ = ["csv_header", "csv_rows"]

QUOTE = '"'
QUOTED = '"([^"]*+(?:""[^"]*+)*+)"'  # those in it are doubled
LONGEST_FIELD = 100_000_000  # characters; a quote that is never closed would take in the rest of a file of any size
LINE_END = re.compile("\r\n|\r|\n")


def csv_header(path: Path, separator: str, encoding: str) -> list[str]:
    """
    The names of the columns.

    Raises:
        ValueError: for an empty file, broken quotes, and names that are missing or there twice.
    """
    reader = _Reader(path, separator, encoding)
    header = next(reader.rows(), None)
    if header is None:
        raise ValueError(f"{path} is empty: its first line must name the columns.")
    if isinstance(header, ValueError):
        raise ValueError(f"{path}: its first line must name the columns: {header}") from header
    if not all(map(_is_text, header)):
        raise ValueError(f"{path}: its first line, {header}, is no text in {_called(encoding)}: give --encoding.")
    has_index = len(header) > 1 and not header[0]  # pandas writes the numbers of its rows without a name
    if len(set(header)) < len(header) or "" in header[has_index:]:
        raise ValueError(f"{path}: its first line, {header}, must name every column, each in another way.")
    return header


def _called(encoding: str) -> str:
    return "UTF-8" if encoding == UTF_8 else encoding


def _is_text(name: str) -> bool:
    return "\0" not in name and not any("\ud800" <= character <= "\udfff" for character in name)


def csv_rows(path: Path, separator: str, encoding: str) -> Iterator[dict[str, str] | ValueError]:
    """
    Rows after the header, or why one cannot be read. Whatever it looks like, a text is a text; a blank line is no row.

    Raises:
        ValueError: where broken quotes leave open where the next row begins, with the line.
    """
    reader = _Reader(path, separator, encoding)
    rows = reader.rows()
    header = next(rows)
    for values in rows:
        if isinstance(values, ValueError):
            yield values
        elif len(values) == len(header):
            yield dict(zip(header, values, strict=True))
        else:
            found = f"{len(values)} values, expected {len(header)}, one for each of {header}"
            yield ValueError(f"{reader.place()}: found {found}")


class _Reader:
    """Rows of a file, their quotes checked."""

    def __init__(self, path: Path, separator: str, encoding: str) -> None:
        self.path, self.separator, self.encoding = path, separator, encoding
        separator = re.escape(separator)
        fields = f'(?:{QUOTED}|[^"{separator}]*+)'
        self.good_row = re.compile(f"{fields}(?:{separator}{fields})*+[\r\n]*")  # all quotes are where they belong
        self.closed_fields = re.compile(f'(?:(?:{QUOTED}|(?:[^"{separator}][^{separator}]*+)?){separator})*+')
        self.field = re.compile(f"{separator}(?:{QUOTED}|([^{separator}]*+))")
        self.row: list[str] = []  # the lines of the row, the last of which is the line `number` of the file
        self.number = 0
        self.broken: int | None = None  # the line of bad quotes after which reading went on
        self.quoted: int | None = None  # the first line with a field between quotes
        self.lone: int | None = None  # the first line with a quote too many, in a field that does not begin with one

    @property
    def first(self) -> int:
        """The line in which the row begins."""
        return self.number - len(self.row) + 1

    def place(self) -> str:
        """The lines of the row that was read."""
        return f"line {self.number}" if len(self.row) == 1 else f"lines {self.first} to {self.number}"

    def rows(self) -> Iterator[list[str] | ValueError]:
        """Values of rows, the header first."""
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
        row_end = ""  # the header tells what the end of a row is
        with open_text(self.path, newline="", encoding=self.encoding) as file:
            lines = self._lines(file)
            reader = csv.reader(lines, delimiter=self.separator, strict=True)
            while True:
                self.row = []
                try:
                    values = next(reader, None)
                except csv.Error:
                    yield self._broken_row("".join(self.row))
                    continue
                if values is None:
                    return
                row = "".join(self.row)
                if QUOTE in row and (bad_row := self._check_quotes(row)):
                    yield bad_row
                elif values:  # a blank line has none
                    row_end = row_end or row[-1]
                    if row[-1] != row_end and row[-1] in "\r\n":
                        yield self._skip_rest(lines, row_end)
                    else:
                        yield values

    def _lines(self, file: IO[str]) -> Iterator[str]:
        for line in file:
            self.number += 1
            if self.number > 1 or SAYS_SEPARATOR.fullmatch(line) is None:
                self.row.append(line)
                yield line

    def _check_quotes(self, row: str) -> ValueError | None:
        """What is wrong with the quotes of a row, if anything, where it is known where the next row begins."""
        fields = [] if self.good_row.fullmatch(row) else list(self.field.finditer(self.separator + row.rstrip("\r\n")))
        if not fields or any(field[1] is not None for field in fields):
            self.quoted = self.quoted or self.first
        is_one_line, is_even = len(self.row) == 1, row.count(QUOTE) % 2 == 0
        for bare in (field[2] for field in fields if QUOTE in (field[2] or "")):
            if bare.lstrip(" \t").startswith(QUOTE):
                return self._bad_row(f"blanks before the quote of {bare[:20]!r}", is_even)
            if self.broken or not is_one_line:
                more = "" if is_one_line else f", in a row that goes on to line {self.number}"
                raise self._lost(f"a quote in {bare[:20]!r}{more}", self.first)
            if not is_even:
                self.lone = self.lone or self.number
        if self.lone and self.quoted:
            where = f"in the middle of a field, expected it doubled: line {self.quoted} has a field between quotes"
            raise self._lost(f"a quote {where}", self.lone)
        if self.broken and not is_one_line:
            raise self._lost(f"a field from line {self.first} to line {self.number}", self.number)
        return None

    def _broken_row(self, row: str) -> ValueError:
        """What is wrong with a row in which a quote is never closed, or text follows a closing one."""
        start = self.closed_fields.match(row).end()
        opened = self.first + len(LINE_END.findall(row, 0, start))
        field = re.compile(QUOTED).match(row, start)
        if field is None:
            raise ValueError(
                f"{self.path}: line {opened}: found a quote that is opened there and never closed, expected quotes in "
                "pairs; nobody knows which rows it has swallowed."
            )
        rest = row[field.end() :].rstrip("\r\n")[:20]
        found = f"{self.separator!r} expected after a closing quote, not {rest!r}"
        if opened != self.number:
            found += f", the quote opened in line {opened}"
        # A field that begins with a separator may be what stands between two fields, after a quote too many.
        is_between = field[1].startswith((self.separator, "\r", "\n"))
        return self._bad_row(found, row.count(QUOTE) % 2 == 0 and not is_between)

    def _bad_row(self, found: str, is_whole: bool) -> ValueError:
        """A bad row; raises where nobody knows where the next one begins: after several lines, or if not whole."""
        bad_row = f"{self.place()}: found no row ({found}), expected quotes in pairs, those in a field doubled"
        if len(self.row) > 1 or not is_whole:
            raise ValueError(f"{self.path}: {bad_row}; nobody knows where the next row begins.")
        self.broken = self.broken or self.number
        return ValueError(bad_row)

    def _skip_rest(self, lines: Iterator[str], row_end: str) -> ValueError:
        """A row with another line end in the middle; what follows up to its real end is no row."""
        found = "a line feed" if row_end == "\r" else "a carriage return"
        bad_row = ValueError(f"line {self.number}: found {found} in the middle of a row, expected it between quotes")
        for line in lines:
            if QUOTE in line:
                raise self._lost(f"a quote after {found}", self.number)
            if (line[-1] == "\r") == (row_end == "\r"):
                break
        return bad_row

    def _lost(self, found: str, line: int) -> ValueError:
        since = f" after the broken quotes of line {self.broken}" if self.broken else ""
        return ValueError(f"{self.path}: line {line}: found {found}{since}; nobody knows where rows begin.")
