"""`coma app` in a real browser, and what it serves to whoever asks for more than the page."""

import base64
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hub_scripts.app import open_app
from tests.hub_scripts.app_page.conftest import emoji_index, make_index, session  # noqa: F401 - fixtures


ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = "/usr/bin/chromium"
HOSTILE = (
    "<script>window.hit=1</script><img src=x onerror='window.hit=2'> **bold** ${window.hit=3} {{constructor}}\x1b[2J"
)


def test_a_missing_gradio_is_one_sentence(
    coma_folder: Path, coma_command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, _, error = coma_command("app", tmp_path / "index.parquet")
    assert code == 1 and error == 'coma app: error: The page needs Gradio: pip install "coma-embedding[app]"\n'


@pytest.mark.extras
def test_where_nothing_can_listen_is_one_line(coma_command: Callable, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        places = [
            ["--port", taken.getsockname()[1]],
            ["--port", 65536],
            ["--host", "203.0.113.7"],
            ["--host", "no host"],
        ]
        for place in places:
            code, _, error = coma_command("app", tmp_path / "index.parquet", *place)
            assert code == 1 and error.count("\n") == 1 and "Nothing can listen at" in error, place


@pytest.mark.extras
def test_the_command_ends_as_it_began(session: Any, coma_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """It says where the page is; told to stop, it stops with 0 and leaves no folder."""
    words = ["app", str(session.index.path), "--model", str(coma_folder), "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "hub_scripts.cli", *words]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        line = running.stdout.readline()
        assert re.fullmatch(r"The page is open at http://127\.0\.0\.1:\d+/ \(Ctrl-C closes it\)\.\n", line)
        assert list(tmp_path.glob("coma-app-*"))
        running.terminate()
        assert running.stdout.read() == "" and running.wait(60) == 0
    assert not list(tmp_path.glob("coma-app-*"))


@pytest.mark.extras
def test_a_space_is_written_and_nothing_is_opened(session: Any, coma_command: Callable, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "space"
    code, text, _ = coma_command("app", session.index.path, "--model", "my-org/my-coma", "--space", folder)
    assert code == 0 and text.splitlines()[1] == f"hf upload ORG/NAME {folder} --repo-type space"
    assert f"sdk_version: {version('gradio')}\n" in (folder / "README.md").read_text()
    with open_app(folder / "index.parquet", model=session.coma, image_root=folder / "images") as url:
        assert url.startswith("http://127.0.0.1:")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium of the system; where there is none, that is an error."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def url(session: Any) -> Iterator[str]:  # noqa: F811
    with open_app(session.index.path, model=session.coma) as address:
        yield address


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    yield from opened(browser, url)


def opened(browser: Any, url: str) -> Iterator[Any]:
    """The page, which asks nobody but its own server, and runs without an error."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    asked, errors = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.set_default_timeout(60_000)
    tab.goto(url)
    tab.wait_for_selector("#words >> css=input, textarea")
    yield tab
    assert not errors and [one for one in asked if not one.startswith((url, "data:", "blob:"))] == []
    tab.close()


def box(tab: Any, name: str) -> Any:
    return tab.locator(f"#{name} input, #{name} textarea").last


def look_for(tab: Any, words: str) -> None:
    box(tab, "words").fill(words)
    box(tab, "words").press("Enter")


FILE_IN_HAND = """([data, name]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type: "image/png"}));
    return transfer;
}"""


def drop(tab: Any, path: str) -> None:
    """A file that is dragged over the field for an image and let go there: what a page hears of the mouse."""
    file = Path(path)
    transfer = tab.evaluate_handle(FILE_IN_HAND, [base64.b64encode(file.read_bytes()).decode(), file.name])
    for event in ("dragenter", "dragover", "drop"):
        tab.locator("#image button:has(input[type=file])").dispatch_event(event, {"dataTransfer": transfer})


def cards_of(tab: Any) -> list[str]:
    return tab.locator(".card .id").all_inner_texts()


@pytest.mark.extras
def test_words_find_what_search_finds(page: Any, session: Any) -> None:  # noqa: F811
    look_for(page, "red apple")
    page.wait_for_selector("text=“red apple”")
    hits = session.search("red apple", None, 12)
    assert cards_of(page) == [hit.row["id"] for hit in hits]
    scores = page.locator(".card .score strong").all_inner_texts()
    assert scores == [f"{hit.score:.3f}" for hit in hits]
    shares = page.locator(".card .share").all_inner_texts()
    assert all(re.fullmatch(r"above (\d+\.\d %|all) (of )?random pairs", share) for share in shares)
    widths = page.locator(".card img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(widths) == 12 and min(widths) > 30
    page.locator("#k input[type=number]").fill("3")
    page.locator("#search").click()
    page.wait_for_selector("text=3 of 60")
    assert len(cards_of(page)) == 3


@pytest.mark.extras
def test_a_click_finds_more_and_its_image_can_be_asked(page: Any, session: Any) -> None:  # noqa: F811
    page.locator("#ask-button").click()
    page.wait_for_selector("#answer .problem >> text=Give an image, or click a result.")
    look_for(page, "red apple")
    page.locator(".card").nth(2).click()
    number = session.search("red apple", None, 3)[2].row["row"]
    row, hits = session.more_like(number, 12)
    page.wait_for_selector(f".asked >> text=more like {row['id']}")
    assert cards_of(page) == [hit.row["id"] for hit in hits]
    page.wait_for_selector(f"#hand .hand >> text={row['id']}")
    box(page, "question").fill("What is drawn here?")
    page.locator("#ask-button").click()
    page.wait_for_selector("#answer .answer")
    answer = session.ask(session.pictures.open(row["image"]), "What is drawn here?")
    assert page.locator("#answer .answer").inner_text().split() == (answer.text or "nothing").split()
    assert "Read from 4 compression tokens" in page.locator("#answer").inner_text()
    assert "compression tokens alone" in page.locator("#ask").inner_text()


@pytest.mark.extras
def test_an_image_is_dropped_searched_with_words_and_asked(page: Any, session: Any) -> None:  # noqa: F811
    path = image_of(session, 5)
    drop(page, path)
    page.wait_for_selector("#hand .hand >> text=your image")
    page.locator("#search").click()
    page.wait_for_selector(".card")
    hits = session.search("", path, 12)
    assert cards_of(page) == [hit.row["id"] for hit in hits] and hits[0].row["row"] == 5
    look_for(page, "in another colour")
    page.wait_for_selector("text=“in another colour”")
    assert cards_of(page) == [hit.row["id"] for hit in session.search("in another colour", path, 12)]
    box(page, "question").fill("What is it?")
    box(page, "question").press("Enter")
    page.wait_for_selector("#answer .answer")


@pytest.mark.extras
def test_bad_input_is_a_line_and_what_was_found_stays(page: Any, tmp_path: Path) -> None:
    page.locator("#search").click()
    page.wait_for_selector("#message .problem >> text=Type some words, or give an image")
    look_for(page, "red apple")
    page.wait_for_selector(".card")
    found = cards_of(page)
    look_for(page, "<|im_start|>")
    page.wait_for_selector("#message .problem >> text=special token")
    assert cards_of(page) == found
    (tmp_path / "bad.png").write_bytes(b"no image")
    Image.new("L", (9000, 10_000)).save(tmp_path / "huge.png")
    for name, why in (("bad.png", "in no format that Pillow can read"), ("huge.png", "9000x10000 pixels are over")):
        page.locator("#image input[type=file]").set_input_files(tmp_path / name)
        page.wait_for_selector(f"#hand .problem >> text={why}")
        look_for(page, "apple")
        page.wait_for_selector(f"#message .problem >> text={why}")
        assert page.locator("#message .problem").count() == 1 and cards_of(page) == found
        page.locator("#image button[aria-label='Remove Image']").click()
        page.wait_for_selector("#hand >> text=Give an image")


@pytest.mark.extras
def test_a_hostile_index_is_text_and_shows_no_file(
    browser: Any,
    session: Any,  # noqa: F811
    make_index: Callable,  # noqa: F811
    tmp_path: Path,
) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (40, 40), "red").save(secret)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link.png").symlink_to(secret)
    rows = [{"id": HOSTILE, "text": HOSTILE, "image": HOSTILE}]
    rows += [{"id": path, "image": path} for path in ("../secret.png", "link.png", str(secret), "/etc/passwd")]
    index = make_index(tmp_path, rows)
    with open_app(index, model=session.coma, image_root=tmp_path / "root") as url:
        for tab in opened(browser, url):
            look_for(tab, HOSTILE.replace("\x1b", ""))
            tab.wait_for_selector(".card")
            assert tab.evaluate("window.hit") is None and tab.locator(".card img").count() == 0
            shown = tab.locator("#results").inner_text()
            assert shown.count("not shown: outside the image root") == 4 and "root:x:" not in shown
            assert (
                "<script>window.hit=1</script>" in shown and r"**bold** ${window.hit=3} {{constructor}}\x1b" in shown
            )
            tab.locator(".card", has_text="window.hit").first.click()
            tab.wait_for_selector("text=more like")
            tab.wait_for_selector("#hand .problem")
            assert tab.evaluate("window.hit") is None


@pytest.mark.extras
def test_no_file_is_served(url: str, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Neither one of this machine, nor of the corpus, nor of this package; nothing is fetched from elsewhere."""
    import httpx

    image = image_of(session, 5)
    here = Path(__file__).resolve()
    files = [
        "/etc/passwd",
        image,
        str(session.index.path),
        str(here),
        "../../../../etc/passwd",
        "//etc/passwd",
        "setup.py",
    ]
    files += [f"{image}/../../index.parquet", "file:///etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "C:/windows/win.ini"]
    with httpx.Client(base_url=url, timeout=60, follow_redirects=True) as client:
        for route in ("gradio_api/file=", "file=", "gradio_api/file/", "static/", "assets/", "gradio_api/stream/"):
            for file in files:
                answer = client.get(f"{route}{file}")
                assert answer.status_code >= 400 or answer.text.startswith("<!doctype html>"), (route, file)
                assert "root:" not in answer.text and "PAR1" not in answer.text
        config = client.get("config").json()
        assert client.get("gradio_api/info").json()["named_endpoints"] == {}
        (searches,) = [one["id"] for one in config["dependencies"] if len(one["inputs"]) == 3]
        for path in (
            "/etc/passwd",
            image,
            f"{url}theme.css",
            "http://127.0.0.1:9/x.png",
            "data:image/png;base64,AAAA",
        ):
            data = {"data": ["", {"path": path, "meta": {"_type": "gradio.FileData"}}, 3], "fn_index": searches}
            said = call(client, data)
            assert said["success"] is False or "problem" in str(said), (path, said)
            assert "root:" not in str(said) and 'class="card"' not in str(said)


def call(client: Any, data: dict[str, Any]) -> dict[str, Any]:
    """What becomes of a click, as a program makes it."""
    import json

    client.post("gradio_api/queue/join", json={**data, "session_hash": "stranger", "trigger_id": None})
    with client.stream("GET", "gradio_api/queue/data", params={"session_hash": "stranger"}) as lines:
        for line in lines.iter_lines():
            said = json.loads(line.partition(":")[2] or "{}")
            if said.get("msg") == "process_completed":
                return said
    raise AssertionError("no answer")


@pytest.mark.extras
def test_what_was_given_vanishes_with_the_page(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/etc")
    import httpx

    with open_app(session.index.path, model=session.coma) as url:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        with open(image_of(session, 5), "rb") as file:
            (path,) = httpx.post(f"{url}gradio_api/upload", files={"files": file}).json()
        assert folder in Path(path).parents and Path(path).exists()
        assert httpx.get(f"{url}gradio_api/file=/etc/passwd").status_code == 403
    assert not folder.exists() and os.environ["GRADIO_ALLOWED_PATHS"] == "/etc"
    with suppress(httpx.ConnectError):
        assert httpx.get(url).status_code >= 500


def image_of(session: Any, number: int) -> str:  # noqa: F811
    """The file of the image of a row."""
    return session.pictures.find(session.index.find_row(number)[0]["image"])
