"""Whatever a server does, a request ends: in time, within its bytes, with vectors or one harmless line."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hub_scripts.serving.endpoint import Refused, ask_for_embeddings
from tests.chat_server import Happening, drip, flood, packed, send
from tests.embedding_server import EmbeddingServer
from trainers.data.qa.server import ServerSettings


def rows(*vectors: object) -> bytes:
    return json.dumps({"data": [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]}).encode()


def ask(how: Happening, *bodies: dict, **settings: object) -> list[list[list[float]] | Refused]:
    with EmbeddingServer(lambda body, visit: how) as server:
        settings = {"timeout": 5.0, "api_key": "secret-key", **settings}
        return ask_for_embeddings(ServerSettings(server.url, "m", **settings), list(bodies or [{"input": ["a"]}]))


def test_vectors_are_in_the_order_of_what_was_asked() -> None:
    def reply(body: dict) -> list[list[float]]:  # which the server sends in reversed order
        return [[float(len(text))] for text in body.get("input", ["four"])]

    with EmbeddingServer(reply=reply) as server:
        settings = ServerSettings(server.url, "m", api_key="secret-key")
        found = ask_for_embeddings(settings, [{"input": ["a", "bb"]}, {"messages": []}])
        assert found == [[[1.0], [2.0]], [[4.0]]]
        assert server.headers["Authorization"] == "Bearer secret-key"
        assert [body.keys() for _, body in server.requests][1] == {"model", "messages", "encoding_format"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"<html>",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"data": {}}',
        b'{"data": [], "data": []}',
        b'{"data": [{"index": 1, "embedding": [1.0]}]}',
        b'{"data": [{"index": [], "embedding": [1.0]}]}',
        b'{"data": [{"embedding": "AAAA"}]}',
        rows([]),
        rows([1.0, None]),
        rows([1.0, True]),
        rows([[1.0]]),
        rows([1.0, float("nan")]),
        b'{"data": [{"embedding": [1e999]}]}',
        b'{"data": [{"embedding": [1' + b"0" * 400 + b"]}]}",
    ],
)
def test_what_is_no_vector(body: bytes) -> None:
    (found,) = ask(send(body))
    assert isinstance(found, Refused) and "is not 1 vectors of finite numbers" in str(found) and len(str(found)) < 400


def test_what_a_server_refuses_is_said_and_the_next_request_is_sent() -> None:
    said = b'{"error": "no messages here, Bearer secret-key \\u001b[2J"}' + b" and so on" * 500
    found = ask(send(said, 400), {"messages": []}, {"input": ["a"]})
    assert len(found) == 2 and all(isinstance(answer, Refused) for answer in found)
    assert "HTTP 400" in str(found[0]) and "secret-key" not in str(found[0]) and len(str(found[0])) < 300


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        (send(b"no", 401), ValueError, "answers HTTP 401: 'no'. Look at the address, the model and the key"),
        (send(b"no", 404), ValueError, "answers HTTP 404"),
        (send(b"", 302, Location="http://elsewhere.example/"), ValueError, "points to 'http://elsewhere.example/'"),
        (send(b"later", 503), ConnectionError, "answers HTTP 503: 'later'. Run the command again"),
        ("closed", ConnectionError, "RemoteProtocolError"),
        ("half a body", ConnectionError, "RemoteProtocolError"),
    ],
)
def test_what_ends_all_requests(how: Happening, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as raised:
        ask(how)
    assert "secret-key" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_drop_after_the_other_ends_in_time() -> None:
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match=r"there was no answer in 0\.3 s"):
        ask(drip(1000, 0.05), timeout=0.3)
    assert time.monotonic() - begun < 3


def test_a_flood_is_not_read_to_its_end() -> None:
    sent: list[int] = []
    (found,) = ask(flood(sent, b" " * 10_000, 100_000), max_bytes=50_000)
    assert isinstance(found, Refused) and "more than 50000 bytes" in str(found) and sum(sent) < 10**8
    (found,) = ask(packed(b" " * 1000))
    assert isinstance(found, Refused)


def test_on_the_command_line_it_is_one_line(
    coma_folder: Path, coma_command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMA_API_KEY", "secret-key")
    with EmbeddingServer(lambda body, visit: send(b"\x1b[2Jgo away\nsecret-key", 403)) as server:
        options = ("--model", "m", "--golden", coma_folder)
        code, said, error = coma_command("verify", server.url, *options)
        assert (code, said) == (1, "") and error.count("\n") == 1 and "HTTP 403" in error
        assert "\x1b" not in error and "secret-key" not in error
        assert server.headers["Authorization"] == "Bearer secret-key"
    code, said, error = coma_command("verify", server.url, *options)
    assert (code, said) == (1, "") and "ConnectError" in error and error.count("\n") == 1
    code, said, error = coma_command("verify", "http://", *options)
    assert (code, said) == (1, "") and "is no address" in error
    with EmbeddingServer(lambda body, visit: send(b"{}", 422)) as server:
        code, said, error = coma_command("verify", server.url, *options)
    assert code == 1 and said.count("NONE: HTTP 422: '{}'") == 6


@pytest.mark.parametrize(
    "words",
    [
        ["http://localhost:1/v1", "--model", "m"],
        ["http://localhost:1/v1", "--golden", "folder"],
        ["folder", "--golden", "folder"],
        ["folder", "--form", "input"],
        ["http://localhost:1/v1", "--model", "m", "--golden", "folder", "--timeout", "0"],
    ],
)
def test_options_that_do_not_go_together(words: list[str], coma_command: Callable) -> None:
    with pytest.raises(SystemExit):
        coma_command("verify", *words)
