"""Columns that nothing reads: told once; where the name of one that is read was meant, by all appearances, refused."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from difflib import SequenceMatcher

from transformers.utils import logging

from trainers.data.faults import fault


__all__ = ["misnamed", "refuse_misnamed", "tell_unread"]

logger = logging.get_logger(__name__)

ALIKE = 0.88  # "negatve" is alike "negative", "resource" is not alike "source"


def misnamed(found: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """
    Names that nothing reads and that are nearly the name of something that is read and is not there: `negative` for
    `negatives`, `Image`, `query_`, `mesages`.

    Args:
        found (`Iterable[str]`): names that are there.
        known (`Iterable[str]`): names that are read.

    Returns:
        `dict[str, str]`: by the name that is there, the one that was meant.
    """
    return _misnamed(frozenset(found), frozenset(known))


@functools.lru_cache(maxsize=1024)  # rows of a file have the same few sets of keys
def _misnamed(found: frozenset[str], known: frozenset[str]) -> dict[str, str]:
    meant = {}
    for name in sorted(found - known):
        if alike := [absent for absent in sorted(known - found) if _alike(_simple(name), _simple(absent))]:
            meant[name] = max(alike, key=lambda absent: SequenceMatcher(None, name, absent).ratio())
    return meant


def _simple(name: str) -> str:
    """Without what spellings of one name differ in: case, signs between words, a number or a plural at the end."""
    letters = "".join(character for character in name.casefold() if character.isalnum())
    return (letters.rstrip("0123456789") or letters).removesuffix("s")


def _alike(one: str, other: str) -> bool:
    if one == other or (len(one) > 3 and sorted(one) == sorted(other)):
        return True
    return SequenceMatcher(None, one, other).ratio() >= ALIKE


def refuse_misnamed(found: Iterable[str], known: Iterable[str]) -> None:
    """Raises `ValueError` for a row or a table with a name as [`misnamed`] finds them."""
    for name, meant in misnamed(found, known).items():
        raise fault(name, "a name that nothing reads", f"{meant!r}: name it so, or leave it out")


def tell_unread(where: str, found: Iterable[str], known: Iterable[str]) -> None:
    """Logs which columns nothing reads."""
    if unread := sorted(map(str, set(found) - set(known))):
        logger.warning(f"{where}: nothing reads the columns {unread}.")
