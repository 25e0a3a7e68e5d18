"""Rows for both stages from the packaged emoji: 1,595 emoji, each drawn in four styles, with names in six languages.

The images are never decoded here: they pass from the Parquet file into the rows as the bytes they are stored as, so
building every row of a stage takes a second. Sources and licences are in `ATTRIBUTION.md` beside this file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features

from trainers.data.emoji.questions import LANGUAGES, write_dialogues
from trainers.data.schema import DIALOGUE_FEATURES, ITEM_FEATURES, PAIR_FEATURES


__all__ = ["PAIR_KINDS", "STYLES", "EmojiRetrieval", "emoji_dialogues", "emoji_pairs", "emoji_retrieval", "load_emoji"]

STYLES = ("fluent-modern", "fluent-flat", "noto", "twemoji")
PAIR_KINDS = ("name", "caption", "image")

PARQUET = Path(__file__).with_name("emoji.parquet")


def load_emoji(styles: Sequence[str] | None = None) -> Dataset:
    """
    Loads the packaged emoji.

    Args:
        styles (`Sequence[str]`, *optional*): drawing styles to keep, in this order; all of [`STYLES`] by default.

    Returns:
        `Dataset`: columns `id`, `style`, `image` (decoded when looked at), `label`, `tags`, `group`, `subgroup` and
        `label_de`, `label_fr`, `label_es`, `label_ja`, `label_zh`. Every style has the same emoji in the same order.

    Raises:
        ValueError: if a style is unknown or named twice, or none is named.
    """
    styles = STYLES if styles is None else tuple(styles)
    unknown = [style for style in styles if style not in STYLES]
    if unknown or not styles or len(set(styles)) < len(styles):
        raise ValueError(f"styles={list(styles)} must name some of {', '.join(STYLES)}, each once")
    table = pq.read_table(PARQUET)
    chosen = [table.filter(pc.equal(table["style"], style)) for style in styles]
    return Dataset(pa.concat_tables(chosen).combine_chunks())


def emoji_dialogues(dataset: Dataset, seed: int = 0, turns: int = 5, languages: Sequence[str] = LANGUAGES) -> Dataset:
    """
    Makes one dialogue of several turns about every image: the rows of stage 1.

    A dialogue always asks for the name; its other turns are drawn from keywords, group, subgroup, a choice between
    names, yes/no about a name or a group, and the name in another language. The order is random, so that every sort of
    question is sometimes the first, when nothing but the compression tokens can answer it.

    Args:
        dataset (`Dataset`): emoji as from [`load_emoji`].
        seed (`int`, *optional*, defaults to 0): another seed asks other questions about the same images. A row's
            dialogue depends on the seed, its emoji and its style, not on its place in the dataset.
        turns (`int`, *optional*, defaults to 5): questions in a dialogue.
        languages (`Sequence[str]`, *optional*, defaults to all): which of [`LANGUAGES`] may be asked for.

    Returns:
        `Dataset`: columns `images` (one image), `text` (always `None`) and `messages`.

    Raises:
        ValueError: if a language is unknown, or there are not as many sorts of questions as turns.
    """
    table = _undecoded(dataset)
    messages = write_dialogues(table.drop_columns(["image"]).to_pylist(), seed, turns, languages)
    columns = {
        "images": pa.ListArray.from_arrays(range(len(table) + 1), _column(table, "image")),
        "text": pa.nulls(len(table), pa.string()),
        "messages": pa.array(messages, DIALOGUE_FEATURES.arrow_schema.field("messages").type),
    }
    return _as_dataset(columns, DIALOGUE_FEATURES)


def emoji_pairs(dataset: Dataset, kinds: Sequence[str] = ("name",)) -> Dataset:
    """
    Pairs every image with what it should be close to: the rows of stage 2.

    Args:
        dataset (`Dataset`): emoji as from [`load_emoji`].
        kinds (`Sequence[str]`, *optional*, defaults to `("name",)`): some of [`PAIR_KINDS`], one after the other in
            the result: `"name"` is the English name, `"caption"` the name with all keywords, `"image"` the same
            emoji in the next of the styles that `dataset` has (the last style is followed by the first).

    Returns:
        `Dataset`: columns `query` (the image), `positive`, `negatives` (always empty) and `source`
        (`emoji-name`, `emoji-caption` or `emoji-image`). The same positive comes back for every style of an emoji,
        so a loss with in-batch negatives has to leave out those that equal the positive.

    Raises:
        ValueError: if a kind is unknown, or images are to be paired and an emoji has only one style.
    """
    unknown = [kind for kind in kinds if kind not in PAIR_KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds={list(kinds)} must name some of {', '.join(PAIR_KINDS)}")
    table = _undecoded(dataset)
    images = _column(table, "image")
    no_text, no_image = pa.nulls(len(table), pa.string()), pa.nulls(len(table), images.type)
    tables = []
    for kind in kinds:
        if kind == "image":
            positive = _items(no_text, images.take(pa.array(_in_next_style(table))))
        else:
            positive = _items(_column(table, "label") if kind == "name" else _captions(table), no_image)
        columns = {
            "query": _items(no_text, images),
            "positive": positive,
            "negatives": pa.array([[]] * len(table), pa.list_(positive.type)),
            "source": pa.array([f"emoji-{kind}"] * len(table)),
        }
        tables.append(pa.table(columns))
    whole = pa.concat_tables(tables).combine_chunks()
    return _as_dataset({name: _column(whole, name) for name in whole.column_names}, PAIR_FEATURES)


class EmojiRetrieval(NamedTuple):
    """
    What retrieval over one style is measured on; position `i` is the same emoji in every field and every style.

    Args:
        ids (`list[str]`): code points.
        names (`list[str]`): English names, all different.
        images (`Sequence[PIL.Image.Image]`): images, decoded when looked at.
    """

    ids: list[str]
    names: list[str]
    images: Sequence[Any]


def emoji_retrieval(style: str) -> EmojiRetrieval:
    """
    Gives the images and names of one style, to search one by the other or by those of another style.

    Args:
        style (`str`): one of [`STYLES`].

    Returns:
        `EmojiRetrieval`: 1,595 ids, names and images.
    """
    dataset = load_emoji([style])
    return EmojiRetrieval(ids=list(dataset["id"]), names=list(dataset["label"]), images=dataset["image"])


def _undecoded(dataset: Dataset) -> pa.Table:
    return dataset.with_format("arrow")[:]


def _column(table: pa.Table, name: str) -> pa.Array:
    return pa.concat_arrays(table[name].chunks)


def _items(text: pa.Array, image: pa.Array) -> pa.StructArray:
    return pa.StructArray.from_arrays([text, image], names=list(ITEM_FEATURES))


def _captions(table: pa.Table) -> pa.Array:
    return pc.binary_join_element_wise(_column(table, "label"), pc.binary_join(_column(table, "tags"), ", "), ": ")


def _in_next_style(table: pa.Table) -> list[int]:
    """For every row, the row of the same emoji in the style that follows its own."""
    keys = list(zip(table["id"].to_pylist(), table["style"].to_pylist(), strict=True))
    drawings: dict[str, dict[str, int]] = {}
    for row, (emoji, style) in enumerate(keys):
        drawings.setdefault(emoji, {})[style] = row
    following = []
    for emoji, style in keys:
        styles = sorted(drawings[emoji], key=STYLES.index)
        if len(styles) < 2:
            raise ValueError(f"emoji {emoji} is there in {style} only: to pair images, load two styles or more")
        following.append(drawings[emoji][styles[(styles.index(style) + 1) % len(styles)]])
    return following


def _as_dataset(columns: dict[str, pa.Array], features: Features) -> Dataset:
    return Dataset(pa.table(columns).cast(features.arrow_schema))
