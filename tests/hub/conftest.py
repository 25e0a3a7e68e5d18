"""The Hub of server.py for every test here, and the real client pointed at it, in this process and its children."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import transformers.utils.hub

from tests.hub.repositories import READER, WRITER
from tests.hub.server import LocalHub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A `LocalHub` without repositories; who asks has write access. Parts of uploads are of 100 KB."""
    with LocalHub(part_size=100_000).running() as hub:
        point_client_at(hub.endpoint, tmp_path / "hf_home", monkeypatch)
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files as those of a model, of a few bytes each; the weights are in two."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: org/backbone\n---\n# A model\n")
    (folder / "config.json").write_text('{"model_type": "coma"}')
    (folder / "modeling_coma.py").write_text('"""Code."""\n')
    (folder / "model-00001-of-00002.safetensors").write_bytes(bytes(range(250)) * 1000)  # in three parts
    (folder / "model-00002-of-00002.safetensors").write_bytes(bytes(range(200)))
    return folder


@pytest.fixture
def as_reader(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it takes the token with write access away and leaves one that may read."""
    return lambda: monkeypatch.setenv("HF_TOKEN", READER)


def point_client_at(endpoint: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`HF_ENDPOINT` and its kin are read when `huggingface_hub` is imported. In this process that was long ago: the
    constants that they are read into are set as well."""
    environment = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_TOKEN": WRITER}
    for name, value in {**environment, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    constants = {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(home / "hub"),
    }
    for name, value in constants.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # a client that has been at another
