"""A Hub on 127.0.0.1: the part of the Hub's HTTP interface that `huggingface_hub` uses for models, over plain sockets.

Repositories with commits, branches, tags and pull requests; regular files in commits, large ones by LFS, in one piece
or in parts; downloads with etags, ranges and the redirect to another host ("localhost") that stands for the CDN.
Tokens: `WRITER` may do everything, `READER` read, no token sees what is public. Xet is not spoken.

`hub.fail(…)` makes the next matching requests go wrong; `hub.requests` is what was asked for, in order.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.repositories import READER, WRITER, HubError, Repo
from tests.hub.routes import ROUTES, Routes


@dataclass
class Fault:
    """What goes wrong: an answer with `status`, or a connection that breaks after `drop_after` bytes of the body."""

    method: str
    path: str
    status: int = 500
    message: str = "it broke"
    times: int = 1
    drop_after: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


class LocalHub:
    """The state, and the server while it is entered; `endpoint` is what belongs into `HF_ENDPOINT`."""

    def __init__(self, part_size: int = 5_000_000, lfs_from: int = 200_000) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}  # LFS objects by sha256
        self.parts: dict[tuple[str, int], bytes] = {}
        self.part_size, self.lfs_from = part_size, lfs_from
        self.requests: list[tuple[str, str, int]] = []
        self.faults: list[Fault] = []
        self.cards: list[str] = []  # what was asked to be validated
        self.before: Callable[[str, str], None] | None = None  # called with every request
        self.lock = threading.RLock()

    @contextmanager
    def running(self) -> Iterator["LocalHub"]:
        handler = type("Handler", (Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        self.port = server.server_address[1]
        self.endpoint, self.cdn = f"http://127.0.0.1:{self.port}", f"http://localhost:{self.port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def fail(self, method: str, path: str, **fault: Any) -> None:
        self.faults.append(Fault(method, path, **fault))

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def asked(self, method: str, path: str) -> list[int]:
        """Statuses of the requests of that kind so far."""
        return [status for verb, where, status in self.requests if verb == method and re.search(path, where)]

    def repo(self, repo_id: str, user: str | None, write: bool = False) -> Repo:
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and user is None):
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise HubError(401, "Invalid username or password.")
        if write and user != WRITER:
            raise HubError(403, "You have read access but not the required permissions for this operation")
        return repo


class Handler(Routes, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement
    hub: LocalHub

    def log_message(self, *args: Any) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def answer(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        fault = self.hub.fault(self.command, path)
        if self.hub.before is not None:
            self.hub.before(self.command, path)
        self.drop_after = None
        if fault is not None and fault.drop_after is not None:
            if self.command in ("PUT", "POST"):
                self.rfile.read(fault.drop_after)
                self.hub.requests.append((self.command, path, 0))
                return self.hang_up()
            self.drop_after = fault.drop_after
        self.body = self.read_body()
        try:
            if fault is not None and fault.drop_after is None:
                raise HubError(fault.status, fault.message, body=fault.headers)
            status, content, headers = self.route(path)
        except HubError as error:
            status, content = error.status, {"error": error.message, **error.body}
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            headers |= fault.headers if fault is not None else {}
        self.send(path, status, content, headers)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send(self, path: str, status: int, content: Any, headers: dict[str, str]) -> None:
        if not isinstance(content, bytes):
            content, headers = json.dumps(content).encode(), {"Content-Type": "application/json", **headers}
        if status == 200 and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            first, last = int(found[1]), int(found[2] or len(content) - 1)
            status, headers["Content-Range"] = 206, f"bytes {first}-{last}/{len(content)}"
            content = content[first : last + 1]
        self.hub.requests.append((self.command, path, status))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if self.drop_after is None else content[: self.drop_after])
            if self.drop_after is not None:
                self.hang_up()

    def hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True

    @property
    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in (WRITER, READER):
            raise HubError(401, "Invalid credentials in Authorization header")
        return token or None

    def route(self, path: str) -> tuple[int, Any, dict[str, str]]:
        with self.hub.lock:
            for method, pattern, handle in ROUTES:
                if (method == self.command or (method, self.command) == ("GET", "HEAD")) and (
                    found := pattern.fullmatch(path)
                ):
                    content = handle(self, **found.groupdict())
                    return content if isinstance(content, tuple) else (200, content, {})
        raise HubError(404, f"no such route: {self.command} {path}")
