"""The packaged emoji are whole; the rows of both stages carry the right image, undecoded, and the right text."""

from collections import Counter

import pytest
from datasets import Dataset, Image
from PIL.Image import Image as Picture

from trainers.data.emoji import STYLES, emoji_dialogues, emoji_pairs, emoji_retrieval, load_emoji


TRAINING = STYLES[:3]


@pytest.fixture(scope="module")
def emoji() -> Dataset:
    return load_emoji(TRAINING)


def stored(dataset: Dataset, *path: str) -> list:
    """The images of a column as they are stored, without decoding."""
    values = dataset.with_format("arrow")[:][path[0]].to_pylist()
    for name in path[1:]:
        values = [value[name] for value in values]
    return values


def test_every_style_has_the_same_emoji_in_the_same_order() -> None:
    whole = load_emoji()
    assert len(whole) == 6380
    assert whole["style"][:] == [style for style in STYLES for _ in range(1595)]
    assert whole["id"][:] == load_emoji(["noto"])["id"][:] * 4
    assert len(set(load_emoji(["noto"])["label"])) == 1595  # a name identifies an emoji
    assert whole.features["image"] == Image()


def test_pictures_open_when_looked_at() -> None:
    for row in (0, 1595, 3190, 6379):
        image = load_emoji()[row]["image"]
        assert image.size == (112, 112)
        assert image.mode == "RGB"
        assert len(image.getcolors(112 * 112)) > 1


def test_styles_come_in_the_order_asked_for() -> None:
    assert Counter(load_emoji(["twemoji", "noto"])["style"][:]) == {"twemoji": 1595, "noto": 1595}
    assert load_emoji(["twemoji", "noto"])[0]["style"] == "twemoji"


@pytest.mark.parametrize("styles", [["apple"], [], ["noto", "noto"]])
def test_unknown_repeated_or_no_styles_are_refused(styles: list[str]) -> None:
    with pytest.raises(ValueError, match="must name some of fluent-modern, fluent-flat, noto, twemoji, each once"):
        load_emoji(styles)


def test_dialogues_follow_the_schema_of_stage_1(emoji: Dataset) -> None:
    rows = emoji_dialogues(emoji)
    assert rows.column_names == ["images", "text", "messages"]
    assert stored(rows, "images") == [[image] for image in stored(emoji, "image")]
    assert set(rows["text"]) == {None}
    for messages in rows["messages"]:
        assert [message["role"] for message in messages] == ["user", "assistant"] * 5
        assert all(message["content"].strip() for message in messages)
    images = rows[7]["images"]
    assert len(images) == 1
    assert isinstance(images[0], Picture)


def test_a_dialogue_belongs_to_its_picture_wherever_that_stands(emoji: Dataset) -> None:
    emoji = emoji.select(range(0, len(emoji), 10))
    shuffled = emoji.shuffle(seed=3)
    place = {key: row for row, key in enumerate(zip(emoji["id"], emoji["style"], strict=True))}
    straight, rows = emoji_dialogues(emoji), emoji_dialogues(shuffled)
    order = [place[key] for key in zip(shuffled["id"], shuffled["style"], strict=True)]
    assert order != sorted(order)
    assert rows["messages"][:] == straight.select(order)["messages"][:]
    assert stored(rows, "images") == stored(straight.select(order), "images")


def test_name_and_caption_pairs_follow_the_schema_of_stage_2(emoji: Dataset) -> None:
    rows = emoji_pairs(emoji, kinds=("name", "caption"))
    assert rows.column_names == ["query", "positive", "negatives", "source"]
    assert rows["source"][:] == ["emoji-name"] * len(emoji) + ["emoji-caption"] * len(emoji)
    assert stored(rows, "query", "image") == stored(emoji, "image") * 2
    names, tags = emoji["label"][:], emoji["tags"][:]
    captions = [f"{name}: {', '.join(words)}" for name, words in zip(names, tags, strict=True)]
    assert stored(rows, "positive", "text") == names + captions
    row = rows[0]
    assert isinstance(row["query"]["image"], Picture)
    assert (row["query"]["text"], row["positive"]["image"], row["negatives"]) == (None, None, [])


@pytest.mark.parametrize("shuffled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_picture_pairs_show_one_emoji_in_the_next_style(emoji: Dataset, shuffled: bool) -> None:
    emoji = emoji.shuffle(seed=1) if shuffled else emoji
    keys = list(zip(emoji["id"], emoji["style"], strict=True))
    drawn = dict(zip(keys, stored(emoji, "image"), strict=True))
    after = dict(zip(TRAINING, [*TRAINING[1:], TRAINING[0]], strict=True))
    rows = emoji_pairs(emoji, kinds=("image",))
    assert stored(rows, "query", "image") == [drawn[key] for key in keys]
    assert stored(rows, "positive", "image") == [drawn[name, after[style]] for name, style in keys]
    assert set(stored(rows, "positive", "text")) == {None}


def test_pictures_of_one_style_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="emoji 1F600 is there in noto only"):
        emoji_pairs(load_emoji(["noto"]), kinds=("image",))


@pytest.mark.parametrize("kinds", [(), ("sound",)])
def test_unknown_or_no_kinds_are_refused(emoji: Dataset, kinds: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="must name some of name, caption, image"):
        emoji_pairs(emoji, kinds=kinds)


def test_retrieval_positions_agree_between_styles() -> None:
    first, second = emoji_retrieval("noto"), emoji_retrieval("twemoji")
    assert first.ids == second.ids
    assert first.names == second.names
    assert len(set(first.names)) == len(first.images) == 1595
    assert first.images[5].tobytes() == load_emoji(["noto"])[5]["image"].tobytes() != second.images[5].tobytes()
