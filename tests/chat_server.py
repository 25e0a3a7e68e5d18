"""A chat server in the manner of OpenAI, on 127.0.0.1, that answers about the image it was sent, or misbehaves."""

import base64
import gzip
import hashlib
import json
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


__all__ = ["ChatServer", "Happening", "completion", "drip", "flood", "misbehaving", "packed", "send"]

# One request in two meets one of these, the first time that it is sent.
MISCHIEF = ["500", "503", "429", "time-out", "truncated", "empty", "slow", "closed", "half a body", "html"]
# What happens: a status, one of MISCHIEF, `say ` and the text of a reply, or a function that answers all by itself.
Happening = str | Callable[[BaseHTTPRequestHandler], None]
Behaviour = Callable[[dict, int], Happening]


def misbehaving(body: dict, visit: int) -> str:
    """What happens to a request is a matter of its content, and of how often it has come."""
    number = int.from_bytes(hashlib.blake2b(json.dumps(body).encode(), digest_size=4).digest(), "big")
    return MISCHIEF[number % 20] if visit == 0 and number % 20 < len(MISCHIEF) else "good"


def picture_in(body: dict) -> str:
    """Which image was sent, as the first of the messages must."""
    image = body["messages"][0]["content"][0]["image_url"]["url"]
    header, data = image.split(",", 1)
    assert header.startswith("data:image/") and header.endswith(";base64")
    return hashlib.blake2b(base64.b64decode(data), digest_size=8).hexdigest()


def reply_to(body: dict) -> str:
    """Five questions, or an answer that knows the image and the turn."""
    messages = body["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2) + ["user"]
    picture, text = picture_in(body), messages[0]["content"][1]["text"]
    if "write 3 to 5 questions" in text:
        things = [f"{number}. What is thing {number} of {picture}?" for number in range(1, 6)]
        return "Here they are:\n\n" + "\n".join(things)
    turn = 1 + len(messages) // 2
    return f"In turn {turn}, {picture} shows number {turn * 111}."


def completion(content: Any, **more: Any) -> bytes:
    """A chat completion with this content."""
    return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop", **more}]}).encode()


def send(body: bytes, status: int = 200, **headers: str) -> Happening:
    """Answers with this body and these headers (`Retry_After` for `Retry-After`)."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def flood(sent: list[int], piece: bytes, number: int, **headers: str) -> Happening:
    """Sends a piece time after time, in chunks; `sent` afterwards has the bytes that somebody took."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        for name, value in ({"Transfer_Encoding": "chunked"} | headers).items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        for _ in range(number):
            request.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            sent.append(len(piece))

    return answer


def drip(number: int, pause: float) -> Happening:
    """Sends a body byte by byte, slowly, so that there is always something to wait for."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(number))
        request.end_headers()
        for _ in range(number):
            request.wfile.write(b" ")
            request.wfile.flush()
            time.sleep(pause)

    return answer


def packed(body: bytes, encoding: str = "gzip") -> Happening:
    """A body that nobody asked to be packed."""
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(encoding, bytes)
    return send(pack(body), Content_Encoding=encoding)


class ChatServer:
    """
    A context. `behave(body, visit)` says what happens to a request; `requests` are times and bodies of all,
    `headers` those of the last, `most_open` how many there were at one time.
    """

    path = "/v1/chat/completions"

    def __init__(
        self, behave: Behaviour = lambda body, visit: "good", reply: Callable[[dict], str] = reply_to
    ) -> None:
        self.behave, self.reply = behave, reply
        self.requests: list[tuple[float, dict]] = []
        self.visits: Counter[str] = Counter()
        self.headers: dict[str, str] = {}
        self.open = self.most_open = 0
        self.lock = threading.Lock()
        self.time_out = threading.Event()

    def __enter__(self) -> "ChatServer":
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                chat.handle(self)

            def log_message(self, *_: Any) -> None:
                pass

        ThreadingHTTPServer.request_queue_size = 128
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # clients that were killed
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.time_out.set()
        self.server.shutdown()
        self.server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        data = request.rfile.read(int(request.headers["Content-Length"]))
        body = json.loads(data)
        with self.lock:
            key = hashlib.blake2b(data).hexdigest()
            visit = self.visits[key]
            self.visits[key] += 1
            self.requests.append((time.monotonic(), body))
            self.headers = dict(request.headers)
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            assert request.path == self.path
            self.answer(request, body, self.behave(body, visit))
        finally:
            with self.lock:
                self.open -= 1

    def answer(self, request: BaseHTTPRequestHandler, body: dict, how: Happening) -> None:
        if callable(how):
            request.close_connection = True
            how(request)
            return
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        if how == "time-out":
            self.time_out.wait(5)
        if how == "slow":
            time.sleep(0.1)
        if how in ("closed", "time-out"):
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        content = how.removeprefix("say ") if how.startswith("say ") else "" if how == "empty" else self.reply(body)
        reply = {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}
        if how == "long":
            reply["choices"][0]["finish_reason"] = "length"
        text = json.dumps(reply | {"usage": usage}).encode()
        if how == "truncated":
            text = text[: len(text) // 2]
        if how == "html":
            text = b"<html>Service Unavailable</html>"
        request.send_response(int(how) if how.isdecimal() else 200)
        request.send_header("Content-Length", str(len(text) * (2 if how == "half a body" else 1)))
        if how == "429":
            request.send_header("Retry-After", "1")
        request.end_headers()
        request.wfile.write(text)
        if how == "half a body":
            request.close_connection = True
