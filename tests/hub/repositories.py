"""What the Hub of the tests keeps: repositories with commits and refs; and what it objects to in model cards."""

import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml


WRITER, READER = "hf_writer", "hf_reader"


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


def card_errors(content: str) -> Iterator[str]:
    """What the Hub objects to in the metadata of a card, for the fields that are used here."""
    found = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", content, re.S)
    data = yaml.safe_load(found[1]) if found else None
    if not isinstance(data, dict):
        yield "there is no block of YAML metadata"
        return
    models = data.get("base_model", [])
    for model in models if isinstance(models, list) else [models]:
        if not isinstance(model, str) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model):
            yield f'"base_model" with value {model!r} is not valid. Use a model id from https://hf.co/models.'
    if "license" in data and not re.fullmatch(r"[a-z0-9.+-]+", str(data["license"])):
        yield f'"license" must be an identifier, not {data["license"]!r}'
    if not all(isinstance(tag, str) for tag in data.get("tags", [])):
        yield '"tags" must be texts'
    for model in data.get("model-index", []):
        for result in model["results"]:
            yield from result_errors(result)


def result_errors(result: dict[str, Any]) -> Iterator[str]:
    dataset = result.get("dataset", {})
    if not (result.get("task", {}).get("type") and {"type", "name"} <= dataset.keys()):
        yield '"model-index" results need task.type, dataset.type and dataset.name'
    elif not re.fullmatch(r"([\w-]+/)?[\w.-]+", dataset["type"]):
        yield f'"model-index" dataset.type {dataset["type"]!r} is no name of a data set'
    if not all({"type", "value"} <= metric.keys() for metric in result.get("metrics", [{}])):
        yield '"model-index" metrics need type and value'
