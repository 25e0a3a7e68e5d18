r"""Rows of .csv and .tsv files, exactly: fields of any length, and no row that the file does not have.

The module `csv` is not used: it cuts fields at a limit that belongs to the whole process, and it does not say where a
quote was opened. What is read is RFC 4180, with any line ends.

After broken quotes nobody knows where the next row begins. Where text follows a closing quote in a line with an even
number of quotes, the next line is taken for the next row, and from there on nothing else may be odd about quotes; all
other broken quotes end the reading, bad rows being skipped or not.

Quotes inside of a field that does not begin with one stand for themselves, as everywhere (`5" screen`). But where a
file has fields between quotes, a line with an odd number of quotes, one of them in such a place, is what is left of a
field of several lines that was closed too early, and ends the reading, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from trainers.data.text_files import open_text


__all__ = ["csv_header", "csv_rows"]

QUOTE = '"'
FIELD = '(?:"([^"]*+(?:""[^"]*+)*+)"|([^",]*+))'  # between quotes, those in it doubled, or without any
LONGEST_FIELD = 100_000_000  # characters; a quote that is never closed would take in the rest of a file of any size


class _BadQuotes(ValueError):
    """Text after a closing quote, or a quote after blanks; whether the next line can be taken for the next row."""

    def __init__(self, message: str, next_row_is_known: bool) -> None:
        super().__init__(message)
        self.next_row_is_known = next_row_is_known


def csv_header(path: Path, separator: str) -> list[str]:
    """
    The names of the columns.

    Raises:
        ValueError: for an empty file, broken quotes, names that are missing or there twice, and another separator.
    """
    header = next(_Reader(path, separator).rows(), None)
    if header is None:
        raise ValueError(f"{path} is empty: its first line must name the columns.")
    if isinstance(header, ValueError):
        raise ValueError(f"{path}: its first line must name the columns: {header}") from header
    if not all(map(_is_text, header)):
        raise ValueError(f"{path}: its first line, {header}, is no text in UTF-8.")
    index = len(header) > 1 and not header[0]  # pandas writes the numbers of its rows without a name
    if len(set(header)) < len(header) or "" in header[index:]:
        raise ValueError(f"{path}: its first line, {header}, must name every column, each in another way.")
    others = [name for name in (";", "\t", "|", ",") if name != separator and name in header[0]]
    if len(header) == 1 and others:
        raise ValueError(
            f"{path}: its first line names one column, {header[0]!r}. Is {others[0]!r} the separator? "
            "Save it with commas as .csv, or with tabs as .tsv."
        )
    return header


def _is_text(name: str) -> bool:
    return "\0" not in name and not any("\ud800" <= character <= "\udfff" for character in name)


def csv_rows(path: Path, separator: str) -> Iterator[dict[str, str] | ValueError]:
    """
    Rows after the header, or why one cannot be read. Whatever it looks like, a text is a text; a blank line is no row.

    Raises:
        ValueError: where broken quotes leave open where the next row begins, with the line.
    """
    reader = _Reader(path, separator)
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
    """A file, line by line: the line it is in (`line`, without its `end`), and the line in which the row began."""

    def __init__(self, path: Path, separator: str) -> None:
        self.path, self.separator = path, separator
        field = FIELD.replace(",", separator)
        self.plain = re.compile(f"{field}(?:{separator}{field})*+")
        self.field = re.compile(separator + field)
        self.line, self.end, self.number, self.first = "", "", 0, 0
        self.even = True  # whether the line has an even number of quotes
        self.odd: int | None = None  # the line of bad quotes after which reading went on
        self.quoted: int | None = None  # the first line with a field between quotes
        self.lone: int | None = None  # the first line with a quote too many, in a field that does not begin with one

    def place(self) -> str:
        """The lines of the row that was read."""
        return f"line {self.first}" if self.first == self.number else f"lines {self.first} to {self.number}"

    def rows(self) -> Iterator[list[str] | ValueError]:
        """Values of rows, the header first."""
        with open_text(self.path, newline="") as file:
            self.file, row_end = file, None
            while self._next_line():
                self.first = self.number
                row_end = row_end or self.end  # the header tells what the end of a row is
                if QUOTE in self.line:
                    try:
                        values = self._plain_row() or self._quoted_row()
                    except _BadQuotes as error:
                        yield self._go_on_after(error)
                        continue
                elif self.line:
                    values = self.line.split(self.separator)
                else:
                    continue
                if self.end and (self.end == "\r") != (row_end == "\r"):
                    yield self._skip_to(row_end)
                else:
                    yield values

    def _next_line(self) -> bool:
        whole = self.file.readline()
        self.line = whole.rstrip("\r\n")
        self.end = whole[len(self.line) :]
        self.number += bool(whole)
        self.even = self.line.count(QUOTE) % 2 == 0
        return bool(whole)

    def _plain_row(self) -> list[str] | None:
        """The quick way for a row of one line in which all quotes are where they belong; `None` for any other."""
        if self.lone or not self.plain.fullmatch(self.line):
            return None
        self.quoted = self.quoted or self.number
        fields = self.field.findall(self.separator + self.line)
        return [quoted.replace(QUOTE * 2, QUOTE) if quoted else bare for quoted, bare in fields]

    def _quoted_row(self) -> list[str]:
        values, place, bare = [], 0, ""
        while True:
            if self.line.startswith(QUOTE, place):
                value, place = self._quoted_field(place + 1)
            else:
                stop = self.line.find(self.separator, place)
                stop = len(self.line) if stop < 0 else stop
                value, place = self.line[place:stop], stop
                if QUOTE in value:
                    self._check_bare(value)
                    bare = value
            values.append(value)
            if self.lone and self.quoted:
                where = f"in the middle of a field, expected it doubled: line {self.quoted} has a field between quotes"
                raise self._lost(f"a quote {where}", self.lone)
            if place == len(self.line):
                if bare and self.first != self.number:
                    raise self._lost(
                        f"a quote in {bare[:20]!r}, in a row that goes on to line {self.number}", self.first
                    )
                return values
            place += 1

    def _quoted_field(self, start: int) -> tuple[str, int]:
        """The field whose quote was opened before `start`, and the place after its closing quote."""
        opened, parts, length = self.number, [], 0
        self.quoted = self.quoted or opened
        while True:
            close = self.line.find(QUOTE, start)
            if close < 0:
                parts.append(self.line[start:] + self.end)
                length += len(parts[-1])
                if length > LONGEST_FIELD or not self._next_line():
                    raise self._unclosed(opened)
                start = 0
            elif self.line.startswith(QUOTE, close + 1):  # two of them are one
                parts.append(self.line[start : close + 1])
                start = close + 2
            else:
                parts.append(self.line[start:close])
                break
        if close + 1 < len(self.line) and self.line[close + 1] != self.separator:
            self._refuse(opened, "".join(parts), close + 1)
        if self.odd is not None and opened != self.number:
            raise self._lost(f"a field from line {opened} to line {self.number}")
        return "".join(parts), close + 1

    def _refuse(self, opened: int, field: str, place: int) -> None:
        found = f"{self.separator!r} expected after a closing quote, not {self.line[place : place + 20]!r}"
        if opened != self.number:
            found += f", the quote opened in line {opened}"
        # A field that begins with a separator may be what stands between two fields, after a quote too many.
        known = opened == self.number == self.first and not field.startswith((self.separator, "\r", "\n"))
        raise _BadQuotes(found, known and self.even)

    def _check_bare(self, value: str) -> None:
        if value.lstrip(" \t").startswith(QUOTE):
            raise _BadQuotes(f"blanks before the quote of {value[:20]!r}", self.even and self.first == self.number)
        if self.odd is not None:
            raise self._lost(f"a quote in {value[:20]!r}")
        if not self.even:
            self.lone = self.lone or self.number

    def _go_on_after(self, error: _BadQuotes) -> ValueError:
        """The row that is bad, if it is known where the next one begins."""
        row = ValueError(f"{self.place()}: found no row ({error}), expected quotes in pairs, those in a field doubled")
        if not error.next_row_is_known:
            raise ValueError(f"{self.path}: {row}; nobody knows where the next row begins.") from error
        self.odd = self.odd or self.number
        return row

    def _skip_to(self, row_end: str) -> ValueError:
        found = "a carriage return" if self.end == "\r" else "a line feed"
        bad = ValueError(f"line {self.number}: found {found} in the middle of a row, expected it between quotes")
        while self.end and (self.end == "\r") != (row_end == "\r"):
            self._next_line()
            if QUOTE in self.line:
                raise self._lost(f"a quote after {found}")
        return bad

    def _unclosed(self, opened: int) -> ValueError:
        return ValueError(
            f"{self.path}: line {opened}: found a quote that is opened there and never closed, expected quotes in "
            "pairs; nobody knows which rows it has swallowed."
        )

    def _lost(self, found: str, number: int | None = None) -> ValueError:
        since = f" after the broken quotes of line {self.odd}" if self.odd else ""
        line = number or self.number
        return ValueError(f"{self.path}: line {line}: found {found}{since}; nobody knows where rows begin.")
