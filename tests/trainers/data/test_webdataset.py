"""Tar shards are streamed, by one worker or several, and what is bad in them is named by shard and key."""

import gzip
import io
import json
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from trainers.compression.collator import ComaCompressionCollator
from trainers.contrastive.collator import ComaContrastiveCollator
from trainers.data.dialogues import DialogueColumns
from trainers.data.pairs import PairColumns
from trainers.data.webdataset import stream_dialogues, stream_pairs


@pytest.fixture
def shards(write_shard: Callable, emoji_files: dict[str, Path], conversation: Callable, tmp_path: Path) -> str:
    """Three shards with three samples each: an image of any kind, a text, a dialogue."""
    samples = list(emoji_files.items())
    for number in range(3):
        members: dict[str, bytes] = {}
        for name, file in samples[3 * number : 3 * number + 3]:
            members[f"in/{file.stem}{file.suffix.upper() if number else file.suffix}"] = file.read_bytes()
            members[f"in/{file.stem}.txt"] = name.encode()
            members[f"in/{file.stem}.json"] = json.dumps(
                {"messages": conversation("What?", name), "kind": "noto"}
            ).encode()
        write_shard(f"part-{number}.tar{'.gz' if number == 1 else ''}", members)
    return str(tmp_path / "part-*.tar*")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pairs_and_dialogues(shards: str, num_workers: int, emoji_files: dict[str, Path], make_coma: Callable) -> None:
    processor, names = make_coma()[1], sorted(emoji_files)
    columns = PairColumns(query_image="image", positive_text="txt", source="kind")
    rows = stream_pairs(shards, columns)
    assert rows.n_shards == 3
    assert sorted(row["positive"]["text"] for row in rows) == names
    first = next(iter(rows))
    file = next(iter(emoji_files.values()))
    assert first["query"]["image"] == {"bytes": file.read_bytes(), "path": None}
    assert first["row"] == f"part-0.tar/in/{file.stem}" and first["source"] == "noto"
    batches = list(DataLoader(rows, 2, num_workers=num_workers, collate_fn=ComaContrastiveCollator(processor)))
    assert sum(len(batch["queries"]) for batch in batches) == 9
    talks = stream_dialogues(shards)
    assert sorted(row["messages"][1]["content"] for row in talks) == names
    batches = list(DataLoader(talks, 2, num_workers=num_workers, collate_fn=ComaCompressionCollator(processor)))
    assert sum(len(batch["labels"]) for batch in batches) == 9


def test_both_trainers_take_streams(
    shards: str, make_coma: Callable, compression_trainer: Callable, contrastive_trainer: Callable
) -> None:
    columns = PairColumns(query_image="image", positive_text="txt")
    for trainer, rows in (
        (compression_trainer, stream_dialogues(shards)),
        (contrastive_trainer, stream_pairs(shards, columns)),
    ):
        training = trainer(make_coma(), rows, max_steps=2)
        training.train()
        assert training.state.global_step == 2 and training.state.log_history[0]["loss"] > 0


def test_several_pictures_llava_and_texts(write_shard: Callable, conversation: Callable) -> None:
    talk = [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "B."}]
    members = {
        "1.b.png": b"B",
        "1.a.png": b"A",
        "1.json": json.dumps({"conversations": talk, "image": "x.png"}).encode(),
    }
    (row,) = stream_dialogues(write_shard("several.tar", members))
    assert [image["bytes"] for image in row["images"]] == [b"A", b"B"] and row["messages"][1]["content"] == "B."
    members = {"1.jpg": b"A", "1.q.txt": b"Why?", "1.a.txt": "So, ü.".encode(), "__pycache__/.hidden": b""}
    (row,) = stream_dialogues(write_shard("texts.tar", members), DialogueColumns(question="q.txt", answer="a.txt"))
    assert row["messages"] == conversation("Why?", "So, ü.")


def test_a_broken_picture_is_named_by_shard_and_key(write_shard: Callable, make_coma: Callable) -> None:
    shard = write_shard("a.tar", {"7.png": b"no image", "7.txt": b"x"})
    rows = stream_pairs(shard, PairColumns(query_image="png", positive_text="txt"))
    with pytest.raises(
        ValueError, match=r"Row a\.tar/7 of the data set is bad: column query\.image: found 8 bytes, exp"
    ):
        list(DataLoader(rows, 2, collate_fn=ComaContrastiveCollator(make_coma()[1])))


GOOD = {"0.png": b"x", "0.txt": b"a"}
BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "no json": ({"1.json": b"{", "1.png": b"x"}, r"column json: found .*, expected JSON"),
    "a list": ({"1.json": b"[]", "1.png": b"x"}, "column json: found list .*, expected a JSON object"),
    "not UTF-8": ({"1.txt": b"\xff", "1.png": b"x"}, "column txt: found 1 bytes, which are not UTF-8"),
    "nothing but an image": ({"1.png": b"x"}, r"column positive: found a row with .* expected a column 'txt'"),
    "an empty image": ({"1.png": b"", "1.txt": b"x"}, "column png: found 0 bytes, expected an image"),
    "an empty text": ({"1.png": b"x", "1.txt": b" "}, "column txt and .*: found neither"),
    "twice": ({"1.png": b"x", "1.txt": b"x", "1.TXT": b"y"}, "column txt: found two members"),
    "a repeated key": (
        {"1.json": b'{"kind": 1, "kind": 2}', "1.png": b"x", "1.txt": b"x"},
        "column json: found the key 'kind' twice in an object",
    ),
    "a key of two JSONs": (
        {"1.a.json": b'{"kind": 1}', "1.b.json": b'{"kind": 2}', "1.png": b"x", "1.txt": b"x"},
        "column b.json: found the key 'kind', which another JSON of the sample has too",
    ),
    "a key and a member": (
        {"1.json": b'{"txt": "y"}', "1.png": b"x", "1.txt": b"x"},
        "column txt: found a member and a key of the JSON",
    ),
    "images that a JSON lists and that are not there": (
        {"1.json": b'{"images": ["a", "b"]}', "1.png": b"x", "1.txt": b"x"},
        "column images: found 2 in the JSON and 1 members",
    ),
    "UTF-16": ({"1.txt": "x".encode("utf-16"), "1.png": b"x"}, "column txt: found 4 bytes, which are not UTF-8"),
    "a NUL": ({"1.txt": b"x\0y", "1.png": b"x"}, "column txt: found .* with a NUL in it"),
    "a path out of the folder": (
        {"1.txt": b"x", "1.json": b'{"image": "../a.png"}'},
        "column image: found '../a.png', expected a path inside of",
    ),
    "deep": ({"1.json": b"[" * 100_000, "1.png": b"x"}, "column json: found .*, expected JSON"),
    "an image as text": (
        {"1.txt": b"x", "1.png": b"x", "1.json": b'{"image": 3}', "1.jpg": b""},
        "column jpg: found 0 b",
    ),
}


@pytest.mark.parametrize(("members", "message"), BAD.values(), ids=BAD)
def test_bad_samples(write_shard: Callable, members: dict[str, bytes], message: str, caplog: Any) -> None:
    last = {name.replace("0.", "2."): content for name, content in GOOD.items()}
    shard = write_shard("a.tar", {**GOOD, **members, **last})
    columns = PairColumns(query_image="image", positive_text="txt")
    with pytest.raises(ValueError, match=rf"^Row a\.tar/1 of the shards is bad: {message}"):
        list(stream_pairs(shard, columns))
    assert [row["row"] for row in stream_pairs(shard, columns, "skip")] == ["a.tar/0", "a.tar/2"]


def test_a_shard_that_ends_in_the_middle(write_shard: Callable) -> None:
    whole = write_shard("a.tar", {**GOOD, "1.png": b"x" * 5000, "1.txt": b"y"})
    whole.write_bytes(whole.read_bytes()[:4000])
    write_shard("b.tar", GOOD)
    columns = PairColumns(query_image="png", positive_text="txt")
    pattern = str(whole.parent / "*.tar")
    with pytest.raises(ValueError, match=r"^Row a\.tar/.* is bad: .*the shard cannot be read: unexpected end of data"):
        list(stream_pairs(pattern, columns))
    assert "b.tar/0" in [row["row"] for row in stream_pairs(pattern, columns, "skip")]


def test_a_compressed_shard_that_ends_anywhere_at_its_beginning(write_shard: Callable) -> None:
    shard = write_shard("a.tar", GOOD)
    data = gzip.compress(shard.read_bytes())
    for length in range(40):
        shard.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"^Row a\.tar/its beginning of the shards is bad"):
            list(stream_pairs(shard, PairColumns(query_image="png", positive_text="txt")))


def test_what_is_wrong_from_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There are no shards: nothing matches"):
        stream_dialogues(tmp_path / "*.tar")
    with pytest.raises(ValueError, match="Name the column of the positive"):
        stream_pairs(tmp_path / "*.tar", PairColumns(query_image="png"))
    with pytest.raises(ValueError, match="on_bad_row='drop' does not exist"):
        stream_dialogues(tmp_path / "*.tar", on_bad_row="drop")


def test_numbers_in_names_count_as_numbers(write_shard: Callable, conversation: Callable) -> None:
    members = {f"1.{number}.png": b"%d" % number for number in (10, 1, 12, 2, 11, 9)}
    members["1.json"] = json.dumps({"messages": conversation("q", "a")}).encode()
    (row,) = stream_dialogues(write_shard("a.tar", members))
    assert [int(image["bytes"]) for image in row["images"]] == [1, 2, 9, 10, 11, 12]


def test_what_systems_leave_is_no_member(write_shard: Callable, conversation: Callable) -> None:
    talk = json.dumps({"messages": conversation("q", "a")}).encode("utf-8-sig")
    members = {"./1.png": b"x", "./1.json": talk, "./._1.png": b"y", "__MACOSX/1.png": b"y", "./.git/1.png": b"y"}
    (row,) = stream_dialogues(write_shard("a.tar", {**members, "Thumbs.db": b"y", "a/.DS_Store": b"y"}))
    assert [image["bytes"] for image in row["images"]] == [b"x"]


def test_members_that_are_no_files(tmp_path: Path) -> None:
    """A link to another image, which some archivers write, is not left out of its sample in silence."""
    kinds = {b"1": tarfile.LNKTYPE, b"2": tarfile.SYMTYPE, b"3": tarfile.FIFOTYPE, b"4": tarfile.CHRTYPE}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in {b"0": None, **kinds, b"5": None}.items():
            for ending, content in (("0.png", b"x"), ("txt", b"t")):
                info = tarfile.TarInfo(f"{name.decode()}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            if kind is not None:
                info = tarfile.TarInfo(f"{name.decode()}.1.png")
                info.type, info.linkname = kind, "0.0.png"
                tar.addfile(info)
    columns = PairColumns(query_image="image", positive_text="txt")
    assert [row["row"] for row in stream_pairs(tmp_path / "a.tar", columns, "skip")] == ["a.tar/0", "a.tar/5"]
    with pytest.raises(ValueError, match=r"^Row a\.tar/1 of the shards is bad: found a link in place of the member 1"):
        list(stream_pairs(tmp_path / "a.tar", columns))


def test_names_that_are_not_utf8(write_shard: Callable) -> None:
    shard = write_shard("a.tar", {**GOOD, "caf\udce9.png": b"x", "caf\udce9.txt": b"x", "2.png": b"x", "2.txt": b"x"})
    columns = PairColumns(query_image="image", positive_text="txt")
    with pytest.raises(ValueError, match=r"^Row a\.tar/caf\\xe9 of the shards is bad: .*not UTF-8"):
        list(stream_pairs(shard, columns))
    assert [row["row"] for row in stream_pairs(shard, columns, "skip")] == ["a.tar/0", "a.tar/2"]
    renamed = shard.rename(shard.with_name("\udce9.tar"))
    assert [row["row"] for row in stream_pairs(renamed, columns, "skip")] == ["\\xe9.tar/0", "\\xe9.tar/2"]


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_shards_that_lack_something_or_have_more(write_shard: Callable, ending: str) -> None:
    columns = PairColumns(query_image="png", positive_text="txt")
    other = {"1.png": b"x", "1.txt": b"b"}
    members = {**GOOD, **other}
    whole = write_shard("a.tar", members).read_bytes()
    pack = gzip.compress if ending == "tar.gz" else bytes
    shard = write_shard("b.tar", GOOD).with_name(f"c.{ending}")
    beyond = 4 * 1024  # of four members with a header and a block each
    for content, message in (
        (whole[:beyond], "it has no end mark and may lack members"),
        (whole + whole, "more follows after its end mark"),
        (whole[:2048] + b"?" * 512 + whole[2560:], "more follows after its end mark or after a damaged header"),
    ):
        shard.write_bytes(pack(content))
        with pytest.raises(ValueError, match=f"of the shards is bad: after it, the shard cannot be read: {message}"):
            list(stream_pairs(shard, columns))
        read = [row["row"].rpartition("/")[2] for row in stream_pairs(shard, columns, "skip")]
        assert read in (["0", "1"], ["0"])
    for place in (20, 60, 100):
        broken = bytearray(gzip.compress(b"".join(random.Random(0).randbytes(512) for _ in range(4)) + whole))
        broken[place] ^= 255
        shard.write_bytes(broken)
        with pytest.raises(ValueError, match=f"^Row c.{ending}/its beginning of the shards is bad"):
            list(stream_pairs(shard, columns))


def test_shards_are_files(tmp_path: Path, write_shard: Callable) -> None:
    os.mkfifo(tmp_path / "a.tar")
    for shards in (tmp_path / "*.tar", tmp_path / "a.tar"):
        with pytest.raises(ValueError, match=r"a\.tar must be a file; it is a FIFO"):
            stream_dialogues(shards)
    (shard,) = [write_shard("b[1].tar", GOOD)]
    assert len(list(stream_pairs(shard, PairColumns(query_image="png", positive_text="txt")))) == 1


def test_paths_in_a_json_begin_at_the_image_root(write_shard: Callable, tmp_path: Path) -> None:
    shard = write_shard("a.tar", {"1.json": b'{"image": "a.png"}', "1.txt": b"x"})
    columns = PairColumns(query_image="image", positive_text="txt")
    for root, folder in ((None, tmp_path), (tmp_path / "images", tmp_path / "images")):
        (row,) = stream_pairs(shard, columns, image_root=root)
        assert row["query"]["image"]["path"] == str(folder / "a.png")


def test_videos_are_members_as_images_are(write_shard: Callable, conversation: Callable) -> None:
    talk = json.dumps({"messages": conversation("<video>q<video>", "a")}).encode()
    members = {"1.2.webm": b"2", "1.10.MP4": b"10", "1.jpg": b"I", "1.json": talk, "1.txt": b"t"}
    shard = write_shard("a.tar", {**members, "2.json": b'{"conversations": []}'})
    (row,) = stream_dialogues(shard, on_bad_row="skip")
    assert [video["bytes"] for video in row["videos"]] == [b"2", b"10"] and len(row["images"]) == 1
    assert row["messages"][0]["content"] == "q"
    columns = PairColumns(query_video="video", query_image="image", positive_text="txt")
    (pair,) = stream_pairs(shard, columns, on_bad_row="skip")
    assert (pair["query"]["video"]["bytes"], pair["query"]["image"]["bytes"]) == (b"2", b"I")


def test_the_first_samples_say_whether_there_are_videos(write_shard: Callable, conversation: Callable) -> None:
    talk = json.dumps({"messages": conversation("q", "a")}).encode()
    turns = [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}]
    llava = json.dumps({"video": "x.mp4", "conversations": turns}).encode()
    images = write_shard("a.tar", {f"{n:03}.{end}": talk for n in range(100) for end in ("png", "json")})
    videos = write_shard("b.tar", {"1.mp4": b"V", "1.json": llava, "2.json": llava})
    assert "videos" not in stream_dialogues(images).features
    rows = list(stream_dialogues([videos, images]))
    assert len(rows) == 102 and rows[0]["videos"] == [{"bytes": b"V", "path": None}] and rows[-1]["videos"] == []
    assert rows[1]["videos"][0]["path"] == str(videos.with_name("x.mp4"))
    with pytest.raises(ValueError, match=r"Row b\.tar/1 .*found the first video of the shards, .* a shard with"):
        list(stream_dialogues([images, videos]))
