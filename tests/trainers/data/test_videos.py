"""Videos in rows of both stages, of tables, of JSON and of data sets; each is a path or bytes, and none is opened."""

import json
import os
import re
import sys

import pytest
from datasets import Dataset, Video

from trainers.data import build
from trainers.data.corpus import Columns, open_corpus
from trainers.data.dialogues import DialogueColumns, load_dialogues
from trainers.data.items import to_compression_input, to_item
from trainers.data.llava import load_llava
from trainers.data.pairs import PairColumns, load_pairs, load_triplets
from trainers.data.schema import validate_dialogues, validate_pairs
from trainers.data.videos import video_key
from trainers.data.webdataset import stream_dialogues


TALK = [{"role": "user", "content": "where?"}, {"role": "assistant", "content": "left"}]


def stored(path):
    return {"bytes": None, "path": str(path)}


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_table_of_pairs_with_videos(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("clip,says\na.mp4,left\nb.mp4,right\n")
    rows = load_pairs(table, PairColumns(query_video="clip", positive_text="says"))
    assert rows[1]["query"] == {"text": None, "image": None, "video": stored(tmp_path / "b.mp4")}
    assert validate_pairs(rows) is rows
    item = to_item(rows[1]["query"], "Row 1: query")
    assert item.messages[0]["content"] == [{"type": "video", "video": str(tmp_path / "b.mp4")}]
    assert item.key != to_item(rows[0]["query"], "Row 0: query").key


@pytest.mark.parametrize("kind", ["ready", "triplets"])
def test_rows_of_json_with_videos(tmp_path, kind):
    names = ("query", "positive") if kind == "ready" else ("anchor", "positive")
    rows = [{names[0]: {"video": "a.mp4", "text": "what moves?"}, names[1]: {"text": "left"}}]
    load = load_pairs if kind == "ready" else load_triplets
    found = load(write_lines(tmp_path / "rows.jsonl", rows))[0]
    assert found["query"] == {"text": "what moves?", "image": None, "video": stored(tmp_path / "a.mp4")}
    assert found["positive"] == {"text": "left", "image": None, "video": None}


def test_a_column_that_is_only_called_so_is_no_video(tmp_path):
    """What nothing reads refuses no row, wherever it begins."""
    row = {"query": {"text": "a"}, "positive": {"text": "b"}}
    for name, other in (("ready", row), ("triplets", {"anchor": "a", "positive": "b"})):
        file = write_lines(tmp_path / f"{name}.jsonl", [other] * 100 + [{**other, "video": "id 9"}])
        rows = (load_pairs if name == "ready" else load_triplets)(file)
        assert len(rows) == 101 and set(rows.features["query"]) == {"text", "image"}


def test_a_video_that_comes_too_late_is_no_loss_that_nobody_sees(tmp_path):
    rows = [{"query": {"text": "a"}, "positive": {"text": "b"}}] * 101
    rows.append({"query": {"video": "a.mp4"}, "positive": {"text": "b"}})
    with pytest.raises(ValueError, match="Row 101 .*column video: found the first video of the file"):
        load_pairs(write_lines(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet", "set"])
def test_dialogues_about_videos(tmp_path, name):
    rows = [{"videos": [str(tmp_path / "a.mp4")], "text": "t", "messages": TALK}, {"text": "only", "messages": TALK}]
    if name.endswith("jsonl"):
        source = write_lines(tmp_path / name, rows)
    elif name.endswith("json"):
        source = tmp_path / name
        source.write_text(json.dumps(rows))
    else:
        source = Dataset.from_list(rows)
        if name.endswith("parquet"):
            source.to_parquet(tmp_path / name)
            source = tmp_path / name
    found = load_dialogues(source)
    assert found[0]["videos"] == [stored(tmp_path / "a.mp4")] and not found[1]["videos"]
    assert validate_dialogues(found) is found
    (message,) = to_compression_input(found[0], 0)
    assert message["content"] == [
        {"type": "video", "video": str(tmp_path / "a.mp4")},
        {"type": "text", "text": "t"},
    ]


def test_batches_with_the_bytes_of_videos_are_small(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BATCH_BYTES", 100)
    row = {"videos": "data:video/mp4;base64," + "QUFB" * 20, "text": "t", "messages": TALK}
    found = load_dialogues(write_lines(tmp_path / "rows.jsonl", [row] * 5))
    assert [len(chunk) for chunk in found.data.column("videos").chunks] == [2, 2, 1]


def test_dialogues_in_json_name_the_column_of_their_videos(tmp_path):
    row = {"text": "t", "messages": TALK}
    columns = DialogueColumns(videos="clips")
    table = write_lines(tmp_path / "rows.jsonl", [row, {**row, "clips": "a.mp4"}])
    assert load_dialogues(table, columns=columns)[1]["videos"] == [stored(tmp_path / "a.mp4")]
    late = write_lines(tmp_path / "late.jsonl", [row] * 100 + [{**row, "clips": "a.mp4"}])
    with pytest.raises(ValueError, match="Row 100 .*column clips: found the first video of the file"):
        load_dialogues(late, columns=columns)


def asked(content):
    return [{"role": "user", "content": content}, TALK[1]]


def test_blocks_and_placeholders_of_videos(tmp_path):
    """They become the row's, after those of its column; of a source without videos `<video>` is a tag of HTML."""
    url, text = {"type": "video_url", "video_url": {"url": "b.mp4"}}, {"type": "text", "text": "where?"}
    rows = [
        {"messages": asked([{"type": "video", "video": "a.mp4"}, url, text])},
        {"videos": ["a.mp4", "c.mp4"], "messages": asked([{"type": "video"}, url, {**text, "text": "<video>where?"}])},
        {"images": "a.png", "videos": "a.mp4", "messages": asked("<image><video>\nwhere?")},
    ]
    found = load_dialogues(write_lines(tmp_path / "rows.jsonl", rows))
    names = [[tmp_path / "a.mp4", tmp_path / "b.mp4"], [tmp_path / f"{n}.mp4" for n in "acb"], [tmp_path / "a.mp4"]]
    assert found["videos"][:] == [[stored(name) for name in of] for of in names]
    assert found["messages"][:] == [TALK] * 3 and found.data["images"][2].as_py() == [stored(tmp_path / "a.png")]
    arrow = Dataset.from_list([{"messages": [{**turn, "content": [url, text]} for turn in TALK]}])
    assert load_dialogues(arrow, tmp_path)["videos"][0] == [stored(tmp_path / "b.mp4")] * 2
    late = [{"text": "t", "messages": TALK}] * 100 + [{"text": "t", "messages": asked([url])}]
    with pytest.raises(ValueError, match="Row 100 .*column messages: found the first video of the file"):
        load_dialogues(write_lines(tmp_path / "late.jsonl", late))
    tag = load_dialogues(write_lines(tmp_path / "tag.jsonl", [{"text": "t", "messages": asked("a <video> tag?")}]))
    assert tag[0]["messages"] == asked("a <video> tag?")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"videos": "a.mp4", "messages": asked("<video><video>")},
            "found 2 placeholders for videos, expected one",
        ),
        (
            {"images": "a.png", "videos": [], "messages": asked("<video>?")},
            "found 1 placeholders for videos, exp",
        ),
        ({"text": "t", "messages": asked([{"type": "text", "text": "q", "video": "a.mp4"}])}, "in a block of its own"),
        ({"text": "t", "messages": asked([{"type": "image", "video": "a.mp4"}])}, "video: found 'a.mp4', expected it"),
        (
            {"text": "t", "messages": [{**TALK[0], "video": "a.mp4"}, TALK[1]]},
            "expected all that is said in",
        ),
    ],
)
def test_placeholders_and_blocks_of_videos_that_agree_with_nothing(tmp_path, row, message):
    with pytest.raises(ValueError, match=f"Row 1 .*{message}"):
        load_dialogues(write_lines(tmp_path / "rows.jsonl", [{"videos": "a.mp4", "messages": TALK}, row]))


def test_llava_with_videos(tmp_path):
    """`<image>` stands for a video where there are no images, and for itself where there are some."""

    def row(value, **files):
        return {**files, "conversations": [{"from": "human", "value": value}, {"from": "gpt", "value": "left"}]}

    rows = [row("<image>\nwhere?", video="a.mp4"), row("<video>where?", video=["a.mp4"])]
    rows += [row("<image><video>where?", videos=["a.mp4", "b.mp4"]), row("<image>where?<video>", image="a", video="b")]
    rows += [row("<image>where?", image="a.png")]
    found = load_llava(write_lines(tmp_path / "rows.jsonl", rows))
    assert [(len(one["images"]), len(one["videos"])) for one in found.with_format("arrow")[:].to_pylist()] == [
        *((0, 1), (0, 1), (0, 2), (1, 1), (1, 0))
    ]
    assert found["messages"][:] == [TALK] * 5 and found[0]["videos"] == [stored(tmp_path / "a.mp4")]
    for value, files, message in (
        ("<image><video>?", {"video": "a.mp4"}, "2 placeholders for videos, expected one for each of the 1 videos"),
        ("<image><image>?", {"image": "a.png", "video": "a.mp4"}, "2 placeholders for images"),
        ("where?", {"video": "a.mp4"}, "0 placeholders for videos"),
    ):
        with pytest.raises(ValueError, match=f"Row 1 .*conversations: found {message}"):
            load_llava(write_lines(tmp_path / "bad.jsonl", [rows[0], row(value, **files)]))


def test_llava_with_a_video_in_two_columns(tmp_path, write_shard):
    """Of a table and of shards alike: it is one where it is the same or nothing, and else none of them gets lost."""
    talk = [{"from": "human", "value": "<video>where?"}, {"from": "gpt", "value": "left"}]
    for others in (None, [], ["a.mp4"], ["b.mp4"]):
        row = {"video": "a.mp4", "videos": others, "conversations": talk}
        shard = write_shard("a.tar", {"1.json": json.dumps(row).encode()})
        for load, source in ((stream_dialogues, shard), (load_llava, write_lines(tmp_path / "rows.jsonl", [row]))):
            if others == ["b.mp4"]:
                with pytest.raises(ValueError, match="column videos: found others than in the column 'video'"):
                    next(iter(load(source)))
            else:
                assert next(iter(load(source)))["videos"] == [stored(tmp_path / "a.mp4")]


def test_videos_as_datasets_has_them():
    rows = Dataset.from_list([{"query": {"text": "a"}, "positive": {"video": {"bytes": b"x", "path": None}}}])
    features = rows.features.copy()
    features["positive"]["video"] = Video(decode=False)
    rows = validate_pairs(rows.cast(features))
    assert to_item(rows[0]["positive"], "Row 0: positive").messages[0]["content"][0]["video"] == b"x"
    with pytest.raises(ValueError, match=r"column positive.video: found .*, expected a video"):
        validate_pairs(
            Dataset.from_list([{"query": {"text": "a"}, "positive": {"video": {"bytes": b"", "path": ""}}}])
        )


def test_a_corpus_with_a_column_of_videos(tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text("id,video,text\n1,a.mp4,ball\n2,,word\n")
    first, second = open_corpus(table, Columns()).read(0, 2)
    assert (first["video"], first["path"], first["image"]) == (str(tmp_path / "a.mp4"), "a.mp4", None)
    assert (second["video"], second["text"]) == (None, "word")


def test_a_corpus_of_shards_with_videos(write_shard):
    shard = write_shard("a.tar", {"1.mp4": b"V", "1.txt": b"ball", "2.png": b"I", "3.1.mp4": b"V", "3.2.mp4": b"W"})
    first, second, third = open_corpus(shard, Columns()).read(0, 3)
    assert (first["video"], first["text"], first["image"]) == (b"V", "ball", None)
    assert (second["video"], second["image"]) == (None, b"I")
    assert "column videos: found 2 in a.tar/3, expected one; name one by its ending" in third["error"]
    assert open_corpus(shard, Columns(video="2.mp4")).read(2, 3)[0]["video"] == b"W"
    assert open_corpus(shard, Columns(), videos=False).read(2, 3)[0]["error"] is None  # dialogues are about images


def test_a_folder_has_videos_among_its_images(tmp_path, monkeypatch):
    for name in ("b.png", "a/c.MP4", "c.webm", "notes.md", ".d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "e.mp4").write_bytes(b"GIF89a")  # an image that is called so
    monkeypatch.setattr("trainers.data.video_files.find_spec", lambda name: name)  # as where PyAV is
    corpus = open_corpus(tmp_path, Columns())
    rows = corpus.read(0, corpus.num_rows)
    assert [(row["id"], row["video"] or row["image"]) for row in rows] == [
        (name, str(tmp_path / name)) for name in ("a/c.MP4", "b.png", "c.webm", "e.mp4")
    ]
    assert [row["video"] is None for row in rows] == [False, True] * 2 and not any(row["error"] for row in rows)
    assert "notes.md (no image)" in corpus.left_alone and ".d.mp4 (hidden)" in corpus.left_alone
    assert open_corpus(tmp_path, Columns(), videos=False).num_rows == 2  # of which dialogues are made


def test_a_video_of_a_folder_that_cannot_be_read_is_a_bad_row(tmp_path, monkeypatch):
    """As an image is that cannot be: it is not left out."""
    (tmp_path / "a.png").touch()
    (tmp_path / "b.mp4").symlink_to("nowhere.mp4")
    os.mkfifo(tmp_path / "c.MOV")
    (tmp_path / os.fsdecode(b"d\xff.mp4")).touch()
    (tmp_path / ".e.mp4").symlink_to("nowhere.mp4")
    monkeypatch.setattr("trainers.data.video_files.find_spec", lambda name: name)
    corpus = open_corpus(tmp_path, Columns())
    errors = {row["id"]: row["error"] for row in corpus.read(0, corpus.num_rows)}
    assert errors.pop("a.png") is None and errors.keys() == {"b.mp4", "c.MOV", r"d\xff.mp4"}
    assert "leads nowhere" in errors["b.mp4"] and "FIFO" in errors["c.MOV"] and "not UTF-8" in errors[r"d\xff.mp4"]
    assert ": 1 files are left alone: .e.mp4 (hidden)" in corpus.left_alone
    monkeypatch.setattr("trainers.data.video_files.find_spec", lambda name: None)
    assert "b.mp4 (a link that leads nowhere" in open_corpus(tmp_path, Columns()).left_alone


def test_without_pyav_the_videos_of_a_folder_are_left_alone_and_it_is_said(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()
    (tmp_path / "b.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    corpus, told = (
        open_corpus(tmp_path, Columns()),
        "b.mp4 (a video, which is read where PyAV is installed: pip install",
    )
    assert corpus.num_rows == 1 and told in corpus.left_alone
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=f"has no images. .*{re.escape(told)}"):
        open_corpus(tmp_path, Columns())


def test_keys_say_frames_and_their_rate():
    frames = [b"one", b"two"]
    keys = {video_key(video) for video in (frames, frames[::-1], {"frames": frames, "fps": 2}, b"one", "one")}
    assert len(keys) == 4 and video_key(tuple(frames)) == video_key(frames)
    assert video_key("one") == video_key(b"one")
