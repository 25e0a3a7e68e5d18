"""A folder for a Space has all that its page needs, and nothing that is only here."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from hub_scripts.app_page import space
from hub_scripts.app_page.session import Session
from hub_scripts.app_page.space import write_space
from hub_scripts.embedding.opened import OpenStore


@pytest.fixture(autouse=True)
def gradio_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether Gradio is installed or not."""
    monkeypatch.setattr(space, "version", lambda name: "6.31.0")


def test_the_folder_is_complete(session: Session, tmp_path: Path) -> None:
    size = write_space(session.index.path, tmp_path / "space", "my-org/my-coma", session.pictures.root)
    folder = tmp_path / "space"
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "app.py",
        "requirements.txt",
        "index.parquet",
        "images",
    }
    copied = [path for path in folder.rglob("*") if path.is_file() and path.parent.parent.name == "images"]
    assert (
        size == sum(path.stat().st_size for path in copied) + session.index.path.stat().st_size and len(copied) == 60
    )
    header = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert header["sdk"] == "gradio" and header["sdk_version"] == "6.31.0" and header["models"] == ["my-org/my-coma"]
    assert (folder / header["app_file"]).is_file()
    (call,) = [node for node in ast.walk(ast.parse((folder / "app.py").read_text())) if isinstance(node, ast.With)]
    options = {word.arg: ast.literal_eval(word.value) for word in call.items[0].context_expr.keywords}
    assert options["model"] == "my-org/my-coma" and options["host"] == "0.0.0.0"
    there = Session(OpenStore(folder / "index.parquet"), session.coma, folder / options["image_root"])
    for hit in there.search("red apple", None, 60):
        assert there.pictures.open(hit.row["image"]).size == session.pictures.open(hit.row["image"]).size


def test_a_model_that_is_only_here_is_refused(session: Session, coma_folder: Path, tmp_path: Path) -> None:
    for name in (None, str(coma_folder), "my-coma", "../my/coma"):
        with pytest.raises(ValueError, match="A Space loads its model from the Hub.*coma push"):
            write_space(session.index.path, tmp_path / "space", name, session.pictures.root)
    assert not (tmp_path / "space").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [("../secret.png", "outside the image root"), ("{root}/secret.png", "absolute path"), ("no.png", "is no file")],
)
def test_what_does_not_belong_is_refused(
    make_index: Callable, tmp_path: Path, path: str, message: str, picture: Callable
) -> None:
    (tmp_path / "root").mkdir()
    for place in (tmp_path, tmp_path / "root"):
        picture().save(place / "secret.png")
    index = make_index(tmp_path, [{"id": "a", "image": path.format(root=tmp_path / "root")}])
    with pytest.raises(ValueError, match=message):
        write_space(index, tmp_path / "space", "my-org/my-coma", tmp_path / "root")
    assert not (tmp_path / "space").exists()


def test_it_stays_below_its_limit_and_images_are_small(make_index: Callable, tmp_path: Path) -> None:
    Image.effect_noise((2000, 1000), 50).save(tmp_path / "large.png")
    index = make_index(tmp_path, [{"id": "a", "image": "large.png"}, {"id": "b"}, {"id": "c", "image": "./large.png"}])
    size = write_space(index, tmp_path / "space", "my-org/my-coma", tmp_path)
    assert Image.open(tmp_path / "space" / "images" / "large.png").size == (512, 256)
    with pytest.raises(ValueError, match=f"over {size - 1} bytes"):
        write_space(index, tmp_path / "other", "my-org/my-coma", tmp_path, limit=size - 1)
    assert not (tmp_path / "other").exists()
