"""`coma serve` on a real cluster: every answer is that of `embed_items`, or says what is wrong."""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from hub_scripts.common.folders import save_model
from hub_scripts.common.loading import load_model
from hub_scripts.embedding.precision import cut_vectors
from hub_scripts.hub.training_record import TRAINING_FILE
from hub_scripts.serve import serve_model
from trainers.encoding.encode import embed_items


ROOT = Path(__file__).resolve().parents[2]
KEY = "a-key"


def test_a_missing_ray_is_one_sentence(
    coma_folder: Path, coma_command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, error = coma_command("serve", coma_folder, "--port", free_port())
    assert code == 1 and error == "coma serve: error: Ray is not installed: pip install 'coma-embedding[scale]'\n"


@pytest.mark.parametrize("what", ["max_batch", "batch_tokens", "max_queued", "replicas"])
def test_a_number_that_serves_nobody_is_refused(coma_folder: Path, what: str) -> None:
    with pytest.raises(ValueError, match=f"{what} must be a whole number from 1, got 0"):
        with serve_model(coma_folder, port=free_port(), **{what: 0}):
            raise AssertionError("it serves")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Case(NamedTuple):
    """What is sent, and the vector that must come."""

    body: dict[str, Any]
    expected: np.ndarray


class Served(NamedTuple):
    """A server with two replicas, and a request of every kind for each of several texts and images."""

    url: str
    folder: Path
    cases: list[Case]

    def ask(self, body: dict[str, Any], key: str = KEY) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx2.post(f"{self.url}/embeddings", json={"model": "m", **body}, headers=headers, timeout=60)

    async def ask_all(self, bodies: list[dict[str, Any]], at_once: int) -> list[httpx2.Response]:
        gate = asyncio.Semaphore(at_once)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx2.AsyncClient(
            timeout=120, headers=headers, limits=httpx2.Limits(max_connections=None)
        ) as client:

            async def ask(body: dict[str, Any]) -> httpx2.Response:
                async with gate:
                    return await client.post(f"{self.url}/embeddings", json={"model": "m", **body})

            return await asyncio.gather(*map(ask, bodies))


def vectors_in(response: httpx2.Response) -> np.ndarray:
    rows = response.json()["data"]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    return np.array([row["embedding"] for row in rows], np.float32)


def are_right(responses: list[httpx2.Response], cases: list[Case]) -> list[bool]:
    """Of the requests that were answered with vectors, whether these are the right ones."""
    return [
        np.abs(vectors_in(response) - case.expected).max() <= 1e-5
        for response, case in zip(responses, cases, strict=True)
        if response.status_code == 200
    ]


def test_a_queue_without_a_place_is_refused(coma_command: Callable, capsys: pytest.CaptureFixture) -> None:
    """Ray Serve has none."""
    with pytest.raises(SystemExit):
        coma_command("serve", "my-coma", "--max-queued", 0)
    assert "--max-queued" in capsys.readouterr().err


@pytest.mark.extras
def test_a_model_that_does_not_load_is_one_line(
    cluster: None, coma_folder: Path, coma_command: Callable, tmp_path: Path
) -> None:
    for file in coma_folder.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).symlink_to(file)
    words = ["--port", free_port(), "--device", "cpu"]
    code, _, error = coma_command("serve", tmp_path, *words)
    assert code == 1 and error.startswith("coma serve: error: ") and error.count("\n") == 1, error
    assert "model.safetensors" in error, error
    code, _, error = coma_command("serve", coma_folder, *words, "--replicas", 99)
    assert code == 1 and "and not for 99: ask for fewer --replicas." in error


@pytest.fixture(scope="module")
def served(
    cluster: None, make_coma: Callable, picture: Callable[..., Image.Image], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served") / "my-coma"
    save_model(*make_coma("qwen2_5_vl", 4), folder)
    stage = {"stage": "contrastive", "settings": {"matryoshka_dims": [16]}}
    (folder / TRAINING_FILE).write_text(json.dumps([stage]))
    options = {"name": "m", "port": free_port(), "replicas": 2, "max_batch": 8, "max_queued": 24, "api_key": KEY}
    with serve_model(folder, device="cpu", **options) as url:
        yield Served(url, folder, cases_of(folder, picture))


def cases_of(folder: Path, picture: Callable[..., Image.Image]) -> list[Case]:
    bodies, items = [], []
    for place in range(8):
        text, file = f"{'a little ' * place}apple", BytesIO()
        picture(28 + 28 * (place % 3), 56, place).save(file, "PNG")
        image, url = file.getvalue(), f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        part = {"type": "image_url", "image_url": {"url": url}}
        instruction = {"role": "system", "content": "Find it."}
        said = {"role": "user", "content": [{"type": "text", "text": text}, {"type": "image", "image": image}]}
        items += [text, {"image": image}, [instruction, said], {"image": image, "text": text}]
        bodies.append({"input": text})
        bodies.append({"messages": [{"role": "user", "content": [part]}]})
        bodies.append({"messages": [instruction, {**said, "content": [said["content"][0], part]}]})
        bodies.append({"input": [{"image": url, "text": text}]})
    expected = embed_items(*load_model(str(folder), device="cpu"), items, description=None).numpy()
    return [Case(body, vector[None]) for body, vector in zip(bodies, expected, strict=True)]


@pytest.mark.extras
def test_every_answer_is_that_of_embed_items(served: Served) -> None:
    """One after the other, many at one time, and as one request; as numbers, as base64, cut."""
    alone = [served.ask(case.body) for case in served.cases[:4]]
    assert are_right(alone, served.cases[:4]) == [True] * 4
    together = asyncio.run(served.ask_all([case.body for case in served.cases], at_once=16))
    assert are_right(together, served.cases) == [True] * len(served.cases)
    texts = [case for case in served.cases if isinstance(case.body.get("input"), str)]
    expected = np.concatenate([case.expected for case in texts])
    body = {"input": [case.body["input"] for case in texts]}
    whole = served.ask(body)
    assert np.abs(vectors_in(whole) - expected).max() <= 1e-5
    assert whole.json()["usage"]["total_tokens"] == sum(
        served.ask(case.body).json()["usage"]["prompt_tokens"] for case in texts
    )
    packed = served.ask({**body, "encoding_format": "base64", "dimensions": 16}).json()["data"]
    numbers = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in packed])
    assert np.abs(numbers - cut_vectors(expected, 16)).max() <= 1e-5


@pytest.mark.extras
def test_verify_finds_it_intact(served: Served, coma_command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMA_API_KEY", KEY)
    code, text, error = coma_command("verify", served.url, "--model", "m", "--golden", served.folder)
    assert code == 0 and text.count("as published") == 6, text + error


@pytest.mark.extras
def test_what_is_wrong_is_said_by_status_and_shape(served: Served) -> None:
    def said(response: httpx2.Response, status: int) -> dict[str, Any]:
        assert response.status_code == status, response.text
        assert response.json().keys() == {"error"}
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}
        return response.json()["error"]

    assert said(served.ask({"input": ["a", "b", " "]}), 400)["param"] == "input[2]"
    assert said(served.ask({"input": ["a", [1]]}), 400)["param"] == "input[1]"
    chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}]}]
    assert "nothing is fetched" in said(served.ask({"messages": chat}), 400)["message"]
    chat[0]["content"][0]["image_url"]["url"] = "data:image/png;base64,aGFsbG8="
    assert said(served.ask({"messages": chat}), 400)["param"] == "messages[0].content[0]"
    assert "trained for 16, 64 dimensions" in said(served.ask({"input": "a", "dimensions": 8}), 400)["message"]
    assert "takes 32768" in said(served.ask({"input": "a " * 40_000}), 400)["message"]
    assert "this server has 'm'" in said(served.ask({"input": "a", "model": "n"}), 404)["message"]
    assert said(served.ask({"input": "a"}, key="another"), 401)["code"] == "invalid_api_key"
    assert said(httpx2.get(f"{served.url}/nothing"), 404) and said(httpx2.get(f"{served.url}/embeddings"), 405)
    assert "is the limit" in said(served.ask({"input": "a" * (65 * 2**20)}), 413)["message"]
    models = httpx2.get(f"{served.url}/models", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert [model["id"] for model in models["data"]] == ["m"]


@pytest.mark.extras
def test_too_many_requests_are_told_to_come_again(served: Served) -> None:
    cases = served.cases * 6
    responses = asyncio.run(served.ask_all([case.body for case in cases], at_once=len(cases)))
    assert all(are_right(responses, cases)) and {response.status_code for response in responses} == {200, 429}
    refused = next(response for response in responses if response.status_code == 429)
    assert refused.headers["Retry-After"] == "1" and refused.json()["error"]["code"] == "overloaded"


def replicas_here() -> list[psutil.Process]:
    everything = psutil.Process().children(recursive=True)
    return [process for process in everything if "ray::ServeReplica:coma:Replica" in " ".join(process.cmdline())]


@pytest.mark.extras
def test_a_replica_is_killed_and_no_answer_is_wrong(served: Served) -> None:
    cases = served.cases * 4

    async def ask_and_kill() -> list[httpx2.Response]:
        asked = asyncio.create_task(served.ask_all([case.body for case in cases], at_once=24))
        await asyncio.sleep(0.3)
        replicas_here()[0].kill()
        return await asked

    responses = asyncio.run(ask_and_kill())
    assert all(are_right(responses, cases))
    assert {response.status_code for response in responses} <= {200, 429, 503}
    assert served.ask(served.cases[0].body).status_code == 200
    assert httpx2.get(served.url.replace("/v1", "/health")).status_code == 200


@pytest.mark.extras
def test_the_command_ends_as_it_began(coma_folder: Path) -> None:
    """Nobody else reaches it; told to stop, it stops with 0, says nothing more, and leaves no process."""
    command = [sys.executable, "-m", "hub_scripts.cli", "serve", str(coma_folder), "--port", str(free_port())]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [*command, "--device", "cpu"],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as running:  # fmt: skip
        try:
            line = running.stdout.readline()
            assert " is served at http://127.0.0.1:" in line, line + running.stderr.read()
            started = psutil.Process(running.pid).children(recursive=True)
            addresses = {each.laddr.ip for child in started for each in connections(child) if each.status == "LISTEN"}
            assert len(started) > 4 and addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
            url = line.split()[-4]
            answer = httpx2.post(
                f"{url}/embeddings", json={"model": coma_folder.name, "input": "an apple"}, timeout=60
            )
            assert answer.status_code == 200 and torch.tensor(answer.json()["data"][0]["embedding"]).shape == (64,)
            os.killpg(running.pid, signal.SIGINT)  # as a terminal does
            running.terminate()
            text, error = running.communicate(timeout=60)
        finally:
            if running.poll() is None:
                running.terminate()
    assert (running.returncode, text, error) == (0, "", "")
    gone, alive = psutil.wait_procs(started, timeout=10)
    assert not alive, [process.cmdline() for process in alive]


def connections(process: psutil.Process) -> list[Any]:
    try:
        return process.net_connections("inet")
    except psutil.NoSuchProcess:
        return []
