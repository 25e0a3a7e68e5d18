"""Rows of .jsonl and .json files; JSON in which nothing is lost: a key that is there twice is an error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainers.data.faults import describe
from trainers.data.text_files import SURROGATES, open_text


__all__ = ["RepeatedKey", "json_rows", "jsonl_rows", "parse_json"]

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


def jsonl_rows(path: Path) -> Iterator[Record]:
    """Objects, one in a line, or why one cannot be read; blank lines are no rows."""
    with open_text(path, newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _row_of(line, f"line {number}")


def _row_of(line: str, place: str) -> Record:
    raw = line.encode("utf-8", SURROGATES)
    try:
        row = parse_json(raw.decode())
    except RepeatedKey as error:
        return ValueError(f"{place}: {error}")
    except ValueError as error:
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"
        return ValueError(f"{place}: found {ascii(raw[:60])}, which is {what} ({error}), expected a JSON object")
    return _object(row, f"{place}: ")


def _object(row: Any, place: str) -> Record:
    if isinstance(row, dict):
        return row
    return ValueError(f"{place}found {describe(row)}, expected a JSON object with the columns as its keys")


def json_rows(path: Path) -> Iterator[Record]:
    """A list of objects, parsed one at a time; after a syntax error nobody knows where the next would begin."""
    with open_text(path) as file:
        text = file.read()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        told = "As .jsonl, its good rows could be told from the bad."
        raise ValueError(f"{path} is not UTF-8 in line {line}. {told}") from error
    place = _skip(text, 0)
    if text[place : place + 1] != "[":
        raise ValueError(f"{path} must hold a list, [{{…}}, …]; rows one below the other belong into a .jsonl file.")
    place, number = _skip(text, place + 1), 0
    while text[place : place + 1] != "]":
        try:
            row, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            what = "" if isinstance(error, RepeatedKey) else "is not JSON: "
            raise ValueError(f"{path}: its row {number} {what}{error}") from error
        yield _object(row, "")
        number, place = number + 1, _skip(text, place)
        if text[place : place + 1] not in (",", "]"):
            raise ValueError(f"{path}: after its row {number - 1}, found {_at(text, place)}, expected , or ]")
        place = _skip(text, place + 1) if text[place] == "," else place
    if (rest := _skip(text, place + 1)) < len(text):
        raise ValueError(f"{path}: after its list, found {_at(text, rest)}, expected the end: a file holds one list.")


def _at(text: str, place: int) -> str:
    return repr(text[place : place + 20])


def _skip(text: str, place: int) -> int:
    """The next place that is no white space of JSON."""
    while text[place : place + 1] in (" ", "\t", "\n", "\r"):
        place += 1
    return place
