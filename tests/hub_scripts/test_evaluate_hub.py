"""`coma evaluate` reads sets by the name of a data set on the Hub: the real client, a server that speaks its API."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.mmeb_folders import v1_rows, visual_documents, write_rows


ROOT = Path(__file__).resolve().parents[2]
COMMIT = "c" * 40
pytestmark = pytest.mark.slow


class DatasetHub(BaseHTTPRequestHandler):
    """Data sets in folders ORGANISATION/NAME of `root`, to be read."""

    root: Path

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            self.api("/".join(parts[2:4]), parts[4:])
        elif parts[0] == "datasets" and "resolve" in parts:
            self.file(self.root / "/".join(parts[1:3]) / "/".join(parts[parts.index("resolve") + 2 :]))
        else:
            self.send(404, b"{}")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = self.path.strip("/").split("/")  # paths-info
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send(200, json.dumps(self.entries("/".join(path[2:4]))).encode())

    def api(self, name: str, rest: list[str]) -> None:
        if not (self.root / name).is_dir():
            self.send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        elif rest[:1] == ["tree"]:
            below = "/".join(rest[2:])
            entries = [one for one in self.entries(name) if one["path"].startswith(f"{below}/" if below else "")]
            self.send(200, json.dumps(entries).encode())
        else:
            files = [{"rfilename": one["path"]} for one in self.entries(name) if one["type"] == "file"]
            info = {"id": name, "sha": COMMIT, "siblings": files, "private": False, "gated": False, "tags": []}
            self.send(200, json.dumps({**info, "downloads": 0, "likes": 0}).encode())

    def entries(self, name: str) -> list[dict]:
        entries = []
        for path in sorted((self.root / name).rglob("*")):
            kind = {"type": "directory" if path.is_dir() else "file"}
            kind |= {"path": path.relative_to(self.root / name).as_posix(), "oid": "0" * 40, "size": 0}
            entries.append({**kind, **({"size": path.stat().st_size} if path.is_file() else {})})
        return entries

    def file(self, path: Path) -> None:
        if not path.is_file():
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        etag = hashlib.sha1(path.read_bytes()).hexdigest()
        self.send(200, path.read_bytes(), {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Says nothing."""


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    handler = type("Handler", (DatasetHub,), {"root": tmp_path / "hub"})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def with_configs(folder: Path, names: list[str]) -> None:
    """The head of a data set card, by which `datasets` knows its configurations."""
    lines = [f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}/test-*" for name in names]
    (folder / "README.md").write_text("---\nconfigs:\n" + "\n".join(lines) + "\n---\n")


def test_sets_by_name(coma_folder: Path, tmp_path: Path, endpoint: str) -> None:
    pictures, hub = tmp_path / "images", tmp_path / "hub"
    names = ["ImageNet-1K", "MSCOCO_t2i"]
    for name in names:
        write_rows(v1_rows(name, pictures), hub / "TIGER-Lab/MMEB-eval" / name)
    with_configs(hub / "TIGER-Lab/MMEB-eval", names)
    documents = hub / "vidore/docvqa_test_subsampled_beir"
    for table, dataset in visual_documents(pictures).items():
        (documents / table).mkdir(parents=True)
        dataset.to_parquet(documents / table / "test-00000-of-00001.parquet")
    with_configs(documents, ["queries", "qrels", "corpus"])

    words = ["evaluate", coma_folder, "TIGER-Lab/MMEB-eval", "vidore/docvqa_test_subsampled_beir"]
    words += ["--output", tmp_path / "out", "--image-root", pictures, "--workers", 0]
    words += ["--sets", "ImageNet-1K,MSCOCO_t2i,ViDoRe_docvqa"]
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "hub_scripts.cli", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "out/results.json").read_text())["metrics"]
    assert {modality: set(sets) for modality, sets in metrics.items()} == {
        "image": set(names),
        "visdoc": {"ViDoRe_docvqa"},
    }
