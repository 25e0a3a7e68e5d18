"""Paths of tables stay in the folder they begin at, in every reader; values that are no paths are bad rows."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hub_scripts.evaluation.data import open_sets
from trainers.data.corpus import Columns, open_corpus
from trainers.data.dialogues import load_dialogues
from trainers.data.images import images_of, root_of
from trainers.data.llava import load_llava
from trainers.data.mmeb.train import load_mmeb_train
from trainers.data.pairs import PairColumns, load_pairs, load_triplets
from trainers.data.rows import NumberedRows


MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
TURNS = [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}]
IN_A_BLOCK = [
    {"role": "user", "content": [{"type": "image", "path": "?"}, {"type": "text", "text": "q"}]},
    MESSAGES[1],
]
# How rows are loaded with an image root, and a row with the path ? in it.
READERS: dict[str, tuple[Callable, dict]] = {
    "pairs": (
        lambda path, root: load_pairs(path, PairColumns(query_text="q", positive_image="p"), root),
        {"q": "a", "p": "?"},
    ),
    "ready": (lambda path, root: load_pairs(path, None, root), {"query": "a", "positive": {"image": "?"}}),
    "triplets": (load_triplets, {"anchor": "a", "positive": {"image": "?"}}),
    "negatives": (load_triplets, {"anchor": "a", "positive": "b", "negative": {"image": "?"}}),
    "messages": (load_dialogues, {"images": ["?"], "messages": MESSAGES}),
    "blocks": (load_dialogues, {"messages": IN_A_BLOCK}),
    "llava": (load_llava, {"image": "?", "conversations": TURNS}),
    "mmeb": (
        lambda path, root: load_mmeb_train(path.parent.parent, ["CIRR"], image_root=root),
        {"qry": "<|image_1|>a", "qry_image_path": "?", "pos_text": "b", "pos_image_path": ""},
    ),
    "embed": (lambda path, root: open_corpus(path, Columns(text="none"), root), {"image": "?", "none": "a"}),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """`data/CIRR/original.jsonl` is the table, `images` the root, `secret.png` beside both."""
    (tmp_path / "data" / "CIRR").mkdir(parents=True)
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for file in ("images/a.png", "images/sub/a.png", "data/CIRR/a.png", "data/a.png", "secret.png"):
        (tmp_path / file).write_bytes(b"x")
    return tmp_path


def paths_in(place: Path, reader: str, value: str, root: Path | None) -> list[str]:
    """The paths of the images that a table with this value has."""
    load, row = READERS[reader]
    table = place / "data" / "CIRR" / "original.jsonl"
    table.write_text(json.dumps(row).replace('"?"', json.dumps(value)))
    loaded = load(table, root)
    if reader == "embed":
        (only,) = loaded.read(0, 1)
        if only["error"]:
            raise ValueError(only["error"])
        return [only["image"]]
    return [image for _, image in images_of(NumberedRows(loaded)[0])]


@pytest.mark.parametrize("reader", READERS)
def test_paths_may_not_leave_the_image_root(place: Path, reader: str) -> None:
    root = place / "images"
    for inside, path in (
        ("a.png", root / "a.png"),
        ("sub/../a.png", root / "a.png"),
        ("./sub//a.png", root / "sub" / "a.png"),
        (str(root / "a.png"), root / "a.png"),
        (f"file://{root}/a.png", root / "a.png"),
    ):
        assert paths_in(place, reader, inside, root) == [str(path)]
    for outside in (
        "../secret.png",
        "sub/../../secret.png",
        str(place / "secret.png"),
        f"file://{place}/secret.png",
        f"{root}/../secret.png",
        f"{root}2/a.png",
        "/etc/passwd",
    ):
        with pytest.raises(ValueError, match=r"^Row 0 of \S+.*: column .*, expected a path inside of .*/images"):
            paths_in(place, reader, outside, root)


@pytest.mark.parametrize("reader", [name for name in READERS if name != "mmeb"])
def test_without_a_root_an_absolute_path_is_taken(place: Path, reader: str) -> None:
    assert paths_in(place, reader, "a.png", None) == [str(place / "data" / "CIRR" / "a.png")]
    assert paths_in(place, reader, str(place / "secret.png"), None) == [str(place / "secret.png")]
    with pytest.raises(ValueError, match="expected a path inside of"):
        paths_in(place, reader, "../../secret.png", None)


def test_links_in_the_root_are_followed_and_a_path_after_one_is_not(place: Path) -> None:
    (place / "images" / "link.png").symlink_to(place / "secret.png")
    (place / "images" / "folder").symlink_to(place / "data" / "CIRR")
    root = root_of(None, place / "images")
    assert Path(root.path("link.png", "c")).read_bytes() == b"x"
    # The system would go through the link and from there up, out of the root: to data/a.png.
    assert root.path("folder/../a.png", "c") == str(place / "images" / "a.png")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "value", ["x" * 5000, "a/" * 2500 + "a.png", "ü" * 200, "iVBORw0KGgo" * 400, "http://a/b.png"]
)
def test_values_that_are_no_paths(place: Path, reader: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"^Row 0 of \S+.*: column .*: found .*, expected") as error:
        paths_in(place, reader, value, None)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("value", [{"bytes": "aGVsbG8="}, {"bytes": 3}, {"bytes": [1, 2]}])
def test_bytes_are_bytes(tmp_path: Path, value: dict) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"query": "a", "positive": {"image": value}}))
    with pytest.raises(ValueError, match=r"column positive\.image\.bytes: found .*, expected the bytes of a file"):
        load_pairs(tmp_path / "t.jsonl")


def test_paths_of_mmeb_may_not_leave_the_root(place: Path) -> None:
    (place / "eval" / "CIRR").mkdir(parents=True)
    os.symlink(place / "images", place / "eval" / "images")
    for path, told in (
        ("images/a.png", None),
        ("../secret.png", "inside of"),
        (str(place / "secret.png"), "inside of"),
    ):
        row = {"qry_text": "<|image_1|>q", "qry_img_path": path, "tgt_text": ["a", "b"], "tgt_img_path": ["", ""]}
        (place / "eval" / "CIRR" / "test.jsonl").write_text(json.dumps(row))
        (one,) = open_sets([str(place / "eval")], {"CIRR"})
        if told is None:
            assert len(one.read().items) == 3
        else:
            with pytest.raises(ValueError, match=f"^Row 0 of CIRR, column qry_img_path: found .*{told}"):
                one.read()


@pytest.mark.parametrize("reader", READERS)
def test_paths_of_windows(place: Path, reader: str) -> None:
    root = place / "images"
    for written in (r"sub\a.png", r".\sub\a.png", r"sub\..\sub\a.png", r"sub\/a.png"):
        assert paths_in(place, reader, written, root) == [str(root / "sub" / "a.png")]
    for written in (
        r"C:\Users\me\sub\a.png",
        "C:/Users/me/sub/a.png",
        r"\\server\me\sub\a.png",
        "file:///C:/sub/a.png",
    ):
        with pytest.raises(ValueError, match=r"^Row 0 of \S+.*: column .*: found .*a\.png.*Windows.*images") as error:
            paths_in(place, reader, written, root)
        assert "'sub/a.png' is there, so leave out what stands before it" in str(error.value)
    with pytest.raises(ValueError, match="begins at a drive of Windows and leads nowhere here, expected a path from"):
        paths_in(place, reader, r"D:\nowhere.png", root)
    with pytest.raises(ValueError, match="expected a path inside of"):
        paths_in(place, reader, r"..\secret.png", root)


def test_a_backslash_in_a_name_stays_one(place: Path) -> None:
    (place / "images" / r"sub\a.png").write_bytes(b"y")
    (place / "images" / "C:").mkdir()
    (place / "images" / "C:" / "a.png").write_bytes(b"z")
    root = root_of(None, place / "images")
    assert Path(root.path(r"sub\a.png", "c")).read_bytes() == b"y"
    assert Path(root.path("C:\\a.png", "c")).read_bytes() == b"z"
    assert root.path(r"gone\a.png", "c") == str(place / "images" / "gone" / "a.png")  # whoever opens it says so
