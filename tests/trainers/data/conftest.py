"""Real images as files, and a cache of `datasets` that nobody has written to."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from PIL import Image

from trainers.data.emoji import load_emoji


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where data sets are kept that were made of files."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "coma"


@pytest.fixture(scope="session")
def emoji_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name -> file of a few emoji, drawn by Noto: PNG, JPEG and WebP in turn. Nobody writes to them."""
    folder, files = tmp_path_factory.mktemp("emoji"), {}
    for place, row in enumerate(load_emoji(["noto"]).select(range(0, 180, 20))):
        file = folder / f"{row['label'].replace(' ', '_')}.{('png', 'jpg', 'webp')[place % 3]}"
        picture = Image.alpha_composite(Image.new("RGBA", row["image"].size, "white"), row["image"].convert("RGBA"))
        picture.convert("RGB").save(file)
        files[row["label"]] = file
    return files


@pytest.fixture
def conversation() -> Callable[..., list[dict[str, str]]]:
    """`conversation("q", "a", …)`: messages in turn."""

    def make(*texts: str) -> list[dict[str, str]]:
        return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]

    return make


@pytest.fixture
def write_shard(tmp_path: Path) -> Callable[..., Path]:
    """`write_shard(name, {"key.ending": bytes, …})`."""

    def write(name: str, members: dict[str, bytes]) -> Path:
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as tar:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return tmp_path / name

    return write
