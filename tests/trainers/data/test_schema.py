"""Rows that are checked: what is good stays as it is, what is bad is named, and no image is read for it."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Image, List, Value

from trainers.data.emoji import emoji_dialogues, emoji_pairs, load_emoji
from trainers.data.rows import BadRows
from trainers.data.schema import DIALOGUE_FEATURES, PAIR_FEATURES, validate_dialogues, validate_pairs


def test_the_rows_of_the_emoji_are_good() -> None:
    emoji = load_emoji(["noto"])
    for rows, validate in (
        (emoji_dialogues(emoji, languages=()), validate_dialogues),
        (emoji_pairs(load_emoji(["noto", "twemoji"]), ("name", "image")), validate_pairs),
    ):
        assert validate(rows) is rows
        part = rows.select(range(1000, 1010))  # which begins within a chunk
        assert validate(part) is part


def test_bad_rows_are_named_or_left_out(conversation: Callable) -> None:
    good = {"images": [{"bytes": b"x", "path": None}], "text": None, "messages": conversation("q", "a")}
    bad = {
        1: {"messages": conversation("q")},
        4: {"images": [{"bytes": b"", "path": None}]},
        5: {"images": [{"bytes": None, "path": None}]},
        6: {"images": None, "text": "  "},
        7: {"messages": conversation("q", "a")[::-1]},
    }
    rows = Dataset.from_list([{**good, **bad.get(number, {})} for number in range(9)], features=DIALOGUE_FEATURES)
    bad_rows = BadRows("skip")
    kept = validate_dialogues(rows, bad_rows)
    assert kept.with_format("arrow")[:] == rows.select([0, 2, 3, 8]).with_format("arrow")[:]
    assert bad_rows.skipped == 5 and bad_rows.reasons == {
        1: "column messages: found 1 messages of which the last is of 'user', expected an answer: "
        "user and assistant take turns, the assistant last",
        4: "column images[0]: found 0 bytes, expected an image: a path, or the bytes of a file",
        5: "column images[0]: found neither bytes nor a path, expected an image: a path, or the bytes of a file",
        6: "column images, text: found neither of them, expected images, a text, or both",
        7: "column messages[0].role: found 'assistant', expected 'user': "
        "user and assistant take turns, the assistant last",
    }
    with pytest.raises(ValueError, match="^Row 1 of the data set is bad: column messages: found 1 messages"):
        validate_dialogues(rows)
    with pytest.raises(ValueError, match="None of the 2 rows can be used. column images, text: found neither"):
        validate_dialogues(rows.select([6, 6]), "skip")


def test_pairs_that_lack_something() -> None:
    item = {"text": "a", "image": None}
    rows = [{"query": item, "positive": item, "negatives": [item], "source": None} for _ in range(4)]
    rows[1] = {**rows[1], "negatives": [item, {"text": " ", "image": None}]}
    rows[2] = {**rows[2], "positive": None}
    rows[3] = {**rows[3], "negatives": None}
    bad_rows = BadRows("skip")
    assert len(validate_pairs(Dataset.from_list(rows, features=PAIR_FEATURES), bad_rows)) == 2
    assert bad_rows.reasons == {
        1: "column negatives[1]: found neither a text nor an image, expected one of them, or both",
        2: "column positive: found nothing, expected {'text', 'image'}",
    }


def test_no_picture_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("PIL.Image.open", lambda *_: pytest.fail("decoded"))
    item = {"text": None, "image": {"bytes": None, "path": str(tmp_path / "lost.png")}}
    rows = Dataset.from_list(
        [{"query": item, "positive": item}] * 3,
        features=Features(dict.fromkeys(("query", "positive"), PAIR_FEATURES["query"])),
    )
    assert validate_pairs(rows) is rows


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"text": Value("string")}, r"Columns \['messages'\] are missing: found \['text'\], expected \['images'"),
        ({"messages": Value("string")}, "column messages: found string, expected list<"),
        (
            {"messages": DIALOGUE_FEATURES["messages"], "images": Image()},
            "column images: found struct<.*expected list<",
        ),
        (
            {"messages": DIALOGUE_FEATURES["messages"], "text": Value("int64")},
            "column text: found int64, expected string",
        ),
        ({"messages": List({"role": Value("int8"), "content": Value("string")})}, "column messages: found .*int8"),
    ],
)
def test_columns_of_other_types(features: dict, message: str) -> None:
    rows = Dataset.from_dict({name: [] for name in features}, features=Features(features))
    with pytest.raises(ValueError, match=message):
        validate_dialogues(rows)


def test_paths_large_strings_and_columns_that_are_all_none(conversation: Callable) -> None:
    features = {
        "images": List(Value("string")),
        "text": Value("null"),
        "messages": List({"role": Value("large_string"), "content": Value("string")}),
        "more": Value("int8"),
    }
    rows = {"images": [["a.png"]], "text": [None], "messages": [conversation("q", "a")], "more": [1]}
    dataset = Dataset.from_dict(rows, features=Features(features))
    assert validate_dialogues(dataset) is dataset


def test_texts_and_pictures_of_other_types_of_arrow() -> None:
    """Views and large lists, as Polars writes them."""
    image = pa.struct({"bytes": pa.binary_view(), "path": pa.large_string()})
    item = pa.struct({"text": pa.string_view(), "image": image})
    picture = {"text": None, "image": {"bytes": b"x", "path": None}}
    values = {"query": {"text": "a", "image": None}, "positive": picture}
    schema = pa.schema({"query": item, "positive": item, "negatives": pa.large_list(item)})
    good, bad = {**values, "negatives": [values["query"]]}, {**values, "negatives": [{"text": None, "image": None}]}
    rows = Dataset(pa.Table.from_pylist([good, bad, good], schema))
    bad_rows = BadRows("skip")
    assert len(validate_pairs(rows, bad_rows)) == 2 and list(bad_rows.reasons) == [1]


def test_a_text_with_a_nul_is_refused() -> None:
    rows = [{"query": {"text": "a"}, "positive": {"text": "b\0c"}}]
    with pytest.raises(ValueError, match=r"^Row 0 of the data set is bad: column positive\.text: found .*NUL"):
        validate_pairs(Dataset.from_list(rows))
