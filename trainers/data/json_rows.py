"""Rows of .jsonl and .json files; JSON in which nothing is lost: a key that is there twice is an error."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainers.data.faults import describe
from trainers.data.text_files import SURROGATES, open_text


__all__ = ["RepeatedKey", "json_rows", "jsonl_rows", "parse_json", "parse_object"]

WHITE_SPACE = re.compile(r"[ \t\n\r]*")  # of JSON
BEGINNING = 2**20  # characters of a .json that are read for who only looks at its first rows

Record = dict[str, Any] | ValueError


class RepeatedKey(ValueError):
    """A key that an object has twice: of the two values one would be lost."""


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise RepeatedKey(f"found the key {repeated!r} twice in an object, expected every key once")
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object_of)


def parse_json(text: str) -> Any:
    """
    Parses JSON.

    Raises:
        RepeatedKey: for a key that is there twice.
        ValueError: for what is no JSON, or is nested too deep.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def parse_object(text: str, expected: str = "a JSON object") -> dict[str, Any]:
    """Parses a row; raises `ValueError` in the words "found …, expected …"."""
    try:
        text.encode()
        row = parse_json(text)
    except RepeatedKey:
        raise
    except ValueError as error:
        what = "not UTF-8" if isinstance(error, UnicodeEncodeError) else "not JSON"
        beginning = ascii(text[:60].encode("utf-8", SURROGATES))
        raise ValueError(f"found {beginning}, which is {what} ({error}), expected {expected}") from error
    if not isinstance(row, dict):
        raise _no_object(row)
    return row


def _no_object(row: Any) -> ValueError:
    return ValueError(f"found {describe(row)}, expected a JSON object with the columns as its keys")


def jsonl_rows(path: Path, encoding: str | None = None) -> Iterator[Record]:
    """Objects, one in a line, or why one cannot be read; blank lines are no rows."""
    with open_text(path, newline="\n", encoding=encoding) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = parse_object(line)
                except ValueError as error:
                    row = ValueError(f"line {number}: {error}")
                yield row


def json_rows(path: Path, encoding: str | None = None) -> Iterator[Record]:
    """A list of objects, parsed one at a time; after a syntax error nobody knows where the next would begin."""
    with open_text(path, encoding=encoding) as file:
        first, begun = _first_rows(file.read(BEGINNING))
    yield from first
    with open_text(path, encoding=encoding) as file:  # again, so that memory never holds two copies of it
        text = file.read()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        told = "As .jsonl, its good rows could be told from the bad."
        raise ValueError(f"{path} is not UTF-8 in line {line}. {told}") from error
    place = _skip(text, 0)
    if not text.startswith("[", place):
        raise ValueError(f"{path} must hold a list, [{{…}}, …]; rows one below the other belong into a .jsonl file.")
    place, number = _skip(text, begun or place + 1), len(first)
    while not text.startswith("]", place):
        try:
            row, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            what = "" if isinstance(error, RepeatedKey) else "is not JSON: "
            raise ValueError(f"{path}: its row {number} {what}{error}") from error
        yield row if isinstance(row, dict) else _no_object(row)
        place = _skip(text, place)
        if text.startswith(",", place):
            place = _skip(text, place + 1)
        elif not text.startswith("]", place):
            raise ValueError(f"{path}: after its row {number}, found {_at(text, place)}, expected , or ]")
        number += 1
    if (rest := _skip(text, place + 1)) < len(text):
        raise ValueError(f"{path}: after its list, found {_at(text, rest)}, expected the end: a file holds one list.")


def _first_rows(text: str) -> tuple[list[Record], int]:
    """The rows that the beginning of a list has with a comma after each, and where the next one begins; none, and 0,
    where something is wrong, which is said by who reads it all."""
    place, rows, next_row = _skip(text, 0), [], 0
    try:
        text.encode()
        while text[place : place + 1] == ("," if rows else "["):
            next_row = _skip(text, place + 1)
            row, place = _DECODER.raw_decode(text, next_row)
            place = _skip(text, place)
            if not isinstance(row, dict) or text[place : place + 1] != ",":
                break
            rows.append(row)
    except (ValueError, RecursionError):  # it may be cut off here
        pass
    return rows, next_row if rows else 0


def _at(text: str, place: int) -> str:
    return repr(text[place : place + 20])


def _skip(text: str, place: int) -> int:
    """The next place that is no white space."""
    return WHITE_SPACE.match(text, place).end()
