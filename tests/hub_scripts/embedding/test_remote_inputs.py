"""A table in a storage is fetched once, anew when it has changed, and read as a file of that name."""

import functools
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pytest

from hub_scripts.embed import embed_table
from hub_scripts.embedding.remote_inputs import find_inputs
from hub_scripts.embedding.store import read_vectors


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fsspec.AbstractFileSystem:
    """A storage in memory, and a folder of this test for what is fetched."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "fetched"))
    files = fsspec.filesystem("memory")
    files.pipe("/bucket/t.jsonl", b'{"text": "an apple"}\n{"text": " "}\n')
    yield files
    files.rm("/bucket", recursive=True)


def test_it_is_fetched_once_and_again_when_it_has_changed(storage: fsspec.AbstractFileSystem) -> None:
    source = find_inputs("memory://bucket/t.jsonl")
    file = source.fetch()
    assert file.name == "t.jsonl" and file.read_bytes() == storage.cat("/bucket/t.jsonl")
    written = file.stat().st_mtime_ns
    assert find_inputs("memory://bucket/t.jsonl").fetch() == file and file.stat().st_mtime_ns == written
    storage.pipe("/bucket/t.jsonl", b'{"text": "a pear"}\n')
    other = find_inputs("memory://bucket/t.jsonl").fetch()
    assert other != file and other.read_bytes() == b'{"text": "a pear"}\n'


def test_rows_and_faults_are_those_of_a_file(
    storage: fsspec.AbstractFileSystem, coma_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="Row 1 is empty"):
        embed_table(coma_folder, "memory://bucket/t.jsonl", tmp_path / "out", part_rows=1)
    made = embed_table(coma_folder, "memory://bucket/t.jsonl", tmp_path / "out", part_rows=1, on_error="skip")
    assert (made.num_rows, made.num_embedded, made.num_skipped) == (1, 0, 1)
    (found,) = read_vectors(tmp_path / "out")
    assert found.rows["text"].to_pylist() == ["an apple"]


def test_paths_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("photos", Path("photos"), f"file://{tmp_path}/photos"):
        source = find_inputs(given)
        assert source.fetch() == tmp_path / "photos" and source.name == str(tmp_path / "photos")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bucket/nothing.jsonl", "memory://bucket/nothing.jsonl cannot be read: "),
        ("memory://bucket/photos/", "from object storage only files are read that end with .csv, .*Pack a folder"),
        ("nowhere://bucket/t.csv", "nowhere://bucket/t.csv cannot be read: Protocol not known: nowhere"),
    ],
)
def test_what_cannot_be_read_is_said(storage: fsspec.AbstractFileSystem, url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_inputs(url)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a server that gives what is in a folder."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "t.csv").write_text("text\nan apple\n")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "served")))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_over_the_network(served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "fetched"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    source = find_inputs(f"{served}/t.csv")
    assert source.fetch().read_text() == "text\nan apple\n"
    (tmp_path / "served" / "t.csv").write_text("text\na pear!!\n")  # as long, and this server has no tags
    assert find_inputs(f"{served}/t.csv").fetch().read_text() == "text\na pear!!\n"
    with pytest.raises(ValueError, match="missing.csv cannot be read: "):
        find_inputs(f"{served}/missing.csv")
    (tmp_path / "served" / "t.csv").unlink()
    with pytest.raises(ValueError, match="t.csv cannot be fetched: "):
        source._replace(path=tmp_path / "fetched" / "again.csv").fetch()
