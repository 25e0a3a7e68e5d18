"""Many dialogues at one time come out in order, each about its own image; what failed is kept apart and retried."""

import asyncio
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from modeling_coma.inputs_coma import to_rgb
from tests.chat_server import ChatServer, misbehaving, picture_in, reply_to
from tests.pdf_files import write_pdf
from trainers.data.dialogues import load_dialogues
from trainers.data.qa.chat import Chat, Rejected, read_image
from trainers.data.qa.dialogue import QASettings
from trainers.data.qa.generation import Source, retry_failed, write_dialogues
from trainers.data.qa.output import QAFiles, QAOutput
from trainers.data.qa.report import report_lines, report_on
from trainers.data.qa.server import ServerChat, ServerSettings


@pytest.fixture
def sources(tmp_path: Path, picture: Callable[..., Image.Image]) -> list[Source]:
    """24 images; number 5 is broken, number 9 is not there, numbers 3 and 4 are the same."""
    (tmp_path / "photos").mkdir()
    paths = [tmp_path / "photos" / f"{number}.png" for number in range(24)]
    for number, path in enumerate(paths):
        picture(28, 28, 3 if number == 4 else number).save(path)
    paths[5].write_bytes(b"no image")
    paths[9].unlink()
    return [Source(path.name, str(path)) for path in paths]


def generate(
    server: ChatServer,
    sources: list[Source],
    out: Path,
    run: Callable = write_dialogues,
    timeout: float = 60.0,  # a busy machine is slow to answer, and what is asked twice is counted twice
    concurrency: int = 4,
    **settings: Any,
) -> None:
    async def main() -> None:
        patience = {"timeout": timeout, "backoff": 0.01, "concurrency": concurrency}
        async with ServerChat(ServerSettings(server.url, "m", **patience)) as chat:
            with QAOutput(out, settings) as output:
                await run(sources, chat, output, QASettings(**settings))

    asyncio.run(main())


def rows_in(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_dialogues(rows: list[dict], folder: Path) -> None:
    """Every turn is about the image of its row."""
    for row in rows:
        (path,) = row["images"]
        name = read_image(str(folder / path)).digest
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * (len(row["messages"]) // 2)
        assert 3 <= len(row["messages"]) // 2 <= 5
        for turn, (question, answer) in enumerate(zip(row["messages"][::2], row["messages"][1::2], strict=True), 1):
            assert name in question["content"]
            assert answer["content"] == f"In turn {turn}, {name} shows number {turn * 111}."


@pytest.mark.slow
def test_in_order_each_about_its_own_picture(sources: list[Source], tmp_path: Path) -> None:
    def behave(body: dict, visit: int) -> str:
        return "say " if body["seed"] % 7 == 0 else misbehaving(body, visit)

    out = tmp_path / "out.jsonl"
    with ChatServer(behave) as server:
        generate(server, sources, out, timeout=1.0, concurrency=24)
        assert server.most_open > 1
    rows, failed = rows_in(out), rows_in(QAFiles.of(out).failed)
    assert [row["id"] for row in rows] == [source.id for source in sources if source.id not in ("5.png", "9.png")]
    assert [(row["id"], row["reason"]) for row in failed] == [
        (name, "image cannot be read") for name in ("5.png", "9.png")
    ]
    assert rows[0]["images"] == ["photos/0.png"]
    check_dialogues(rows, tmp_path)

    dataset = load_dialogues(str(out))  # what `coma pretrain` reads
    assert len(dataset) == 22 and dataset[0]["messages"] == rows[0]["messages"]

    report = report_on(QAFiles.of(out))
    assert report["rows"] == {"good": 22, "failed": 2} and report["failures"] == {"image cannot be read": 2}
    assert report["turns"]["total"] == sum(len(row["messages"]) // 2 for row in rows)
    assert report["retries"] > 10 and report["thrown_away"].keys() <= {"answer: empty", "questions: empty"}
    assert report["tokens"]["prompt"] == 100 * report["calls"] and report["duplicates"]["images"] == 1
    assert "22 good, 2 failed" in next(report_lines(report))


@pytest.mark.slow
def test_an_interrupted_run_goes_on(sources: list[Source], tmp_path: Path) -> None:
    def gone(body: dict, visit: int) -> str:
        return "401" if len(server.requests) > 60 else "good"

    out = tmp_path / "out.jsonl"
    with ChatServer(gone) as server, pytest.raises(ValueError, match="HTTP 401"):
        generate(server, sources, out)
    before = out.read_bytes()
    done = len(rows_in(out)) + len(rows_in(QAFiles.of(out).failed))
    assert 3 <= done < 20
    with ChatServer() as server:
        generate(server, sources, out)
        assert len(server.requests) == 6 * (24 - done - sum(n >= done for n in (5, 9)))
    assert out.read_bytes().startswith(before)
    assert [row["id"] for row in rows_in(out)] == [one.id for one in sources if one.id not in ("5.png", "9.png")]
    check_dialogues(rows_in(out), tmp_path)
    with ChatServer() as server:
        generate(server, sources, out)
        assert not server.requests


def test_more_pictures_may_follow_but_no_others(sources: list[Source], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with ChatServer() as server:
        generate(server, sources[:3], out)
        generate(server, sources[:4], out)
        with pytest.raises(ValueError, match=r"other images: where '0.png' was, there is now '1.png'"):
            generate(server, sources[1:], out)
        with pytest.raises(ValueError, match=r"where '3.png' was, there is now None"):
            generate(server, sources[:3], out)
    assert len(rows_in(out)) == 4


@pytest.mark.slow
def test_failed_rows_are_tried_again_and_stand_where_they_belong(
    sources: list[Source], tmp_path: Path, picture: Callable
) -> None:
    out, bad = tmp_path / "out.jsonl", set()

    def some(body: dict, visit: int) -> str:
        return "400" if int(picture_in(body), 16) % 3 == 0 else "good"

    with ChatServer(some) as server:
        generate(server, sources, out)
    good = rows_in(out)
    bad = {row["id"] for row in rows_in(QAFiles.of(out).failed)}
    assert 4 < len(bad) < 20

    picture(28, 28, 99).save(sources[5].image)
    with ChatServer() as server:
        generate(server, sources, out, retry_failed)
        assert len(server.requests) == 6 * (len(bad) - 1)
    assert [row["id"] for row in rows_in(out)] == [source.id for source in sources if source.id != "9.png"]
    assert [row["id"] for row in rows_in(QAFiles.of(out).failed)] == ["9.png"]
    assert [row for row in rows_in(out) if row["id"] not in bad] == good
    check_dialogues(rows_in(out), tmp_path)
    assert not out.with_name("out.jsonl.retry").exists()


def test_pictures_without_a_file_are_given_one(tmp_path: Path, picture: Callable) -> None:
    buffer = io.BytesIO()
    picture(28, 28, 1).save(buffer, "JPEG")
    out = tmp_path / "new" / "out.jsonl"
    with ChatServer() as server:
        generate(server, [Source("0", buffer.getvalue()), Source("1", buffer.getvalue()), Source("2", None)], out)
    rows = rows_in(out)
    assert rows[0]["images"] == rows[1]["images"]
    (file,) = (out.parent / "out.jsonl.images").iterdir()
    assert out.parent / rows[0]["images"][0] == file and file.read_bytes() == buffer.getvalue()
    assert file.stat().st_mode == out.stat().st_mode  # whoever may read the rows may read the images
    assert rows[0]["images"][0].startswith("out.jsonl.images/") and rows[0]["images"][0].endswith(".jpeg")
    assert rows_in(QAFiles.of(out).failed)[0]["reason"] == "no image"
    check_dialogues(rows, out.parent)


@pytest.mark.parametrize("form", ["single-turn", "caption", "description"])
def test_other_formats(form: str, sources: list[Source], tmp_path: Path) -> None:
    def reply(body: dict) -> str:
        asked = body["messages"][0]["content"][1]["text"]
        return "What is drawn, and where?" if "one question" in asked else reply_to(body)

    with ChatServer(reply=reply) as server:
        generate(server, sources[:2], tmp_path / "out.jsonl", format=form)
        assert len(server.requests) == 2 * (2 if form == "single-turn" else 1)
    assert [len(row["messages"]) for row in rows_in(tmp_path / "out.jsonl")] == [2, 2]


def test_pictures_as_others_show_them(tmp_path: Path, picture: Callable) -> None:
    """Plain files are sent as they are; what programs show in different ways is sent as CoMa sees it."""

    def saved(image: Image.Image, form: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    plain = picture(28, 56, 1)
    for form in ("PNG", "JPEG", "WEBP"):
        data = saved(plain, form)
        assert (read_image(data).data, read_image(data).mime) == (data, f"image/{form.lower()}")
    rotated = plain.getexif()
    rotated[0x0112] = 6
    clear = Image.new("RGBA", (28, 28), (255, 0, 0, 0))
    for data in (saved(plain, "JPEG", exif=rotated), saved(clear, "PNG"), saved(plain, "BMP"), saved(plain, "GIF")):
        found = read_image(data)
        assert found.mime == "image/png" and found.data[:4] == b"\x89PNG" and found.original == data
    assert Image.open(io.BytesIO(read_image(saved(plain, "JPEG", exif=rotated)).data)).size == (56, 28)
    assert Image.open(io.BytesIO(read_image(saved(clear, "PNG")).data)).getpixel((0, 0)) == (255, 255, 255)
    page = f"{write_pdf(tmp_path / 'a.pdf', ['apple'])}#1"
    found = read_image(page)
    assert (found.mime, Image.open(io.BytesIO(found.data)).size) == ("image/png", to_rgb(page).size)
    for bad in (b"", b"x", saved(plain, "PNG")[:-60], str(tmp_path / "none.png"), str(tmp_path / "a.pdf#2")):
        with pytest.raises(Rejected, match="image cannot be read"):
            read_image(bad)


@pytest.mark.parametrize(
    "kind",
    [
        "fifo",
        "cut",
        "no UTF-8",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("folder", "device", "nothing", "wide", "zero", "unread")
        ),
    ],
)
def test_a_picture_that_cannot_be_read_is_one_failed_picture(
    sources: list[Source], tmp_path: Path, picture: Callable, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photos" / "odd.png"
    source = Source("odd", str(path))
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "nothing":
        path.symlink_to(tmp_path / "gone.png")
    elif kind == "cut":
        path.write_bytes((tmp_path / "photos" / "0.png").read_bytes()[:-40])
    elif kind == "no UTF-8":
        path = tmp_path / "photos" / os.fsdecode(b"\xff.png")
        picture(28, 28, 1).save(path)
        source = Source(path.name, str(path))
    elif kind == "wide":
        monkeypatch.setattr("trainers.data.qa.chat.MOST_BYTES", 1000)
        path.write_bytes(b"x" * 1001)
    elif kind == "zero":
        path.touch()
    else:
        source = Source("odd", None, "line 7: found no row")
    out = tmp_path / "out.jsonl"
    started = time.monotonic()
    with ChatServer() as server:
        generate(server, [sources[0], source, sources[1]], out)
        generate(server, [sources[0], source, sources[1]], out)
    assert time.monotonic() - started < 20
    (failed,) = rows_in(QAFiles.of(out).failed)
    assert failed["id"] == source.id and [row["id"] for row in rows_in(out)] == ["0.png", "1.png"]
    where = "line 7" if kind == "unread" else ascii(path.name)[1:-1] if kind == "no UTF-8" else "photos/odd.png"
    assert where in failed["detail"] and "Row 0" not in failed["detail"]
    check_dialogues(rows_in(out), tmp_path)


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    """It would wait for a writer, and a device would never end."""
    os.mkfifo(tmp_path / "pipe.png")
    for path in (str(tmp_path / "pipe.png"), "/dev/zero", str(tmp_path)):
        with pytest.raises(Rejected, match="no regular file"):
            read_image(path)


def test_an_error_of_ours_is_not_taken_for_a_failed_row(sources: list[Source], tmp_path: Path) -> None:
    class Broken:
        concurrency, fingerprint = 4, {}

        async def complete(self, messages: list, seed: int) -> None:
            raise RuntimeError("a fault")

    chat: Chat = Broken()
    with QAOutput(tmp_path / "out.jsonl", {}) as output, pytest.raises(RuntimeError, match="a fault"):
        asyncio.run(write_dialogues(sources, chat, output, QASettings()))


def test_a_row_that_cannot_be_read_fails_with_its_reason(sources: list[Source], tmp_path: Path) -> None:
    with ChatServer() as server:
        generate(
            server,
            [sources[0], Source("x", None, "Row 1 of t.csv: column image: found 3"), sources[1]],
            tmp_path / "o",
        )
    assert [row["id"] for row in rows_in(tmp_path / "o")] == ["0.png", "1.png"]
    (failed,) = rows_in(tmp_path / "o.failed.jsonl")
    assert failed == {"id": "x", "reason": "row cannot be read", "detail": "Row 1 of t.csv: column image: found 3"}
