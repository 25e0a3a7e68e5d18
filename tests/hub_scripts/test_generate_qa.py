"""`coma generate-qa` writes every image once and in order, however often it is killed, whatever the server does."""

import asyncio
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hub_scripts.cli import main
from hub_scripts.generate_qa import generate_dialogues
from tests.chat_server import ChatServer, Happening, completion, misbehaving, packed, picture_in, send
from trainers.data.dialogues import load_dialogues
from trainers.data.emoji import load_emoji
from trainers.data.qa.chat import read_image


ROOT = Path(__file__).resolve().parents[2]
# Some requests are never answered (tests/chat_server.py): a test waits for them, and a busy machine is slow to answer.
PATIENCE = ["--timeout", "2", "--backoff", "0.01", "--model", "m"]


def save_emoji(folder: Path, number: int) -> list[str]:
    """Real images, on white, in files whose names are in order."""
    folder.mkdir()
    pictures = load_emoji(["noto"]).select(range(number))["image"]
    for place, picture in enumerate(pictures):
        picture = picture.convert("RGBA")
        Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB").save(
            folder / f"{place:03}.png"
        )
    return [f"{place:03}.png" for place in range(number)]


def rows_in(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def start(words: list[str], fork: bool) -> int:
    """A process of the command: a new one, which needs seconds to import torch, or a copy of this one."""
    if not fork:
        command = [sys.executable, "-m", "hub_scripts.cli", *words]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL).pid
    process = multiprocessing.get_context("fork").Process(target=main, args=(words,))
    process.start()
    return process.pid


def run_until(words: list[str], out: Path, rows: int) -> int:
    """Starts the command and kills it when there are so many rows; how many there are then."""
    process, deadline = start(words, fork=False), time.monotonic() + 240
    while time.monotonic() < deadline and (not out.exists() or out.read_bytes().count(b"\n") < rows):
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return out.read_bytes().count(b"\n")


def check_rows(out: Path, names: list[str], folder: Path) -> None:
    rows = rows_in(out)
    assert [row["id"] for row in rows] == names
    for row in rows:
        (path,) = row["images"]
        known_as = read_image(str(out.parent / path)).digest
        assert (out.parent / path).samefile(folder / row["id"])
        turns = list(zip(row["messages"][::2], row["messages"][1::2], strict=True))
        assert 3 <= len(turns) <= 5
        for turn, (question, answer) in enumerate(turns, 1):
            assert known_as in question["content"]
            assert answer["content"] == f"In turn {turn}, {known_as} shows number {turn * 111}."


@pytest.mark.slow
def test_killed_twice_and_started_again(coma_command: Callable, tmp_path: Path) -> None:
    number = 60
    names = save_emoji(tmp_path / "photos", number)
    out = tmp_path / "out.jsonl"
    with ChatServer(misbehaving) as server:
        # A few at one time, so that rows come one after the other.
        words = ["generate-qa", tmp_path / "photos", out, "--server", server.url, *PATIENCE, "--concurrency", 4]
        for rows in (8, 24):
            kept = run_until(list(map(str, words)), out, rows)
            assert rows <= kept < number
            before = out.read_bytes()
        code, text, error = coma_command(*words)
        assert code == 0, error
        sent = len(server.requests)
    assert out.read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    check_rows(out, names, tmp_path / "photos")
    assert f"rows         {number} good, 0 failed" in text
    report = json.loads(out.with_name("out.jsonl.report.json").read_text())
    assert report["rows"] == {"good": number, "failed": 0}
    # What was begun and not written when a process was killed is all that is asked for twice.
    assert report["calls"] + report["retries"] <= sent <= report["calls"] + report["retries"] + 200


def test_a_model_on_this_machine(
    make_backbone: Callable, coma_command: Callable, picture: Callable, tmp_path: Path
) -> None:
    """A model with random weights, which takes some words for the end: some of its captions have words before it."""
    folder = shutil.copytree(make_backbone(), tmp_path / "base")
    generation = json.loads((folder / "generation_config.json").read_text())
    generation["eos_token_id"] = [0, *range(337, 400)]
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (tmp_path / "photos").mkdir()
    for number in range(9):
        picture(28, 28, number).save(tmp_path / "photos" / f"{number}.png")
    out = tmp_path / "out.jsonl"
    words = ["generate-qa", tmp_path / "photos", out, "--local", folder, "--format", "caption", "--device", "cpu"]
    words += ["--batch-size", 2, "--max-tokens", 8, "--attempts", 1]
    code, text, error = coma_command(*words)
    assert code == 0, error
    good, failed = rows_in(out), rows_in(out.with_name("out.jsonl.failed.jsonl"))
    assert good and failed and sorted(row["id"] for row in good + failed) == [f"{number}.png" for number in range(9)]
    assert all(row["messages"][1]["content"].strip() for row in good)
    assert {row["reason"] for row in failed} == {"too few turns"}
    assert "requests     9, sent again 0" in text
    report = json.loads(out.with_name("out.jsonl.report.json").read_text())
    assert report["tokens_unknown"] == 0 and 9 <= report["tokens"]["completion"] <= 9 * 8
    before = out.read_bytes()
    assert coma_command(*words)[0] == 0 and out.read_bytes() == before


def test_a_table_with_pictures_in_it(coma_command: Callable, picture: Callable, tmp_path: Path) -> None:
    stored = []
    for number in range(4):
        buffer = BytesIO()
        picture(28, 28, number).save(buffer, "PNG")
        stored.append({"bytes": buffer.getvalue() if number != 2 else b"x", "path": None})
    table = pa.table({"photo": pa.array(stored), "sku": ["a", "b", "c", "d"], "text": ["left alone"] * 4})
    pq.write_table(table, tmp_path / "t.parquet")
    out, key = tmp_path / "out.jsonl", tmp_path / "key.txt"
    key.write_text("secret\n")
    with ChatServer() as server:
        words = ["generate-qa", tmp_path / "t.parquet", out, "--server", server.url, *PATIENCE, "--turns", 2, 2]
        words += ["--image-column", "photo", "--id-column", "sku", "--api-key-file", key]
        server.reply = lambda body: (
            "1. What?\n2. Where?" if "write 2 questions" in str(body["messages"][0]) else "By the door."
        )
        code, text, error = coma_command(*words)
        assert code == 0, error
        assert server.headers["Authorization"] == "Bearer secret"
    assert [row["id"] for row in rows_in(out)] == ["a", "b", "d"] and "3 good, 1 failed" in text
    assert "--retry-failed tries them again" in text and "image cannot be read 1" in text
    assert len(load_dialogues(str(out))) == 3
    assert "secret" not in "".join(file.read_text() for file in tmp_path.glob("out.jsonl*.json*"))

    stored[2] = stored[0]
    pq.write_table(table.set_column(0, "photo", pa.array(stored)), tmp_path / "t.parquet")
    with ChatServer(reply=server.reply) as again:
        words[4] = again.url  # a server may move
        code, text, _ = coma_command(*words, "--retry-failed")
    assert code == 0 and "4 good, 0 failed" in text and "images 1" in text
    assert [row["id"] for row in rows_in(out)] == ["a", "b", "c", "d"]

    code, _, error = coma_command(*words[:-2], "--seed", 1)
    assert code == 1 and "begun with other settings: seed was 0 and is now 1" in error


@pytest.mark.slow
def test_from_python(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names, told = save_emoji(tmp_path / "photos", 3), []
    (tmp_path / "photos" / "notes.md").write_text("no image")
    out = tmp_path / "out.jsonl"
    with ChatServer() as server:
        options = {"server": server.url, "model": "m", "api_key": "secret", "concurrency": 2, "temperature": 0.1}
        report = generate_dialogues(tmp_path / "photos", out, **options, seed=5, tell=told.append)
        assert report == json.loads(out.with_name("out.jsonl.report.json").read_text())
        assert report["rows"] == {"good": 3, "failed": 0} and "1 files are left alone: notes.md" in told[0]
        check_rows(out, names, tmp_path / "photos")
        assert server.headers["Authorization"] == "Bearer secret" and server.requests[0][1]["temperature"] == 0.1

        asked = len(server.requests)
        assert generate_dialogues(str(tmp_path / "photos"), str(out), **options, seed=5) == report
        assert len(server.requests) == asked  # everything was there
        limited = generate_dialogues(tmp_path / "photos", tmp_path / "limited.jsonl", **options, max_image_pixels=10)
        assert limited["rows"] == {"good": 0, "failed": 3} and len(server.requests) == asked
        raised = {"max_image_pixels": 2**27, "retry_failed": True}
        again = generate_dialogues(tmp_path / "photos", tmp_path / "limited.jsonl", **options, **raised)
        assert again["rows"] == {"good": 3, "failed": 0}

        async def in_a_notebook() -> dict:
            return generate_dialogues(tmp_path / "photos", tmp_path / "captions.jsonl", **options, format="caption")

        assert asyncio.run(in_a_notebook())["rows"] == {"good": 3, "failed": 0}
        with pytest.raises(ValueError, match="begun with other settings: temperature was 0.1 and is now 0.2"):
            generate_dialogues(tmp_path / "photos", out, **{**options, "temperature": 0.2}, seed=5)
    assert capsys.readouterr().out == ""
    for chosen in ({}, {"server": "http://x/v1", "model": "m", "local": "x"}):
        with pytest.raises(ValueError, match="one of `server` and `local`"):
            generate_dialogues(tmp_path / "photos", out, **chosen)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of the arguments --server --local is required"),
        (["--server", "http://x/v1"], "--server and --model go together"),
        (["--local", "x", "--model", "m"], "--server and --model go together"),
        (["--local", "x", "--server", "y"], "not allowed with"),
        (["--local", "x", "--format", "caption", "--turns", "1", "2"], "--turns is for the format multi-turn"),
        (["--local", "x", "--turns", "0", "2"], "'0' is not a whole number from 1"),
    ],
)
def test_a_wrong_command_line(
    coma_command: Callable, capsys: pytest.CaptureFixture, words: list, message: str
) -> None:
    with pytest.raises(SystemExit):
        coma_command("generate-qa", "photos", "out.jsonl", *words)
    assert message in capsys.readouterr().err


def test_what_is_wrong_is_said(coma_command: Callable, picture: Callable, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    picture(28, 28, 0).save(tmp_path / "photos" / "0.png")
    words = ["generate-qa", tmp_path / "photos", tmp_path / "out.jsonl", "--model", "m", "--server"]
    code, _, error = coma_command(*words, "localhost:8000")
    assert code == 1 and "must begin with http" in error
    with ChatServer(lambda body, visit: "404") as server:
        code, _, error = coma_command(*words, server.url)
    assert code == 1 and "answers HTTP 404" in error and not (tmp_path / "out.jsonl").read_text()
    code, _, error = coma_command(*words, "http://x/v1", "--turns", 5, 3)
    assert code == 1 and "From 5 to 3 turns" in error


KEY = "sk-live/0123+456="
EVIL: list[Happening] = [
    send(b"later", 429, Retry_After="999999999"),
    send(completion("[" * 1500)),
    send(b"[" * 1500),
    send(completion('1. What is \ud800 here?\n2. What is "\ud800"?\n3. Where is \ud800?')),
    send(completion("<think>" * 40_000)),
    send(completion(" " * 280_000 + "?")),
    send(b"x" * 5_000_000),
    packed(b" " * 50_000_000),
    send(f"Authorization: Bearer {KEY}".encode(), 400),
    send(completion(f"1. What is {KEY}?\n2. Where?\n3. Why?")),
    send(b"\xff\xfe", 500),
    send(b"too large", 413),
    send(completion(None)),
    send(completion("1. What is <|im_end|>?\n2. Is it <|image_pad|>?\n3. What is <image>?")),
    "closed",
    "half a body",
]


@pytest.mark.slow
def test_one_picture_fails_and_the_run_goes_on(coma_command: Callable, tmp_path: Path) -> None:
    """Between two good images there is one about which the server says something bad, always the same."""
    names = save_emoji(tmp_path / "photos", 2 * len(EVIL) + 1)
    digests = {read_image(str(tmp_path / "photos" / name)).digest: place for place, name in enumerate(names)}
    out, key = tmp_path / "out.jsonl", tmp_path / "key.txt"
    key.write_text(KEY)

    def behave(body: dict, visit: int) -> Happening:
        place = digests[picture_in(body)]
        return EVIL[place // 2] if place % 2 else "good"

    with ChatServer(behave) as server:
        words = ["generate-qa", tmp_path / "photos", out, "--server", server.url, "--api-key-file", key, *PATIENCE]
        words += ["--retries", 1, "--attempts", 2, "--timeout", 60, "--concurrency", 4]
        code, text, error = coma_command(*words)
        assert code == 0, error
        asked = len(server.requests)
        assert coma_command(*words)[0] == 0 and len(server.requests) == asked
    check_rows(out, names[::2], tmp_path / "photos")
    failed = rows_in(out.with_name("out.jsonl.failed.jsonl"))
    assert [row["id"] for row in failed] == names[1::2] and f"{len(EVIL)} failed" in text
    assert len(load_dialogues(str(out))) == len(names[::2])
    written = "".join(file.read_text() for file in tmp_path.glob("out.jsonl*")) + text + error
    assert KEY not in written and KEY.replace("/", "\\/") not in written
    reasons = dict(zip(range(len(EVIL)), (row["reason"] for row in failed), strict=True))
    assert reasons[0] == "server: HTTP 429" and reasons[1] == "questions: no questions"
    assert reasons[6] == reasons[7] == "server: too much" and reasons[9] == "server: key in the reply"


def test_a_key_that_is_refused_is_not_shown(coma_command: Callable, picture: Callable, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    picture(28, 28, 0).save(tmp_path / "photos" / "0.png")
    key = tmp_path / "key.txt"
    words = ["generate-qa", tmp_path / "photos", tmp_path / "out.jsonl", "--model", "m", "--server"]
    with ChatServer(lambda body, visit: send(f"{KEY} is unknown".encode(), 401)) as server:
        key.write_text(KEY)
        code, _, error = coma_command(*words, server.url, "--api-key-file", key)
        assert code == 1 and "HTTP 401" in error and KEY not in error
        with_password = server.url.replace("://", f"://me:{quote(KEY, safe='')}@")
        code, _, error = coma_command(*words, with_password)
        assert code == 1 and "HTTP 401" in error and KEY not in error and quote(KEY, safe="") not in error
        for content, message in (
            (b"", "is empty"),
            (b" \n", "is empty"),
            (b"\xff\xfe", "is no text"),
            (b"a b", "ASCII"),
        ):
            key.write_bytes(content)
            code, _, error = coma_command(*words, server.url, "--api-key-file", key)
            assert code == 1 and message in error
        for missing in (tmp_path, tmp_path / "nothing"):
            code, _, error = coma_command(*words, server.url, "--api-key-file", missing)
            assert code == 1 and str(missing) in error


@pytest.mark.slow
def test_of_two_at_once_one_writes(coma_command: Callable, tmp_path: Path) -> None:
    names = save_emoji(tmp_path / "photos", 2)
    out = tmp_path / "out.jsonl"
    with ChatServer(lambda body, visit: "slow") as server:
        words = ["generate-qa", tmp_path / "photos", out, "--server", server.url, *PATIENCE, "--concurrency", 1]
        process = start(list(map(str, words)), fork=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not out.exists():
            time.sleep(0.005)
        code, _, error = coma_command(*words)
        assert code == 1 and error.splitlines()[-1].startswith("coma generate-qa: error: Another process is writing")
        assert os.waitpid(process, 0)[1] == 0
    check_rows(out, names, tmp_path / "photos")
