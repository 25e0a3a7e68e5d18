"""The rows of both stages as `datasets.Features`, and what a row must be beyond its types.

A check raises `ValueError` in the words "column …: found …, expected …"; who knows the number of the row puts it
before. Images are checked for being there and are not decoded: that is the work of data loader workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Image, Value, Video
from transformers.utils import logging

from trainers.data.column_names import refuse_misnamed
from trainers.data.faults import describe, fault
from trainers.data.images import without_decoding
from trainers.data.rows import BadRows


__all__ = [
    "DIALOGUE_FEATURES",
    "IMAGE_FEATURES",
    "ITEM_FEATURES",
    "PAIR_FEATURES",
    "VIDEO_DIALOGUE_FEATURES",
    "VIDEO_ITEM_FEATURES",
    "VIDEO_PAIR_FEATURES",
    "as_text",
    "check_dialogue",
    "check_messages",
    "check_pair",
    "check_text",
    "validate",
    "validate_dialogues",
    "validate_pairs",
]

# What is to be compressed, before there is a dialogue about it.
IMAGE_FEATURES = Features({"images": [Image()], "text": Value("string")})
DIALOGUE_FEATURES = Features({**IMAGE_FEATURES, "messages": [{"role": Value("string"), "content": Value("string")}]})
ITEM_FEATURES = {"text": Value("string"), "image": Image()}
PAIR_FEATURES = Features(
    {"query": ITEM_FEATURES, "positive": ITEM_FEATURES, "negatives": [ITEM_FEATURES], "source": Value("string")}
)
# The same where there are videos.
VIDEO = Video(decode=False)
VIDEO_DIALOGUE_FEATURES = Features({**DIALOGUE_FEATURES, "videos": [VIDEO]})
VIDEO_ITEM_FEATURES = {**ITEM_FEATURES, "video": VIDEO}
VIDEO_PAIR_FEATURES = Features(
    {
        "query": VIDEO_ITEM_FEATURES,
        "positive": VIDEO_ITEM_FEATURES,
        "negatives": [VIDEO_ITEM_FEATURES],
        "source": Value("string"),
    }
)

BATCH = 1000  # rows that are checked at one time
KEYS, SPEAKERS = ("role", "content"), ("user", "assistant")
TURNS = "user and assistant take turns, the assistant last"


def validate_dialogues(dataset: Dataset, on_bad_row: str | BadRows = "raise") -> Dataset:
    r"""
    Checks rows of stage 1. No image is read.

    Args:
        dataset (`Dataset`):
            Columns `images`, `videos`, `text` or some of them, and `messages`.
        on_bad_row (`str` or [`BadRows`], *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave bad rows out; a [`BadRows`] afterwards knows how many, and why.

    Returns:
        `Dataset`: the same, or its good rows.

    Raises:
        ValueError: for columns of other types, and for a bad row with its number, column, what was found and what was
            expected.
    """
    features = VIDEO_DIALOGUE_FEATURES if "videos" in dataset.column_names else DIALOGUE_FEATURES
    return validate(dataset, features, {"messages"}, check_dialogue, on_bad_row)


def validate_pairs(dataset: Dataset, on_bad_row: str | BadRows = "raise") -> Dataset:
    """As [`validate_dialogues`], for rows of stage 2: `query`, `positive`, maybe `negatives` and `source`."""
    return validate(dataset, VIDEO_PAIR_FEATURES, {"query", "positive"}, check_pair, on_bad_row, known=("group",))


def validate(
    dataset: Dataset,
    features: Features,
    required: set[str],
    check: Callable[[dict], None],
    on_bad_row: str | BadRows = "raise",
    known: Iterable[str] = (),
) -> Dataset:
    """As [`validate_dialogues`], for any columns and any check of a row; `known` are other columns that are read."""
    _check_columns(dataset, features, required)
    refuse_misnamed(dataset.column_names, {*features, *known})
    bad_rows = on_bad_row if isinstance(on_bad_row, BadRows) else BadRows(on_bad_row)
    present = [name for name in features if name in dataset.column_names]
    rows = without_decoding(dataset).select_columns(present).with_format("arrow")

    def light_rows() -> Iterator[dict[str, Any]]:
        with logging.tqdm(total=len(dataset), desc="Checking", unit="row") as progress:
            for table in rows.iter(BATCH):
                light = pa.table({name: _without_bytes(table[name].combine_chunks()) for name in present})
                yield from light.to_pylist()
                progress.update(len(table))

    good = [number for number, _ in bad_rows.convert(light_rows(), check)]
    if not good:
        raise ValueError(f"None of the {len(dataset)} rows can be used. {next(iter(bad_rows.reasons.values()), '')}")
    return dataset if len(good) == len(dataset) else dataset.select(good)


def _check_columns(dataset: Dataset, features: Features, required: set[str]) -> None:
    if missing := sorted(required - set(dataset.column_names)):
        raise ValueError(f"Columns {missing} are missing: found {dataset.column_names}, expected {list(features)}.")
    schema = without_decoding(dataset).features.arrow_schema
    for name, expected in ((name, features.arrow_schema.field(name).type) for name in features):
        found = schema.field(name).type if name in dataset.column_names else pa.null()
        if not _fits(found, expected):
            raise ValueError(str(fault(name, str(found), str(expected))))


def _fits(found: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_null(found) or found == expected:
        return True
    if pa.types.is_list(expected):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return is_list and _fits(found.value_type, expected.value_type)
    if pa.types.is_struct(expected):
        if expected.equals(Image().pa_type) and _fits(found, pa.string()):
            return True  # a path
        names = [field.name for field in found] if pa.types.is_struct(found) else []
        refuse_misnamed(names, [field.name for field in expected])
        known = [field for field in expected if field.name in names]
        return bool(known) and all(_fits(found.field(field.name).type, field.type) for field in known)
    kinds = (pa.types.is_large_string, pa.types.is_string_view)
    if not pa.types.is_string(expected):
        kinds = (pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_kind(found) for is_kind in kinds)


def _without_bytes(array: pa.Array) -> pa.Array:
    """The same, with the number of bytes in place of bytes, so that no image is read from the disk."""
    if pa.types.is_struct(array.type):
        values = [_without_bytes(values) for values in array.flatten()]
        names = [field.name for field in array.type]
        return pa.StructArray.from_arrays(values, names, mask=array.is_null())
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        start = array.offsets[0].as_py()
        values = _without_bytes(array.values[start : array.offsets[-1].as_py()])
        made = pa.ListArray if pa.types.is_list(array.type) else pa.LargeListArray
        return made.from_arrays(pc.subtract(array.offsets, start), values, mask=array.is_null())
    if pa.types.is_binary_view(array.type):
        array = array.cast(pa.large_binary())
    is_binary = pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type)
    return pc.binary_length(array) if is_binary else array


def check_dialogue(row: dict[str, Any], column: str = "messages", keys: tuple[str, str] = KEYS) -> None:
    """A row of stage 1 has images, videos or a text, and a dialogue about them; messages name `column` and `keys`."""
    images, videos, text = row.get("images"), row.get("videos"), row.get("text")
    for kind, values in (("image", images), ("video", videos)):
        if not isinstance(values, list | None):
            raise fault(f"{kind}s", describe(values), f"a list of {kind}s")
        for place, value in enumerate(values or []):
            _check_file(value, f"{kind}s[{place}]", kind)
    check_text(text, "text")
    if not images and not videos and not (text and text.strip()):
        raise fault("images, text", "neither of them", "images, a text, or both")
    check_messages(row.get("messages"), column, keys)


def check_messages(messages: Any, column: str = "messages", keys: tuple[str, str] = KEYS) -> None:
    """A dialogue may begin with a system message; then there are questions and answers in turn."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise fault(column, describe(messages), f"a list of {{'role', 'content'}} in which {TURNS}")
    first = bool(messages) and messages[0].get("role") == "system"
    for place, message in enumerate(messages[first:]):
        if (role := message.get("role")) != SPEAKERS[place % 2]:
            raise fault(f"{column}[{place + first}].{keys[0]}", describe(role), f"{SPEAKERS[place % 2]!r}: {TURNS}")
    if len(messages) - first < 2 or (len(messages) - first) % 2:
        last = repr(messages[-1].get("role")) if messages else "nothing"
        raise fault(column, f"{len(messages)} messages of which the last is of {last}", f"an answer: {TURNS}")
    for place, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, str) or not content.strip():
            raise fault(f"{column}[{place}].{keys[1]}", describe(content), "words: this is a message without text")
        check_text(content, f"{column}[{place}].{keys[1]}")


def check_pair(row: dict[str, Any]) -> None:
    """A row of stage 2 has a query and a positive, each of them a text, an image or both; so are its negatives."""
    negatives = row.get("negatives")
    if not isinstance(negatives, list | None):
        raise fault("negatives", describe(negatives), "a list of items")
    items = [("query", row.get("query")), ("positive", row.get("positive"))]
    items += [(f"negatives[{place}]", item) for place, item in enumerate(negatives or [])]
    for column, item in items:
        if not isinstance(item, dict):
            raise fault(column, describe(item), "{'text', 'image'}")
        check_text(item.get("text"), f"{column}.text")
        there = [kind for kind in ("image", "video") if item.get(kind) is not None]
        for kind in there:
            _check_file(item[kind], f"{column}.{kind}", kind)
        if not there and not (item.get("text") or "").strip():
            raise fault(column, "neither a text nor an image", "one of them, or both")
    check_text(row.get("source"), "source")


def as_text(value: Any, column: str) -> str | None:
    """
    The text of a cell of a table, for columns that somebody named as such: a number is the text of its digits, for
    tables do not tell the two apart. In rows of the schemas, which do, a text is a string ([`check_text`]).
    """
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if is_number and math.isfinite(value):  # what is no number stands for nothing, and is no text
        return str(value)
    check_text(value, column)
    return value


def check_text(text: Any, column: str) -> None:
    """A text is a string that can be stored, or nothing."""
    if not isinstance(text, str | None):
        raise fault(column, describe(text), "a text")
    if text is not None and "\0" in text:
        raise fault(column, f"{ascii(text[max(0, text.index(chr(0)) - 10) :][:20])} with a NUL in it", "a text")
    if text is not None and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            beginning = ascii(text[max(0, error.start - 10) : error.start + 10])
            raise fault(column, f"{beginning}, which is not UTF-8", "a text in UTF-8") from error


def _check_file(image: Any, column: str, kind: str) -> None:
    if isinstance(image, dict) and image.keys() <= {"bytes", "path"}:  # bytes, or the number of them
        if image.get("bytes") is not None:
            found = "0 bytes" if image["bytes"] in (0, b"") else None
        else:
            found = None if image.get("path") else "neither bytes nor a path"
    else:
        found = None if isinstance(image, str) and image else describe(image)
    if found is not None:
        article = "an" if kind == "image" else "a"
        raise fault(column, found, f"{article} {kind}: a path, or the bytes of a file")
