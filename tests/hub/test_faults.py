"""What a person sees when the Hub, or the way to it, fails. docs/publishing.md has these rows, in these words."""

import re
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub import hf_hub_download
from transformers import AutoConfig

from hub_scripts.cli import EXPECTED, _one_line
from hub_scripts.hub.upload import upload


REPO = "org/my-coma"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "publishing.md"
ROWS = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", PAGE.read_text(encoding="utf-8"), re.M))


def seen(act: Callable[[], object]) -> str:
    """The line that a command would print, or "it works"."""
    try:
        act()
    except EXPECTED as error:
        return _one_line(error)
    return "it works"


def promised(row: str, line: str) -> bool:
    """Whether the page says what was seen; it may leave out parts, as "…"."""
    parts = [re.escape(part.strip()) for part in ROWS[row].replace("`", "").split("…")]
    return re.search(".*".join(parts), line.replace("`", "")) is not None


def no_token(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")


def wrong_token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_yesterday")


def reading_token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_reader")


def fault(method: str, path: str, **kinds) -> Callable:
    return lambda hub, monkeypatch: hub.fail(method, path, **kinds)


def rival(hub, monkeypatch):
    """Somebody commits while weights are being uploaded."""

    def before(method: str, path: str) -> None:
        if path.endswith("/info/lfs/objects/batch"):
            hub.before = None
            hub.repos[REPO].commit("main", hub.repos[REPO].files(), "somebody else's")

    hub.before = before


def broken_card(hub, monkeypatch):
    hub.fail(
        "POST", "/api/validate-yaml", status=400, message="license", headers={"errors": [{"message": "no license"}]}
    )


def no_hub(hub, monkeypatch):
    endpoint = "http://127.0.0.1:9"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)


PUSHES = {
    "push without a token": no_token,
    "push with a token that is not valid": wrong_token,
    "push with a token that may only read": reading_token,
    "push, another change of the repository is in progress (409)": fault("POST", "/commit/", status=409),
    "push, somebody else has committed meanwhile (412)": rival,
    "push, too many requests while files are announced (429)": fault("POST", "/preupload/", status=429),
    "push, too many requests at the commit (429)": fault("POST", "/commit/", status=429),
    "push, the Hub fails once while weights are sent (503)": fault("PUT", "/lfs/", status=503),
    "push, the Hub fails at the commit (500)": fault("POST", "/commit/", status=500),
    "push, the connection breaks while weights are sent": fault("PUT", "/lfs/part", drop_after=50_000),
    "push, the connection breaks at the commit": fault("POST", "/commit/", drop_after=100),
    "push, the Hub finds fault with the card (400)": broken_card,
    "push, no Hub can be reached": no_hub,
}


# Where the client waits before it tries again.
WAITING = ("new here (503)", "fails once", "breaks while", "announced (429)")


def some_slow(rows: dict[str, object]) -> list:
    waits = {row: any(word in row for word in WAITING) for row in rows}
    return [pytest.param(row, marks=(pytest.mark.slow,) if slow else ()) for row, slow in waits.items()]


@pytest.mark.parametrize("row", some_slow(PUSHES))
def test_push(row, hub, folder, monkeypatch):
    if row not in ("push with a token that may only read", "push without a token"):
        hub.repos[REPO] = hub.repos.get(REPO) or new_repository(hub)
    PUSHES[row](hub, monkeypatch)
    line = seen(lambda: upload(folder, REPO, "the first"))
    assert promised(row, line), line
    ours = [commit for repo in hub.repos.values() for commit in repo.commits.values() if commit.title == "the first"]
    assert len(ours) == (line == "it works"), "a push that failed has changed something"


@pytest.mark.parametrize("row", [row for row in PUSHES if "commit" in row])
def test_after_a_failed_commit_nothing_is_sent_twice(row, hub, folder, monkeypatch):
    new_repository(hub)
    PUSHES[row](hub, monkeypatch)
    assert seen(lambda: upload(folder, REPO, "the first")) != "it works"
    sent = len(hub.asked("PUT", "/lfs/"))
    assert seen(lambda: upload(folder, REPO, "the first")) == "it works"
    assert len(hub.asked("PUT", "/lfs/")) == sent > 0


def new_repository(hub):
    from huggingface_hub import HfApi

    HfApi().create_repo(REPO)
    return hub.repos[REPO]


def offline(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


DOWN = {"status": 503, "times": 9, "headers": {"Retry-After": "0"}}  # without the last, the client waits 23 seconds
# What goes wrong, and whether the file had been fetched before.
LOADS = {
    "load, the Hub is down, and the model was loaded before (503)": (fault("HEAD", "/", **DOWN), True),
    "load, the Hub is down, and the model is new here (503)": (fault("HEAD", "/", **DOWN), False),
    "load, offline, and the model was loaded before": (offline, True),
    "load, offline, and the model is new here": (offline, False),
    "load a private model without a token": (no_token, False),
}


@pytest.mark.parametrize("row", some_slow(LOADS))
def test_load(row, hub, folder, monkeypatch):
    upload(folder, REPO, "the first", private="private" in row)
    break_it, before = LOADS[row]
    if before:
        AutoConfig.from_pretrained(REPO)
    break_it(hub, monkeypatch)
    if "down" in row:
        hub.fail("GET", "/api/", **DOWN)
    line = seen(lambda: AutoConfig.from_pretrained(REPO))
    assert promised(row, line), line


def test_load_a_revision_that_is_not_there(hub, folder):
    upload(folder, REPO, "the first")
    line = seen(lambda: AutoConfig.from_pretrained(REPO, revision="v9"))
    assert promised("load a revision that is not there", line), line


def test_load_with_a_broken_connection(hub, folder, monkeypatch):
    """Half of the weights arrive, then the connection is gone: the rest is asked for, and only that."""
    upload(folder, REPO, "the first")
    name = "model-00001-of-00002.safetensors"
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 50_000)  # of 10 MB, which it keeps whole
    hub.fail("GET", "/lfs/object/", drop_after=130_000)
    found = []
    line = seen(lambda: found.append(hf_hub_download(REPO, name)))
    assert promised("load, the connection breaks in the middle of the weights", line), line
    assert Path(found[0]).read_bytes() == (folder / name).read_bytes()
    assert hub.asked("GET", "/lfs/object/") == [200, 206]


def test_every_row_of_the_page_is_tested():
    rows = {row for row in ROWS if row.startswith(("push", "load"))}
    elsewhere = {"load a revision that is not there", "load, the connection breaks in the middle of the weights"}
    assert rows == {*PUSHES, *LOADS, *elsewhere}
