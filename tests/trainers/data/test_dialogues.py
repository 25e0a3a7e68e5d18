"""Dialogues in every form that people have them in become the same rows of stage 1."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List, Value

from trainers.compression.collator import ComaCompressionCollator
from trainers.data.dialogues import DialogueColumns, load_dialogues
from trainers.data.emoji import emoji_dialogues, load_emoji
from trainers.data.images import as_image
from trainers.data.rows import BadRows, NumberedRows
from trainers.data.schema import DIALOGUE_FEATURES


def save(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "rows.jsonl"


def undecoded(dataset: Dataset) -> list[dict[str, Any]]:
    return dataset.with_format("arrow")[:].to_pylist()


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "parquet with bytes", "saved", "dataset"])
def test_every_kind_of_file(
    kind: str, emoji_files: dict[str, Path], tmp_path: Path, conversation: Callable, make_coma: Callable
) -> None:
    rows = [
        {"images": [file.name], "text": None, "messages": conversation("What is it?", name, "Sure?", "Yes.")}
        for name, file in emoji_files.items()
    ]
    rows.append({"images": [], "text": "a context", "messages": conversation("q", "a")})
    source: Any = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        save(tmp_path, rows)
    elif kind == "json":
        source.write_text(json.dumps(rows))
    else:
        if kind != "parquet":
            for row in rows:
                images = [emoji_files[row["messages"][1]["content"]].read_bytes()] if row["images"] else []
                row["images"] = [{"bytes": content, "path": None} for content in images]
        dataset = Dataset.from_list(rows, features=None if kind == "parquet" else DIALOGUE_FEATURES)
        source = tmp_path / "rows.parquet" if "parquet" in kind else tmp_path / "saved"
        dataset.to_parquet(source) if "parquet" in kind else dataset.save_to_disk(source)
        source = dataset if kind == "dataset" else source
    loaded = load_dialogues(source, next(iter(emoji_files.values())).parent)
    assert loaded.features == DIALOGUE_FEATURES and len(loaded) == len(rows)
    expected = ["image" if isinstance(as_image(one), bytes) else "path" for one in undecoded(loaded)[0]["images"]]
    assert expected == ["path" if kind in ("jsonl", "json", "parquet") else "image"]
    assert [row["messages"] for row in undecoded(loaded)] == [row["messages"] for row in rows]
    batch = ComaCompressionCollator(make_coma()[1])(NumberedRows(loaded).__getitems__(range(len(rows))))
    assert len(batch["image_grid_thw"]) == len(emoji_files)


def test_what_is_in_the_schema_is_not_written_anew(fresh_cache: Path, tmp_path: Path, conversation: Callable) -> None:
    emoji = emoji_dialogues(load_emoji(["noto"]).select(range(5)), languages=())
    assert load_dialogues(emoji) is emoji
    emoji.save_to_disk(tmp_path / "saved")
    assert undecoded(load_dialogues(tmp_path / "saved")) == undecoded(emoji) and not fresh_cache.exists()
    rows = [{"images": [{"bytes": b"x", "path": None}], "text": None, "messages": conversation("<image>\nq", "a")}]
    marked = Dataset.from_list(rows, features=DIALOGUE_FEATURES)
    assert undecoded(load_dialogues(marked))[0]["messages"] == conversation("q", "a")


DATA = "data:image/png;base64," + base64.b64encode(b"content").decode()
BLOCKS = [
    ([{"type": "image", "image": "a.png"}], "a.png"),
    ([{"type": "image", "path": "a.png"}], "a.png"),
    ([{"type": "image", "url": "a.png"}], "a.png"),
    ([{"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}}], "a.png"),
    ([{"type": "image_url", "image_url": "a.png"}], "a.png"),
    ([{"type": "input_image", "image_url": "a.png"}], "a.png"),
    ([{"type": "image_url", "image_url": {"url": "file:///b%20c.png"}}], "/b c.png"),
    ([{"type": "image_url", "image_url": {"url": DATA}}], b"content"),
    ([{"type": "image", "base64": DATA.partition(",")[2]}], b"content"),
    ([{"type": "image", "image": {"bytes": None, "path": "a.png"}}], "a.png"),
]


@pytest.mark.parametrize(("blocks", "picture"), BLOCKS, ids=str)
def test_blocks_of_openai_and_trl(blocks: list[dict], picture: str | bytes, tmp_path: Path) -> None:
    content = [{"type": "text", "text": "What"}, *blocks, {"type": "text", "text": "is it?"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}
    source = save(tmp_path, [{"messages": [{"role": "user", "content": content}, answer]}])
    row = undecoded(load_dialogues(source))[0]
    assert as_image(row["images"][0]) == (str(tmp_path / picture) if isinstance(picture, str) else picture)
    assert [message["content"] for message in row["messages"]] == ["What\nis it?", "A cat."]


def test_blocks_that_stand_for_pictures_of_the_column(tmp_path: Path, conversation: Callable) -> None:
    blocks = [{"type": "image"}, {"type": "text", "text": "or"}, {"type": "image", "text": None}]
    asked = [{"role": "user", "content": blocks}, {"role": "assistant", "content": "The first."}]
    rows = [
        {"images": ["a.png", "b.png"], "messages": asked},
        {"images": ["a.png", "b.png"], "messages": conversation("<image> or <image>?", "b")},
        {"images": "a.png", "messages": conversation("what?", "b", "<image>?", "b")},
        {"images": ["a.png", "b.png"], "messages": conversation(" what?", "b\n")},
    ]
    loaded = undecoded(load_dialogues(save(tmp_path, rows)))
    assert [[Path(as_image(image)).name for image in row["images"]] for row in loaded] == [
        ["a.png", "b.png"], ["a.png", "b.png"], ["a.png"], ["a.png", "b.png"],
    ]  # fmt: skip
    assert [row["messages"][0]["content"] for row in loaded] == ["or", "or ?", "what?", " what?"]
    assert loaded[3]["messages"][1]["content"] == "b\n"  # what had no placeholder stays as it was


def test_questions_and_answers_in_columns(tmp_path: Path, emoji_files: dict[str, Path]) -> None:
    columns = DialogueColumns(images="image", question="q", answer="a")
    table = "image,q,a\n" + "".join(f"{file},What is it?,{name}\n" for name, file in emoji_files.items())
    (tmp_path / "vqa.csv").write_text(table)
    rows = undecoded(load_dialogues(tmp_path / "vqa.csv", columns=columns))
    assert [row["messages"][1]["content"] for row in rows] == list(emoji_files)
    assert [as_image(row["images"][0]) for row in rows] == [str(file) for file in emoji_files.values()]
    source = save(tmp_path, [{"q": ["1?", "2?"], "a": ["1", "2"], "text": "t", "image": None}])
    assert len(undecoded(load_dialogues(source, columns=columns))[0]["messages"]) == 4
    with pytest.raises(ValueError, match="question='q' and answer=None go together"):
        load_dialogues(source, columns=DialogueColumns(question="q"))
    with pytest.raises(ValueError, match=r"vqa.csv has no columns \['p'\]"):
        load_dialogues(tmp_path / "vqa.csv", columns=DialogueColumns(images="p", question="q", answer="a"))


def test_any_data_set_with_columns_named(conversation: Callable) -> None:
    emoji = load_emoji(["noto"]).select(range(4))
    features = Features({**emoji.features, "talk": List({"role": Value("string"), "content": Value("string")})})
    rows = emoji.map(lambda row: {"talk": conversation("What?", row["label"])}, features=features)
    loaded = load_dialogues(rows, columns=DialogueColumns(images="image", text="group", messages="talk"))
    assert [row["messages"][1]["content"] for row in loaded] == list(emoji["label"])
    assert list(loaded["text"]) == list(emoji["group"]) and loaded[0]["images"][0].size == emoji[0]["image"].size
    assert loaded.features["images"] == List(Image())


def test_the_good_rows_survive(tmp_path: Path, conversation: Callable) -> None:
    good = {"text": "t", "messages": conversation("q", "a")}
    source, bad_rows = save(tmp_path, [good, {**good, "messages": []}, good, {"text": "t"}]), BadRows("skip", "mine")
    assert undecoded(load_dialogues(source, on_bad_row=bad_rows)) == undecoded(
        load_dialogues(save(tmp_path, [good] * 2))
    )
    assert list(bad_rows.reasons) == [1, 3]
    (tmp_path / "llava.jsonl").write_text('{"conversations": []}')
    with pytest.raises(ValueError, match="`conversations` are what `load_llava` reads"):
        load_dialogues(tmp_path / "llava.jsonl")


def test_numbers_in_columns_of_questions_and_answers(tmp_path: Path) -> None:
    """They are the texts of their digits, as in pairs; what is no number and no text is a bad row."""
    rows = [{"text": 7, "q": "How many?", "a": 3}, {"text": "t", "q": ["How many?", 2], "a": [1.5, "x"]}]
    bad = [
        {"text": "t", "q": "q", "a": True},
        {"text": "t", "q": "q", "a": float("nan")},
        {"text": [1], "q": "q", "a": 1},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, [*rows, *bad])))
    bad_rows = BadRows("skip")
    talks = load_dialogues(tmp_path / "t.jsonl", None, DialogueColumns(question="q", answer="a"), bad_rows)
    assert [[message["content"] for message in row] for row in talks["messages"]] == [
        ["How many?", "3"],
        ["How many?", "1.5", "2", "x"],
    ]
    assert list(talks["text"]) == ["7", "t"] and list(bad_rows.reasons) == [2, 3, 4]


def test_a_block_with_two_pictures(tmp_path: Path) -> None:
    block = {"type": "image", "image": "a.png", "url": "b.png"}
    row = {"messages": [{"role": "user", "content": [block]}, {"role": "assistant", "content": "a"}]}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    with pytest.raises(
        ValueError, match=r"messages\[0\]\.content\[0\]: found a block with image and url, expected one"
    ):
        load_dialogues(tmp_path / "t.jsonl")


def test_a_saved_data_set_with_an_image_root(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"images": [{"bytes": None, "path": "a.png"}], "text": None, "messages": talk}]
    dataset = Dataset.from_list(rows, DIALOGUE_FEATURES)
    loaded = NumberedRows(load_dialogues(dataset, tmp_path))
    assert loaded[0]["images"] == [{"bytes": None, "path": str(tmp_path / "a.png")}]


LOST = {
    "an image beside a text": (
        [{"type": "text", "text": "q", "image": "x.png"}],
        r"content\[0\]\.image: found 'x.png'",
    ),
    "a text beside an image": ([{"type": "image", "text": "q", "image": "x.png"}], r"content\[0\]\.text: found 'q'"),
    "a text beside a placeholder": ([{"type": "image", "text": "q"}], r"content\[0\]\.text: found 'q'"),
}


@pytest.mark.parametrize(("blocks", "message"), LOST.values(), ids=LOST)
def test_nothing_of_a_block_is_lost(tmp_path: Path, blocks: list[dict], message: str) -> None:
    turns = [{"role": "user", "content": blocks}, {"role": "assistant", "content": "a"}]
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": "t", "images": ["y.png"], "messages": turns}))
    with pytest.raises(ValueError, match=f"Row 0 .*{message}"):
        load_dialogues(tmp_path / "d.jsonl")


@pytest.mark.parametrize("calls", [None, [], [{"id": "1"}]])
def test_what_messages_have_beside_their_content(tmp_path: Path, calls: list | None) -> None:
    """Calls of tools would be lost; what OpenAI and TRL write where there are none is nothing."""
    answer = {
        "role": "assistant",
        "content": "a",
        "name": None,
        "tool_calls": calls,
        "refusal": None,
        "annotations": [],
    }
    row = {"text": "t", "messages": [{"role": "user", "content": "q", "name": "ann"}, answer]}
    (tmp_path / "d.jsonl").write_text(json.dumps(row))
    if not calls:
        assert load_dialogues(tmp_path / "d.jsonl")[0]["messages"][1] == {"role": "assistant", "content": "a"}
        return
    with pytest.raises(
        ValueError, match=r"Row 0 .*messages\[1\]\.tool_calls: found list .*, expected all that is said"
    ):
        load_dialogues(tmp_path / "d.jsonl")
