"""A folder of images as it is, and with captions from names, folders and files beside the images."""

import re
import shutil
from pathlib import Path

import pytest

from trainers.compression.collator import ComaCompressionCollator
from trainers.contrastive.collator import ComaContrastiveCollator
from trainers.data.folders import load_folder, load_folder_dialogues, load_folder_pairs
from trainers.data.rows import BadRows, NumberedRows


@pytest.fixture
def photos(emoji_files: dict[str, Path], tmp_path: Path) -> Path:
    """Images in two folders, each with a caption beside it, and a file that is none."""
    for place, (name, file) in enumerate(emoji_files.items()):
        folder = tmp_path / "photos" / ("sad_faces", "happy-faces")[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
        (folder / file.name).with_suffix(".txt").write_text(f"A drawing of a {name}.\n", encoding="utf-8")
    (tmp_path / "photos" / "notes.md").write_text("no image")
    return tmp_path / "photos"


def test_pictures_alone(photos: Path, emoji_files: dict[str, Path]) -> None:
    rows = load_folder(photos)
    paths = [row["images"][0]["path"] for row in NumberedRows(rows)]
    assert sorted(Path(path).name for path in paths) == sorted(file.name for file in emoji_files.values())
    assert paths == sorted(paths) and rows[0]["images"][0].size[0] > 0 and set(rows["text"]) == {None}
    (photos / "a_new_one.png").write_bytes((photos / paths[0]).read_bytes())
    assert len(load_folder(photos)) == len(rows) + 1


@pytest.mark.parametrize("captions", ["names", "folders", "sidecar"])
def test_captions(captions: str, photos: Path, emoji_files: dict[str, Path], make_coma) -> None:
    expected = {
        "names": {name.replace("-", " ") for name in emoji_files},
        "folders": {"sad faces", "happy faces"},
        "sidecar": {f"A drawing of a {name}." for name in emoji_files},
    }[captions]
    pairs, talks = load_folder_pairs(photos, captions), load_folder_dialogues(photos, captions, "What is it?")
    found = NumberedRows(pairs).__getitems__(range(len(pairs)))
    assert {row["positive"]["text"] for row in found} == expected
    assert {row["source"] for row in found} == {"sad_faces", "happy-faces"}
    assert {row["messages"][1]["content"] for row in talks} == expected
    assert {row["messages"][0]["content"] for row in talks} == {"What is it?"}
    processor = make_coma()[1]
    assert len(ComaContrastiveCollator(processor)(found)["queries"]) == len(emoji_files)
    assert len(ComaCompressionCollator(processor)(NumberedRows(talks).__getitems__([0, 1]))["labels"]) == 2


def test_a_caption_that_changes_is_seen(photos: Path) -> None:
    before = list(load_folder_pairs(photos, "sidecar")["positive"])
    beside = next(photos.rglob("*.txt"))
    beside.write_text("Something else, at last.")
    assert list(load_folder_pairs(photos, "sidecar")["positive"]) != before


def test_what_is_missing_is_said(photos: Path) -> None:
    files = sorted(photos.rglob("*.txt"))
    files[0].unlink()
    files[1].write_text("a drawing", encoding="utf-32")
    files[2].write_text("  ")
    bad_rows = BadRows("skip")
    rows = load_folder_pairs(photos, "sidecar", bad_rows)
    assert len(rows) == len(files) - 3 and list(bad_rows.reasons) == [0, 1, 2]
    for reason, words in zip(bad_rows.reasons.values(), (r"no .*\.txt beside", "is UTF-32", "no words"), strict=True):
        assert re.match(f"column sidecar: found .*{words}.*, expected a caption", reason)
    with pytest.raises(
        ValueError, match=r"^Row 0 of photos is bad: column sidecar: found no .* expected a caption in it"
    ):
        load_folder_dialogues(photos, "sidecar")
    with pytest.raises(ValueError, match="captions='exif' does not exist; choose one of names, folders, sidecar"):
        load_folder_pairs(photos, "exif")
    for folder in (photos / "nothing", photos / "notes.md"):
        with pytest.raises(ValueError, match="must be a folder with images in it"):
            load_folder(folder)
