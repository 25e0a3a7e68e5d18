"""A Hub on 127.0.0.1: the part of the Hub's HTTP interface that `huggingface_hub` uses for models, over plain sockets.

Repositories with commits, branches, tags and pull requests; regular files in commits, large ones by LFS, in one piece
or in parts; downloads with etags, ranges and the redirect to another host ("localhost") that stands for the CDN.
Tokens: `WRITER` may do everything, `READER` read, no token sees what is public. Xet is not spoken.

`hub.fail(…)` makes the next matching requests go wrong; `hub.requests` is what was asked for, in order.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


WRITER, READER = "hf_writer", "hf_reader"
SHA = re.compile(r"[0-9a-f]{40}")


class HubError(Exception):
    """An answer other than 200: status, message and the code that the client tells its exceptions by."""

    def __init__(self, status: int, message: str, code: str | None = None, body: dict | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body or {}


@dataclass
class Blob:
    content: bytes
    lfs: bool = False

    @property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return hashlib.sha256(self.content).hexdigest() if self.lfs else self.oid

    def entry(self, path: str) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        return entry | ({"lfs": {"oid": self.etag, "size": len(self.content), "pointerSize": 134}} if self.lfs else {})


@dataclass
class Commit:
    files: dict[str, Blob]
    title: str
    parent: str | None = None


@dataclass
class Repo:
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, files: dict[str, Blob], title: str) -> str:
        parent = self.branches.get(ref) or self.pulls.get(ref)
        sha = hashlib.sha1(f"{parent} {title} {time.time_ns()}".encode()).hexdigest()
        self.commits[sha] = Commit(files, title, parent)
        (self.pulls if ref.startswith("refs/pr/") else self.branches)[ref] = sha
        return sha

    def resolve(self, revision: str) -> str:
        for refs in (self.branches, self.tags, self.pulls):
            if revision in refs:
                return refs[revision]
        if revision in self.commits:
            return revision
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def files(self, revision: str = "main") -> dict[str, Blob]:
        return self.commits[self.resolve(revision)].files


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


class Handler(BaseHTTPRequestHandler):
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

    # Each of what follows is a route; its parameters are the groups of its pattern.

    def whoami(self) -> dict:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        return {"type": "user", "name": "somebody", "orgs": [{"name": "org"}], "auth": {}}

    def create(self) -> Any:
        payload, user = json.loads(self.body), self.user
        if user != WRITER:
            raise HubError(403 if user else 401, "You don't have the rights to create a model under this namespace")
        repo_id = f"{payload['organization'] or 'somebody'}/{payload['name']}"
        url = {"url": f"{self.hub.endpoint}/{repo_id}"}
        if repo_id in self.hub.repos:
            raise HubError(409, "You already created this model repo", body=url)
        private = payload.get("private") or payload.get("visibility") == "private"
        repo = self.hub.repos[repo_id] = Repo(private=bool(private))
        repo.commit("main", {".gitattributes": Blob(b"*.safetensors filter=lfs\n")}, "initial commit")
        return url

    def info(self, repo_id: str, revision: str = "main") -> dict:
        repo = self.hub.repo(repo_id, self.user)
        sha = repo.resolve(revision)
        siblings = [{"rfilename": path} for path in repo.commits[sha].files]
        names = {"_id": "0" * 24, "id": repo_id, "modelId": repo_id, "private": repo.private, "tags": []}
        return {**names, "sha": sha, "siblings": siblings, "downloads": 0, "likes": 0}

    def tree(self, repo_id: str, revision: str, folder: str | None = None) -> list[dict]:
        prefix = f"{folder}/" if folder else ""
        files = self.hub.repo(repo_id, self.user).files(revision)
        below = {path: blob for path, blob in files.items() if path.startswith(prefix)}
        if not below:
            raise HubError(404, f"{folder} does not exist", "EntryNotFound")
        if self.query.get("recursive", ["false"])[0].lower() != "true":
            below = {path: blob for path, blob in below.items() if "/" not in path[len(prefix) :]}
        return [blob.entry(path) for path, blob in below.items()]

    def refs(self, repo_id: str) -> dict:
        repo = self.hub.repo(repo_id, self.user)
        kinds = {"branches": (repo.branches, "refs/heads/"), "tags": (repo.tags, "refs/tags/")}
        kinds["pullRequests"] = (repo.pulls, "")
        listed = {
            kind: [{"name": name, "ref": prefix + name, "targetCommit": sha} for name, sha in refs.items()]
            for kind, (refs, prefix) in kinds.items()
        }
        return {**listed, "converts": []}

    def branch(self, repo_id: str, name: str) -> dict:
        repo = self.hub.repo(repo_id, self.user, write=True)
        if name in repo.branches:
            raise HubError(409, f"Reference already exists: {name}")
        repo.branches[name] = repo.resolve((json.loads(self.body or b"{}")).get("startingPoint", "main"))
        return {}

    def tag(self, repo_id: str, revision: str) -> dict:
        repo, name = self.hub.repo(repo_id, self.user, write=True), json.loads(self.body)["tag"]
        if name in repo.tags:
            raise HubError(409, f"Tag already exists: {name}")
        repo.tags[name] = repo.resolve(revision)
        return {}

    def preupload(self, repo_id: str, revision: str) -> dict:
        # A pull request is open to everybody who can read.
        files = self.hub.repo(repo_id, self.user, write="create_pr" not in self.query).files(revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            large = file["size"] >= self.hub.lfs_from or file["path"].endswith((".safetensors", ".bin"))
            known = files[file["path"]].etag if file["path"] in files else None
            mode = {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": known}
            answers.append({"path": file["path"], **mode})
        return {"files": answers}

    def batch(self, repo_id: str) -> tuple[int, dict, dict]:
        payload = json.loads(self.body)
        self.hub.repo(repo_id, self.user, write="ref" in payload)
        objects = []
        for item in payload["objects"]:
            oid, size = item["oid"], item["size"]
            if oid not in self.hub.large:
                header, href = {}, f"{self.hub.cdn}/lfs/whole/{oid}"
                if size > self.hub.part_size and "multipart" in payload["transfers"]:
                    count = -(-size // self.hub.part_size)
                    header = {str(n): f"{self.hub.cdn}/lfs/part/{oid}/{n}" for n in range(1, count + 1)}
                    header["chunk_size"], href = str(self.hub.part_size), f"{self.hub.endpoint}/lfs/complete/{oid}"
                verify = {"href": f"{self.hub.endpoint}/lfs/verify", "header": {}}
                item = {**item, "actions": {"upload": {"href": href, "header": header}, "verify": verify}}
            objects.append(item)
        return 200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"}

    def keep(self, oid: str, content: bytes) -> dict:
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(400, "the content has another sha256")
        self.hub.large[oid] = content
        return {}

    def whole(self, oid: str) -> dict:
        return self.keep(oid, self.body)

    def part(self, oid: str, number: str) -> tuple[int, dict, dict]:
        self.hub.parts[oid, int(number)] = self.body
        return 200, {}, {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'}

    def complete(self, oid: str) -> dict:
        numbers = [part["partNumber"] for part in json.loads(self.body)["parts"]]
        return self.keep(oid, b"".join(self.hub.parts.pop((oid, number)) for number in numbers))

    def verify(self) -> dict:
        item = json.loads(self.body)
        if len(self.hub.large.get(item["oid"], b"")) != item["size"]:
            raise HubError(400, "the object is not there")
        return {}

    def commit(self, repo_id: str, revision: str) -> dict:
        pull = "create_pr" in self.query
        repo = self.hub.repo(repo_id, self.user, write=not pull)
        if revision not in repo.branches and revision not in repo.pulls:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        lines = [json.loads(line) for line in self.body.splitlines()]
        header, head = lines[0]["value"], repo.resolve(revision)
        if header.get("parentCommit") not in (None, head):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.files(revision))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise HubError(400, f"LFS object {value['oid']} is not there")
                files[value["path"]] = Blob(self.hub.large[value["oid"]], lfs=True)
            elif value["path"] not in files:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                del files[value["path"]]
        ref = f"refs/pr/{len(repo.pulls) + 1}" if pull else revision
        sha, url = repo.commit(ref, files, header["summary"]), f"{self.hub.endpoint}/{repo_id}"
        pull_url = f"{url}/discussions/{ref.rpartition('/')[2]}" if pull else None
        return {"commitUrl": f"{url}/commit/{sha}", "commitOid": sha, "pullRequestUrl": pull_url}

    def validate(self) -> dict:
        content = json.loads(self.body)["content"]
        self.hub.cards.append(content)
        if errors := list(card_errors(content)):
            raise HubError(400, "Invalid metadata", body={"errors": [{"message": error} for error in errors]})
        return {"errors": [], "warnings": []}

    def resolve(self, repo_id: str, revision: str, path: str) -> tuple[int, bytes, dict]:
        repo = self.hub.repo(repo_id, self.user)
        sha = repo.resolve(revision)
        headers, blob = {"X-Repo-Commit": sha}, repo.commits[sha].files.get(path)
        if blob is None:
            message = "Entry not found"
            return 404, {"error": message}, {**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": message}
        if not blob.lfs:
            return 200, blob.content, {**headers, "ETag": f'"{blob.etag}"'}
        linked = {"X-Linked-Size": str(len(blob.content)), "X-Linked-Etag": f'"{blob.etag}"'}
        return 302, b"", {**headers, **linked, "Location": f"{self.hub.cdn}/lfs/object/{blob.etag}"}

    def object(self, oid: str) -> tuple[int, bytes, dict]:
        if "Authorization" in self.headers:
            raise HubError(400, "The token of the Hub has been sent to another host")
        return 200, self.hub.large[oid], {"ETag": f'"{oid}"'}


def card_errors(content: str) -> Iterator[str]:
    """What the Hub objects to in the metadata of a card, for the fields that are used here."""
    found = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", content, re.S)
    data = yaml.safe_load(found[1]) if found else None
    if not isinstance(data, dict):
        yield "there is no block of YAML metadata"
        return
    name = r"[\w.-]+(/[\w.-]+)?"
    models = data.get("base_model", [])
    for model in models if isinstance(models, list) else [models]:
        if not isinstance(model, str) or not re.fullmatch(name, model):
            yield f'"base_model" with value {model!r} is not valid. Use a model id from https://hf.co/models.'
    if "license" in data and not re.fullmatch(r"[a-z0-9.+-]+", str(data["license"])):
        yield f'"license" must be an identifier, not {data["license"]!r}'
    if not all(isinstance(tag, str) for tag in data.get("tags", [])):
        yield '"tags" must be texts'
    for model in data.get("model-index", []):
        for result in model["results"]:
            if not (result.get("task", {}).get("type") and {"type", "name"} <= result.get("dataset", {}).keys()):
                yield '"model-index" results need task.type, dataset.type and dataset.name'
            if not all({"type", "value"} <= metric.keys() for metric in result.get("metrics", [{}])):
                yield '"model-index" metrics need type and value'


NAME = r"(?P<repo_id>[\w.-]+/[\w.-]+)"
# Longest first where one would match another. A revision may have slashes in it, as in refs/pr/1.
REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"
ROUTES = [
    (method, re.compile(pattern), handle)
    for method, pattern, handle in (
        ("GET", "/api/whoami-v2", Handler.whoami),
        ("POST", "/api/repos/create", Handler.create),
        ("POST", "/api/validate-yaml", Handler.validate),
        ("GET", rf"/api/models/{NAME}", Handler.info),
        ("GET", rf"/api/models/{NAME}/revision/{REVISION}", Handler.info),
        ("GET", rf"/api/models/{NAME}/refs", Handler.refs),
        ("GET", rf"/api/models/{NAME}/tree/{REVISION}(?:/(?P<folder>.+))?", Handler.tree),
        ("POST", rf"/api/models/{NAME}/branch/(?P<name>.+)", Handler.branch),
        ("POST", rf"/api/models/{NAME}/tag/{REVISION}", Handler.tag),
        ("POST", rf"/api/models/{NAME}/preupload/{REVISION}", Handler.preupload),
        ("POST", rf"/api/models/{NAME}/commit/{REVISION}", Handler.commit),
        ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Handler.batch),
        ("PUT", "/lfs/whole/(?P<oid>[0-9a-f]{64})", Handler.whole),
        ("PUT", r"/lfs/part/(?P<oid>[0-9a-f]{64})/(?P<number>\d+)", Handler.part),
        ("POST", "/lfs/complete/(?P<oid>[0-9a-f]{64})", Handler.complete),
        ("POST", "/lfs/verify", Handler.verify),
        ("GET", "/lfs/object/(?P<oid>[0-9a-f]{64})", Handler.object),
        ("GET", rf"/{NAME}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
    )
]
