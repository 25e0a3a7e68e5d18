"""A client over real HTTP: what passes is tried again, what does not is said, and no server is pressed."""

import asyncio
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tests.chat_server import MISCHIEF, ChatServer
from trainers.data.qa_chat import Picture, Rejected, Reply
from trainers.data.qa_server import ServerChat, ServerSettings, _read_reply, _seconds


PICTURE = Picture(b"a picture", "image/png", b"a picture")


def ask(server: ChatServer | str, seeds: list[int], **settings) -> list[Reply | BaseException]:
    """Requests at one time, one for every seed: replies or errors."""
    url = server if isinstance(server, str) else server.url
    settings = {"retries": 2, "backoff": 0.01, "timeout": 0.4, **settings}

    async def run() -> list[Reply | BaseException]:
        async with ServerChat(ServerSettings(url, "m", **settings)) as chat:
            messages = [{"role": "user", "content": "What is it?", "picture": PICTURE}]
            return await asyncio.gather(*(chat.complete(messages, seed) for seed in seeds), return_exceptions=True)

    return asyncio.run(run())


def first_time(how: str) -> Callable[[dict, int], str]:
    return lambda body, visit: how if visit == 0 else "good"


@pytest.mark.parametrize("how", [how for how in MISCHIEF if how not in ("empty", "slow")])
def test_what_passes_is_tried_again(how: str) -> None:
    with ChatServer(first_time(how)) as server:
        (reply,) = ask(server, [1])
        assert reply.retries == 1 and reply.text.startswith("In turn 1, ")
        times = [when for when, _ in server.requests]
        assert len(times) == 2 and server.requests[0][1] == server.requests[1][1]
    if how == "429":  # it said how long to wait
        assert times[1] - times[0] > 0.99


def test_what_is_sent_and_what_comes_back() -> None:
    with ChatServer() as server:
        (reply,) = ask(server, [7], api_key="secret", temperature=0.3, max_tokens=50)
        assert (reply.prompt_tokens, reply.completion_tokens, reply.cut_off, reply.retries) == (100, 10, False, 0)
        body = server.requests[0][1]
        assert {name: body[name] for name in body if name != "messages"} == {
            "model": "m",
            "temperature": 0.3,
            "max_tokens": 50,
            "seed": 7,
        }
        assert server.headers["Authorization"] == "Bearer secret"
        assert "secret" not in repr(ServerSettings(server.url, "m", "secret"))
    with ChatServer(lambda body, visit: "long") as server:
        assert ask(server, [7])[0].cut_off


@pytest.mark.parametrize(
    ("how", "kind", "message", "requests"),
    [
        ("500", Rejected, r"server: HTTP 500: 3 times; at last ", 3),
        ("time-out", Rejected, r"server: time-out: 3 times; at last there was no reply in 0\.1 s", 3),
        ("closed", Rejected, r"server: connection: 3 times", 3),
        ("half a body", Rejected, r"server: connection: 3 times", 3),
        ("truncated", Rejected, r"server: not a chat completion: 3 times; at last JSONDecodeError", 3),
        ("400", Rejected, r"server: HTTP 400: ", 1),
        ("401", ValueError, r"answers HTTP 401: .* the model and the key", 1),
        ("404", ValueError, r"answers HTTP 404", 1),
    ],
)
def test_what_does_not_pass_is_said(how: str, kind: type, message: str, requests: int) -> None:
    with ChatServer(lambda body, visit: how) as server:
        (error,) = ask(server, [1], timeout=0.1 if how == "time-out" else 2)
        assert len(server.requests) == requests
    assert type(error) is kind
    with pytest.raises(kind, match=message):
        raise error


def test_a_server_that_is_gone_stops_the_run() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    errors = ask(url, list(range(25)), retries=0, concurrency=4)
    assert [type(error) for error in errors].count(ConnectionError) == 6
    assert "20 requests in a row failed" in str(next(e for e in errors if isinstance(e, ConnectionError)))


def test_no_more_at_one_time_than_agreed() -> None:
    with ChatServer(lambda body, visit: "slow") as server:
        ask(server, list(range(9)), concurrency=3, timeout=5)
        assert server.most_open == 3


def test_no_more_in_a_second_than_agreed() -> None:
    with ChatServer() as server:
        started = time.monotonic()
        ask(server, list(range(11)), requests_per_second=40, timeout=5)
        assert 0.25 <= time.monotonic() - started < 2
        times = sorted(when for when, _ in server.requests)
        assert times[-1] - times[0] > 0.2


def test_waiting_doubles_up_to_a_limit() -> None:
    chat = ServerChat(ServerSettings("http://x", "m", backoff=1, max_backoff=10))
    for retry, longest in enumerate([1, 2, 4, 8, 10, 10]):
        pauses = [chat._pause(retry) for _ in range(50)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


def test_a_reply_that_is_no_text_is_no_reply() -> None:
    with ChatServer(reply=lambda body: [{"type": "text", "text": "A cup."}]) as server:
        (error,) = ask(server, [1])
    assert isinstance(error, Rejected) and error.reason == "server: not a chat completion"
    assert "the content is a list" in error.detail


@pytest.mark.parametrize("usage", ["[1]", '"12"', '{"prompt_tokens": "12"}', "null"])
def test_what_it_has_cost_may_be_unknown(usage: str) -> None:
    choice = '{"message": {"content": "A cup."}}'
    assert _read_reply(f'{{"choices": [{choice}], "usage": {usage}}}') == Reply("A cup.")


def test_retry_after() -> None:
    assert (_seconds(None), _seconds("7"), _seconds(" 0.5"), _seconds("soon"), _seconds("inf")) == (
        None,
        7,
        0.5,
        None,
        None,
    )
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 28 < _seconds(soon) <= 30
    assert _seconds("Wed, 21 Oct 2015 07:28:00 GMT") == _seconds("Wed, 21 Oct 2015 07:28:00 -0000") == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost:8000"}, "must begin with http"),
        ({"timeout": 0}, r"must be above 0: {'timeout': 0}"),
        ({"requests_per_second": 0.0}, "must be above 0"),
        ({"retries": -1}, "must not be below 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerSettings(**{"url": "http://x", "model": "m", **settings})
