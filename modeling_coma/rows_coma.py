"""Rows of token ids: of a rendered text, in which images and videos take the places that it keeps for them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from transformers.utils import logging


logger = logging.get_logger(__name__)


def compression_tokens(num_compression_tokens: int) -> list[str]:
    """`<|ctoken_pad_0|>` …, named as in the published CoMa checkpoints."""
    return [f"<|ctoken_pad_{index}|>" for index in range(num_compression_tokens)]


def tokens_before(tokenizer: Any) -> list[int]:
    """What a tokenizer puts before every text by itself, its BOS for instance; what it puts behind is no part."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    return whole[: next(start for start in range(len(whole) + 1) if whole[start : start + len(plain)] == plain)]


def as_list(images: Any) -> list:
    """A list of images, or of lists of them; one image is a list of one, an array of four dimensions several."""
    if images is None or isinstance(images, list | tuple):
        return list(images or [])
    return list(images) if isinstance(images, np.ndarray) and images.ndim == 4 else [images]


def images_per_row(images: list, counts: list[int]) -> list[list]:
    """Images of every row, of a list that is flat or has a list for each row."""
    nested = [of_row if isinstance(of_row, list | tuple) else [of_row] for of_row in images]
    if not any(isinstance(of_row, list | tuple) for of_row in images) and len(images) == sum(counts):
        nested = [images[stop - count : stop] for count, stop in zip(counts, np.cumsum(counts), strict=True)]
    check_counts(nested, counts, "image")
    return nested


def of_each_row(make: Callable, visuals: list[list], **kwargs) -> Iterator[dict[str, np.ndarray]]:
    """What is made of images or videos, given by rows, one after the other."""
    rows = [row for row, of_row in enumerate(visuals) for _ in of_row]
    return iter(make(sum(visuals, []), rows, **kwargs) if rows else [])


def check_counts(given: list[list], counts: list[int], what: str) -> None:
    """Raises `ValueError` unless each row has as many of these as placeholders."""
    found = [len(of_row) for of_row in given]
    if found != counts:
        places = f"The texts have these numbers of {what} placeholders: {counts}"
        raise ValueError(f"{places}; the rows of {what}s: {found}.")


def join_row(
    text_ids: np.ndarray, places: list[int], around: list[int], made: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    r"""
    Puts the tokens of images and videos where their placeholders stand.

    Args:
        text_ids (`np.ndarray` of shape `(length,)`): a row with a placeholder for each of them.
        places (`list[int]`): the tokens that they replace.
        around (`list[int]`): all tokens of placeholders.
        made (`list[np.ndarray]`): their tokens, in the order of the row.
    Returns the row, and which of its tokens are text, both of shape `(new_length,)`.
    """
    is_place, is_text = np.isin(text_ids, places), ~np.isin(text_ids, around)
    repeats = np.ones(len(text_ids), dtype=np.int64)
    repeats[is_place] = [len(tokens) for tokens in made]
    ids, is_made = np.repeat(text_ids, repeats), np.repeat(is_place, repeats)
    ids[is_made] = np.concatenate(made)
    return ids, np.repeat(is_text, repeats)


def cut_row(ids: np.ndarray, is_text: np.ndarray, kept: int, tail: int, row: int, options: dict) -> np.ndarray:
    """An input that leaves room for its tail within the limit: text gives way, images and videos never."""
    limit = options["max_length"]
    excess = 0 if limit is None else len(ids) + tail - limit
    if excess <= 0:
        return ids
    text = np.flatnonzero(is_text)
    message = f"Row {row} is {len(ids) - len(text)} tokens of images, {len(text)} of text and {tail} of compression"
    removable = 0 if options.get("truncation") in (False, "do_not_truncate") else len(text) - kept
    if excess > removable:
        raise ValueError(f"{message}, max_length is {limit}: raise it, allow truncation, or lower the pixel budget.")
    logger.warning(f"{message}, max_length is {limit}: the last {excess} tokens of its text are cut.")
    return np.delete(ids, text[-excess:])


__all__ = ["as_list", "check_counts", "compression_tokens", "cut_row", "images_per_row", "join_row", "of_each_row"]
__all__ += ["tokens_before"]
