"""Folders as systems leave them: what is hidden is no image, what cannot be read is told and obeys the policy."""

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from modeling_coma.inputs_coma import to_rgb
from trainers.data.corpus import Columns, open_corpus
from trainers.data.folders import load_folder, load_folder_dialogues, load_folder_pairs
from trainers.data.image_folders import walk_images
from trainers.data.rows import BadRows, NumberedRows


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images, and what macOS, Windows and a NAS put beside them."""
    left = ["._a.jpg", ".DS_Store", "__MACOSX/._a.jpg", "__MACOSX/a.jpg", ".cache/b.png", "@eaDir/a.jpg/THUMB.jpg"]
    for name in ["a.jpg", "more/b.PNG", "Thumbs.db", "notes.md", "more/.hidden.png", *left]:
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return tmp_path / "photos"


def names_of(folder: Path) -> list[str]:
    return [Path(row["images"][0]["path"]).name for row in NumberedRows(load_folder(folder))]


def test_what_systems_leave_is_no_image(photos: Path) -> None:
    assert names_of(photos) == ["a.jpg", "b.PNG"]
    assert list(load_folder_pairs(photos, "names")["positive"]) == [
        {"text": "a", "image": None},
        {"text": "b", "image": None},
    ]
    assert len(load_folder_dialogues(photos, "folders")) == 2
    corpus = open_corpus(photos, Columns())
    assert [row["id"] for row in corpus.read(0, 2)] == ["a.jpg", "more/b.PNG"]
    assert ": 8 files are left alone: " in corpus.left_alone  # folders of the system among them
    told = ("._a.jpg (hidden)", "__MACOSX (of the system)", "Thumbs.db (of the system)", "notes.md (no image)")
    assert all(words in corpus.left_alone for words in told)


def break_it(photos: Path) -> dict[str, str]:
    """What cannot be read, by the name that it has in messages, and why."""
    (photos / "dangling.png").symlink_to("nowhere.png")
    (photos / "dangling_folder").symlink_to("/not/mounted")
    (photos / "dangling.md").symlink_to("nowhere.md")  # no image in any case
    (photos / "itself.png").symlink_to("itself.png")
    (photos / "more" / "up").symlink_to(photos)
    os.mkfifo(photos / "fifo.png")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(photos / "socket.jpg"))
    server.close()
    (photos / "device.png").symlink_to("/dev/zero")
    (photos / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    return {
        r"caf\xe9.png": "not UTF-8",
        "dangling.png": "a link that leads nowhere",
        "dangling_folder": "a link that leads nowhere",
        "device.png": "a FIFO, a device or a socket",
        "fifo.png": "a FIFO, a device or a socket",
        "itself.png": "a link that leads nowhere",
        "more/up": "a link that leads back to",
        "socket.jpg": "a FIFO, a device or a socket",
    }


def test_what_cannot_be_read_is_told(photos: Path) -> None:
    broken = break_it(photos)
    found = {image.name: image.error for image in walk_images(photos).images if image.error is not None}
    assert found.keys() == broken.keys() and all(words in found[name] for name, words in broken.items())
    bad_rows = BadRows("skip")
    assert len(load_folder(photos, bad_rows)) == 2 and bad_rows.skipped == len(broken)
    assert all(reason.startswith(tuple(broken)) for reason in bad_rows.reasons.values())
    assert len(load_folder_pairs(photos, "names", "skip")) == 2
    with pytest.raises(ValueError, match=r"^Row 1 of photos is bad: caf\\xe9\.png: its name"):
        load_folder(photos)
    corpus = open_corpus(photos, Columns())
    rows = {row["id"]: row for row in corpus.read(0, corpus.num_rows)}
    assert {name for name, row in rows.items() if row["error"]} == broken.keys()
    for number, (name, row) in enumerate(rows.items()):
        if name in broken:
            assert row["error"].startswith(f"Row {number} of photos: {name}: ") and row["image"] is None
            name.encode(), row["error"].encode()


def test_a_folder_that_cannot_be_listed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its listing fails as for a user without rights, which the tests may have all of."""
    listed = os.listdir

    def listdir(folder: str) -> list[str]:
        if str(folder).endswith("more"):
            raise PermissionError(13, "Permission denied", folder)
        return listed(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    (bad,) = [image for image in walk_images(photos).images if image.error]
    assert bad == ("more", "the folder cannot be listed: Permission denied")
    with pytest.raises(ValueError, match="^Row 1 of photos is bad: more: the folder cannot be listed"):
        load_folder(photos)


FORMATS = {"PNG": "png", "JPEG": "", "GIF": "dat", "BMP": "jpg_large", "TIFF": "img", "WEBP": "part", "AVIF": "HEIC.1"}


def test_images_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    """Without a suffix, with one that says nothing, with a wrong one, and in capitals."""
    names = [f"{place}.{suffix}".rstrip(".") for place, suffix in enumerate(FORMATS.values())] + ["7.PNG", "8.jpeg"]
    for name, kind in zip(names, [*FORMATS, "PNG", "PNG"], strict=True):
        Image.new("RGB", (8, 4), "red").save(tmp_path / name, format=kind)
    for name, content in (("notes", b"BMX, notes"), ("a.json", b"{}"), ("b", b""), ("c.pdf", b"%PDF-1.7 of a page")):
        (tmp_path / name).write_bytes(content)
    images, left_alone = walk_images(tmp_path)
    assert [image.name for image in images] == names and not any(image.error for image in images)
    assert {name for name, _ in left_alone} == {"notes", "a.json", "b", "c.pdf"}
    assert all(to_rgb(tmp_path / name).size == (8, 4) for name in names)


def test_of_many_files_left_alone_the_first_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    for number in range(100):
        (tmp_path / f"{number:03}.md").touch()
    os.mkfifo(tmp_path / "z.md")
    load_folder(tmp_path)
    (line,) = [record.message for record in caplog.records if "left alone" in record.message]
    assert ": 101 files are left alone: 000.md (no image), " in line and line.endswith("007.md (no image) and 93 more")
    assert walk_images(tmp_path).left_alone[-1] == ("z.md", "a FIFO, a device or a socket, and no file")


def test_folders_of_links(photos: Path, tmp_path: Path) -> None:
    """As on clusters: the links are in the folder, the files are elsewhere."""
    links = tmp_path / "links"
    links.mkdir()
    (links / "1.jpg").symlink_to(photos / "a.jpg")
    (links / "set").symlink_to(photos / "more")
    (links / "twin").symlink_to(photos / "more")
    assert [image.name for image in walk_images(links).images] == ["1.jpg", "set/b.PNG", "twin/b.PNG"]


def test_a_folder_whose_own_name_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / "a.png").write_bytes(b"x")
    for load in (load_folder, lambda path: open_corpus(path, Columns())):
        with pytest.raises(ValueError, match=r"\\xff: the name of the folder is not UTF-8"):
            load(folder)


def test_a_caption_beside_an_image(photos: Path) -> None:
    (photos / "more" / "b.txt").write_text("a b", encoding="utf-8-sig")
    os.mkfifo(photos / "a.txt")
    bad_rows = BadRows("skip")
    rows = load_folder_pairs(photos, "sidecar", bad_rows)
    assert list(rows["positive"]) == [{"text": "a b", "image": None}]
    assert "it is a FIFO" in bad_rows.reasons[0]
    (photos / "a.txt").unlink()
    for encoding in ("utf-16", "cp1252"):
        (photos / "a.txt").write_text("schön", encoding=encoding)
        assert load_folder_pairs(photos, "sidecar")["positive"][0]["text"] == "schön"
    (photos / "a.txt").write_text("schön", encoding="utf-32")
    with pytest.raises(ValueError, match="^Row 0 of photos is bad: column sidecar: .*is UTF-32"):
        load_folder_pairs(photos, "sidecar")
