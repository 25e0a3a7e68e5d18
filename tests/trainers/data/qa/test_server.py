"""A client over real HTTP: what passes is tried again, what does not is said, and no server is pressed."""

import asyncio
import gzip
import json
import logging
import socket
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import quote

import pytest

from tests.chat_server import MISCHIEF, ChatServer, completion, drip, flood, packed, send
from trainers.data.qa.chat import ImageFile, Rejected, Reply
from trainers.data.qa.server import ServerChat, ServerSettings, _read_reply, _seconds


PICTURE = ImageFile(b"an image", "image/png", b"an image")


def ask(server: ChatServer | str, seeds: list[int], **settings) -> list[Reply | BaseException]:
    """Requests at one time, one for every seed: replies or errors."""
    url = server if isinstance(server, str) else server.url
    settings = {"retries": 2, "backoff": 0.01, "timeout": 30.0, **settings}  # a busy machine is slow to answer

    async def run() -> list[Reply | BaseException]:
        async with ServerChat(ServerSettings(url, "m", **settings)) as chat:
            messages = [{"role": "user", "content": "What is it?", "image": PICTURE}]
            return await asyncio.gather(*(chat.complete(messages, seed) for seed in seeds), return_exceptions=True)

    return asyncio.run(run())


def first_time(how: str) -> Callable[[dict, int], str]:
    return lambda body, visit: how if visit == 0 else "good"


@pytest.mark.slow
@pytest.mark.parametrize("how", [how for how in MISCHIEF if how not in ("empty", "slow")])
def test_what_passes_is_tried_again(how: str) -> None:
    with ChatServer(first_time(how)) as server:
        (reply,) = ask(server, [1], timeout=1.5 if how == "time-out" else 30.0)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "kind", "message", "requests"),
    [
        ("500", Rejected, r"server: HTTP 500: 3 times; at last ", 3),
        ("time-out", Rejected, r"server: time-out: 3 times; at last there was no reply in 0\.5 s", 3),
        ("closed", Rejected, r"server: connection: 3 times", 3),
        ("half a body", Rejected, r"server: connection: 3 times", 3),
        ("truncated", Rejected, r"server: not a chat completion: 3 times; at last JSONDecodeError", 3),
        ("400", Rejected, r"server: HTTP 400: ", 1),
        ("401", ValueError, r"answers HTTP 401: .* the model and the key", 1),
        ("404", ValueError, r"/v1/chat/completions answers HTTP 404", 1),
    ],
)
def test_what_does_not_pass_is_said(how: str, kind: type, message: str, requests: int) -> None:
    with ChatServer(lambda body, visit: how) as server:
        (error,) = ask(server, [1], timeout=0.5 if how == "time-out" else 30.0)
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
    assert f"{url}/chat/completions: ConnectError" in str(errors[0])


def test_no_more_at_one_time_than_agreed() -> None:
    with ChatServer(lambda body, visit: "slow") as server:
        ask(server, list(range(9)), concurrency=3)
        assert server.most_open == 3


def test_no_more_in_a_second_than_agreed() -> None:
    with ChatServer() as server:
        started = time.monotonic()
        ask(server, list(range(11)), requests_per_second=40)
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


@pytest.mark.parametrize(
    ("wait", "seconds"), [("999999999", "999999999"), ("9" * 400, "inf"), ("Fri, 31 Dec 9999 23:59:59 GMT", r"\d+")]
)
def test_a_wait_without_end_is_not_slept_out(wait: str, seconds: str) -> None:
    with ChatServer(lambda body, visit: send(b"later", 429, Retry_After=wait)) as server:
        started = time.monotonic()
        (error,) = ask(server, [1])
        assert time.monotonic() - started < 2 and len(server.requests) == 1
    assert type(error) is Rejected
    with pytest.raises(Rejected, match=rf"HTTP 429: it asks to be left alone for {seconds} s, more than 300 s"):
        raise error


def test_a_server_that_asks_everybody_to_wait_stops_the_run() -> None:
    with ChatServer(lambda body, visit: send(b"later", 429, Retry_After="4000")) as server:
        errors = ask(server, list(range(25)), concurrency=4)
    assert [type(error) for error in errors].count(ConnectionError) == 6


def test_a_wait_is_shown(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.data.qa.server.SHOWN_WAIT", 0.2)
    with ChatServer(lambda body, visit: send(b"x", 429, Retry_After="0.3") if visit == 0 else "good") as server:
        with caplog.at_level(logging.WARNING):
            replies = ask(server, list(range(8)))
    assert [reply.retries for reply in replies] == [1] * 8
    (line,) = [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()]
    assert line == f"{server.url}: HTTP 429, try 1 of 3; waiting 0 s"


MANY = b"x" * 2**20
UNREADABLE = [
    b"[" * 1500,
    b'{"choices": ' + b"[" * 100_000,
    b"9" * 5000,
    b"",
    b"null",
    b"\xff\xfe{}",
    completion("caf\u00e9").replace(b"\\u00e9", b"\xe9"),  # Latin-1
    completion("A cup.")[:-1] + b', "choices": [{"message": {"content": "A cat."}}]}',
    b'{"choices": [{"message": {"content": "a", "content": "b"}}]}',
    *(completion(content) for content in ([], {}, 3, True, [{"type": "text", "text": "x"}])),
    *(json.dumps({"choices": choices}).encode() for choices in ([], {}, "x", None, [None], [[]], [{"message": 3}])),
    b"data: " + completion("A cup.") + b"\n\ndata: [DONE]\n\n",
]


@pytest.mark.slow
@pytest.mark.parametrize("body", UNREADABLE, ids=lambda body: repr(body[:30]))
def test_a_body_that_is_no_reply(body: bytes) -> None:
    with ChatServer(lambda _, visit: send(body)) as server:
        (error,) = ask(server, [1], retries=1)
        assert len(server.requests) == 2
    assert isinstance(error, Rejected) and error.reason == "server: not a chat completion" and len(str(error)) < 800


@pytest.mark.slow
def test_bodies_that_are_replies() -> None:
    many = {"message": {"content": "A cup."}}
    cases = {
        completion("A cup."): Reply("A cup."),
        b"\xef\xbb\xbf" + completion("A cup."): Reply("A cup."),
        completion(None): Reply(""),
        completion("A c", finish_reason="length"): Reply("A c", True),
        completion("A c", finish_reason="content_filter"): Reply("A c", True),
        json.dumps({"choices": [many] * 50_000}).encode(): Reply("A cup."),
        b'{"choices": [{"message": {"content": "A cup."}}], "usage": {"prompt_tokens": -1, "completion_tokens": '
        + b"9" * 30
        + b"}}": Reply("A cup."),
    }
    for body, reply in cases.items():
        assert len(body) < 4 * 10**6
        for how in (send(body), packed(body), packed(body, "deflate"), send(body, Content_Encoding="identity")):
            with ChatServer(lambda _, visit, how=how: how) as server:
                assert ask(server, [1], retries=0) == [reply]


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    def answer(request) -> None:
        request.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + completion("A cup."))

    with ChatServer(lambda _, visit: answer) as server:
        assert ask(server, [1]) == [Reply("A cup.")]


def test_no_more_of_a_body_is_read_than_agreed() -> None:
    sent: list[int] = []
    with ChatServer(lambda _, visit: flood(sent, MANY, 5000)) as server:
        (error,) = ask(server, [1])
        assert len(server.requests) == 1  # the next one would be as large
    assert isinstance(error, Rejected) and error.reason == "server: too much" and "4000000 bytes" in error.detail
    assert sum(sent) < 64 * 2**20
    for status in (200, 400, 500):
        with ChatServer(lambda _, visit, status=status: send(b"x" * 5000, status)) as server:
            (error,) = ask(server, [1], max_bytes=4999, retries=0)
        assert error.reason == "server: too much"
    with ChatServer(lambda _, visit: send(completion("x" * 4000).ljust(5000))) as server:
        assert ask(server, [1], max_bytes=5000) == [Reply("x" * 4000)]


def test_a_packed_body_is_no_larger_for_it() -> None:
    sent: list[int] = []
    bomb = gzip.compress(b" " * 2**24, 1)
    assert len(bomb) < 10**5  # what it becomes is more than agreed
    how = flood(sent, bomb, 1, Content_Encoding="gzip")
    with ChatServer(lambda _, visit: how) as server:
        (error,) = ask(server, [1])
    assert isinstance(error, Rejected) and error.reason == "server: too much"
    for broken in (send(b"no gzip", Content_Encoding="gzip"), packed(completion("A cup."), "br")):
        with ChatServer(lambda _, visit, how=broken: how) as server:
            (error,) = ask(server, [1])
        assert error.reason == "server: not a chat completion"


@pytest.mark.slow
def test_a_body_that_drips_is_not_waited_for() -> None:
    with ChatServer(lambda _, visit: drip(1000, 0.02)) as server:
        started = time.monotonic()
        (error,) = ask(server, [1], timeout=0.3, retries=1)
        assert time.monotonic() - started < 3
    assert error.reason == "server: time-out"


def test_nothing_is_sent_to_where_a_server_points() -> None:
    with ChatServer() as other:
        for status in (301, 302, 303, 307, 308):
            where = f"http://me:secret@127.0.0.1:{other.server.server_port}/v1/chat/completions"
            with ChatServer(lambda _, visit, to=(status, where): send(b"", to[0], Location=to[1])) as server:
                (error,) = ask(server, [1], api_key="secret")
            assert type(error) is ValueError and f"HTTP {status}" in str(error) and "It points to" in str(error)
            assert "secret" not in str(error)
        assert not other.requests


@pytest.mark.slow
@pytest.mark.parametrize("key", ["sk-live/0123+456=", "secret"])
def test_a_key_is_never_given_back(key: str) -> None:
    """Whatever a server does with it: in the body of an error, in a header, packed into JSON, in the reply itself."""
    echoes = [
        lambda shown: send(f"Authorization: Bearer {shown} is not known".encode(), 500),
        lambda shown: send(f"{'x' * 290}{shown}".encode(), 400),  # where the message is cut
        lambda shown: send(json.dumps({"error": {"message": f"bad key {shown}"}}).encode(), 401),
        lambda shown: send(json.dumps({"error": shown}).replace("/", "\\/").encode(), 422),
        lambda shown: send(json.dumps({shown: 1, "error": [shown]}).encode()),
        lambda shown: send(f'{{"{shown}": 1, "{shown}": 2}}'.encode()),
        lambda shown: send(b"", 307, Location=f"http://x/?key={shown}"),
        lambda shown: send(b"x", 200, Content_Encoding=shown),
        lambda shown: send(completion(f"The key is {shown}.")),
        lambda shown: lambda request: request.wfile.write(f"HTTP/1.1 {shown}\r\n\r\n".encode()),
        lambda shown: lambda request: request.wfile.write(f"HTTP/1.1 200 OK\r\n{shown}\r\n\r\n".encode()),
    ]
    for number, echo in enumerate(echoes):
        how = echo(key)
        with ChatServer(lambda _, visit, how=how: how) as server:
            with_key = ask(server, [1], api_key=key, retries=1)
            address = server.url.replace("http://", f"http://me:{quote(key, safe='')}@")
            in_address = ask(address, [1], retries=1)
        for error in (*with_key, *in_address):
            assert isinstance(error, BaseException), number
            everything = "".join(traceback.format_exception(error)) + repr(vars(error))
            assert key not in everything and quote(key, safe="") not in everything, number
            assert key.replace("/", "\\/") not in everything, number
    settings = ServerSettings("http://me:secret@x:1/v1", "m")
    assert "secret" not in repr(settings) and settings.shown_url == "http://x:1/v1"


def test_nothing_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is for other servers; and what libraries log has no key in it."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "of-another-server")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    caplog.set_level(logging.DEBUG)
    with ChatServer() as server:
        assert ask(server, [1])[0].text
        assert "Authorization" not in server.headers and "of-another-server" not in str(server.headers)
        ask(server, [1], api_key="sk-live/0123+456=")
        assert server.headers["Authorization"] == "Bearer sk-live/0123+456="
        ask(server.url.replace("http://", "http://me:sk-live@"), [1])
    assert caplog.records and "sk-live" not in caplog.text and "bWU6c2stbGl2ZQ" not in caplog.text


def test_a_name_and_a_password_in_the_address_are_used() -> None:
    with ChatServer() as server:
        ask(server.url.replace("http://", "http://me:secret@"), [1])
        assert server.headers["Authorization"] == "Basic bWU6c2VjcmV0"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "http://"}, "no address"),
        ({"url": "http://x:99999/v1"}, "no address"),
        ({"url": "http://[x/v1"}, "no address"),
        ({"url": "http://a b/v1"}, "no address"),
        ({"url": "http://10.0.0.999/v1"}, "no address"),
        ({"url": "http://x/v1?key=secret"}, "must end with its path"),
        ({"url": "ftp://me:secret@x/v1"}, "must begin with http"),
        ({"url": "me:secret@x/v1"}, "must begin with http"),
        ({"url": "http://me:secret@x/v1", "api_key": "secret"}, "give one of them"),
        ({"api_key": "secret\n"}, "letters of ASCII"),
        ({"api_key": "secret\r\nX: y"}, "letters of ASCII"),
        ({"api_key": ""}, "letters of ASCII"),
        ({"api_key": "sécret"}, "letters of ASCII"),
        ({"timeout": float("nan")}, "must be above 0"),
        ({"timeout": float("inf")}, "must be above 0"),
        ({"max_wait": 0}, "must be above 0"),
        ({"max_bytes": -1}, "must be above 0"),
        ({"temperature": float("nan")}, "must not be below 0"),
        ({"backoff": float("inf")}, "must not be below 0"),
    ],
)
def test_settings_that_make_no_sense_either(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ServerSettings(**{"url": "http://x", "model": "m", **settings})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("status", [402, 403, 405, 407, 410, 501])
def test_what_is_the_same_for_every_picture_ends_the_run(status: int) -> None:
    with ChatServer(lambda _, visit: str(status)) as server:
        (error,) = ask(server, [1])
        assert type(error) is ValueError and len(server.requests) == 1
