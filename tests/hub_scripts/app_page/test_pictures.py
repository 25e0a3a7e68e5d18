"""Nothing outside of the image root is opened, whatever an index says."""

import base64
import io
import os
from pathlib import Path

import pytest
from PIL import Image

from hub_scripts.app_page.pictures import SIDE, Pictures, thumbnail
from tests.pdf_files import write_pdf


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one image, beside another that is not to be seen, and ways from one to the other."""
    for name in ("root", "root2", "root/inner"):
        (tmp_path / name).mkdir()
    for name in ("root/seen.png", "root/inner/seen.png", "secret.png", "root2/secret.png"):
        Image.new("RGB", (300, 100), "red").save(tmp_path / name)
    (tmp_path / "root" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "root" / "folder").symlink_to(tmp_path / "root2")
    (tmp_path / "root" / "circle.png").symlink_to("circle.png")
    (tmp_path / "root" / "within.png").symlink_to("seen.png")
    os.mkfifo(tmp_path / "root" / "pipe.png")
    for name in ("bad.png", "clip.MP4"):
        (tmp_path / "root" / name).write_bytes(b"no image")
    return tmp_path / "root"


@pytest.mark.parametrize("path", ["seen.png", "inner/seen.png", "inner/../seen.png", "./seen.png", "within.png"])
def test_what_lies_below_the_root_is_shown(root: Path, path: str) -> None:
    pictures = Pictures(root, max_pixels=30_000)
    assert pictures.open(path).size == (300, 100)
    assert pictures.open(str(root / path)).size == (300, 100)


def test_pages_of_pdfs_below_the_root_are_shown(root: Path) -> None:
    write_pdf(root / "a.pdf", ["apple"])
    write_pdf(root.parent / "secret.pdf", ["secret"])
    (root / "link.pdf").symlink_to(root.parent / "secret.pdf")
    pictures = Pictures(root, max_pixels=30_000)
    write_pdf(root / "inner" / "0f3a", ["apple"])  # as caches name files, and link to them
    (root / "b.pdf").symlink_to("inner/0f3a")
    assert pictures.open("a.pdf#1").size == pictures.open("b.pdf#1").size == (245, 123)
    for outside in ("../secret.pdf#1", "link.pdf#1", f"{root.parent}/secret.pdf#1"):
        with pytest.raises(ValueError, match="outside the image root"):
            pictures.open(outside)
    with pytest.raises(ValueError, match="'a.pdf#2': there is no page 2"):
        pictures.open("a.pdf#2")


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "inner/../../secret.png",
        "../root2/secret.png",
        "link.png",
        "folder/secret.png",
        "{root}/../secret.png",
        "{root}2/secret.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "file:{root}/../secret.png",
        "~/secret.png",
        "..\\secret.png",
        "https://example.org/secret.png",
        "data:image/png;base64,AAAA",
        "a\0b.png",
        "",
        ".",
        "..",
        "x" * 5000,
    ],
)
def test_what_leads_elsewhere_is_refused(root: Path, path: str) -> None:
    path = path.format(root=root)
    with pytest.raises(
        ValueError, match=r"^(outside the image root: |~/secret.png is no file|\. is no file)"
    ) as error:
        Pictures(root, max_pixels=30_000).open(path)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.png", "no.png is no file below the image root"),
        ("pipe.png", "pipe.png is no file below"),
        ("circle.png", "circle.png"),
        ("inner", "inner is no file below"),
        ("bad.png", "cannot decode the image 'bad.png'"),
        ("clip.MP4", "clip.MP4 is a video, and this page shows images"),
    ],
)
def test_what_is_no_image_is_named_without_its_folder(root: Path, path: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        Pictures(root, max_pixels=30_000).open(path)
    assert message in str(error.value) and str(root) not in str(error.value)


def test_too_many_pixels_are_not_decoded(root: Path) -> None:
    with pytest.raises(ValueError, match="300x100 pixels are over the limit of 29999"):
        Pictures(root, max_pixels=29_999).open("seen.png")


def test_a_root_behind_a_link_is_a_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "there").symlink_to(root)
    assert Pictures(tmp_path / "there", 30_000).open("seen.png").size == (300, 100)
    with pytest.raises(ValueError, match="There is no folder"):
        Pictures(tmp_path / "nowhere", 30_000)


def test_a_thumbnail_is_small_and_has_nothing_of_the_file_but_colours() -> None:
    image = Image.new("RGB", (2000, 500), "red")
    image.info["comment"] = "secret"
    kind, _, content = thumbnail(image).partition(";base64,")
    small = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (kind, small.format, small.size) == ("data:image/jpeg", "JPEG", (SIDE, SIDE // 4))
    assert "comment" not in small.info and image.size == (2000, 500)
