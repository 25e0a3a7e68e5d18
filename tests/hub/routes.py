"""The routes of the Hub of the tests: each reads the request of its handler and answers, or raises `HubError`."""

import base64
import hashlib
import json
import re
from typing import Any

from tests.hub.repositories import WRITER, Blob, HubError, Repo, card_errors


class Routes:
    """Parameters of a route are the groups of its pattern in `ROUTES`; the handler has hub, body, query and user."""

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


NAME = r"(?P<repo_id>[\w.-]+/[\w.-]+)"
# Longest first where one would match another. A revision may have slashes in it, as in refs/pr/1.
REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"
ROUTES = [
    (method, re.compile(pattern), handle)
    for method, pattern, handle in (
        ("GET", "/api/whoami-v2", Routes.whoami),
        ("POST", "/api/repos/create", Routes.create),
        ("POST", "/api/validate-yaml", Routes.validate),
        ("GET", rf"/api/models/{NAME}", Routes.info),
        ("GET", rf"/api/models/{NAME}/revision/{REVISION}", Routes.info),
        ("GET", rf"/api/models/{NAME}/refs", Routes.refs),
        ("GET", rf"/api/models/{NAME}/tree/{REVISION}(?:/(?P<folder>.+))?", Routes.tree),
        ("POST", rf"/api/models/{NAME}/branch/(?P<name>.+)", Routes.branch),
        ("POST", rf"/api/models/{NAME}/tag/{REVISION}", Routes.tag),
        ("POST", rf"/api/models/{NAME}/preupload/{REVISION}", Routes.preupload),
        ("POST", rf"/api/models/{NAME}/commit/{REVISION}", Routes.commit),
        ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Routes.batch),
        ("PUT", "/lfs/whole/(?P<oid>[0-9a-f]{64})", Routes.whole),
        ("PUT", r"/lfs/part/(?P<oid>[0-9a-f]{64})/(?P<number>\d+)", Routes.part),
        ("POST", "/lfs/complete/(?P<oid>[0-9a-f]{64})", Routes.complete),
        ("POST", "/lfs/verify", Routes.verify),
        ("GET", "/lfs/object/(?P<oid>[0-9a-f]{64})", Routes.object),
        ("GET", rf"/{NAME}/resolve/{REVISION}/(?P<path>.+)", Routes.resolve),
    )
]
