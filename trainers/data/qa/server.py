"""Anybody who answers over HTTP in the manner of OpenAI: vLLM, TGI, Ollama, SGLang, llama.cpp, a paid service."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, omit

from trainers.data.json_rows import parse_json
from trainers.data.qa.body import BoundedTransport, TooLarge
from trainers.data.qa.chat import Fault, Message, Rejected, Reply
from trainers.data.qa.secrets import Secrets, without_password


__all__ = ["ServerChat", "ServerSettings"]

PATH = "/chat/completions"
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # statuses that another try may not meet
# What is wrong is the same for every image. An address that moved is not followed: nobody agreed to send images
# and a key elsewhere.
HOPELESS = frozenset({301, 302, 303, 307, 308, 401, 402, 403, 404, 405, 407, 410, 426, 501, 505})
CUT_OFF = ("length", "content_filter")  # finish reasons of a reply that the model did not end
WIDEST_BODY = 300  # characters of a reply in a message
GONE_AFTER = 20  # requests in a row that failed to their last try
LARGEST_COUNT = 2**53  # of tokens
SHOWN_WAIT, SHOWN_EVERY = 5.0, 10.0  # seconds: waits from such a length are logged, and not more often than this

# Nothing packed: a small body could be a large one. And nothing of what the environment has for other servers.
HEADERS = {"Accept-Encoding": "identity", "Authorization": omit, "OpenAI-Organization": omit, "OpenAI-Project": omit}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerSettings:
    """
    A server, and how to treat it.

    Args:
        url (`str`): up to and with the version, for instance `http://localhost:8000/v1`.
        model (`str`): the name that the server knows it by.
        api_key (`str`, *optional*): sent as a bearer token.
        temperature, max_tokens (`float`, `int`, *optional*, defaults to 0.7 and 1024): how the model writes.
        concurrency (`int`, *optional*, defaults to 16): requests at one time.
        requests_per_second (`float`, *optional*): most requests that are begun in a second.
        timeout (`float`, *optional*, defaults to 120.0): seconds that a reply may take.
        retries (`int`, *optional*, defaults to 6): how often a request that failed is sent again.
        backoff, max_backoff (`float`, *optional*, defaults to 0.5 and 60.0):
            Seconds before the first of them; each time twice as many, up to the largest; a random half of it is
            waived.
        max_wait (`float`, *optional*, defaults to 300.0):
            A server that says by `Retry-After` how long to wait is believed up to so many seconds; if it says more,
            the request has failed.
        max_bytes (`int`, *optional*, defaults to 4 MB): the most bytes of a reply; one with more has failed.
    """

    url: str = field(repr=False)
    model: str
    api_key: str | None = field(default=None, repr=False)
    temperature: float = 0.7
    max_tokens: int = 1024
    concurrency: int = 16
    requests_per_second: float | None = None
    timeout: float = 120.0
    retries: int = 6
    backoff: float = 0.5
    max_backoff: float = 60.0
    max_wait: float = 300.0
    max_bytes: int = 4 * 10**6

    def __post_init__(self) -> None:
        self._check_url()
        above_0 = ["max_tokens", "concurrency", "timeout", "max_backoff", "max_wait", "max_bytes"]
        if self.requests_per_second is not None:
            above_0.append("requests_per_second")
        if wrong := {name: getattr(self, name) for name in above_0 if not 0 < getattr(self, name) < math.inf}:
            raise ValueError(f"These must be above 0: {wrong}.")
        from_0 = ("retries", "backoff", "temperature")
        if wrong := {name: getattr(self, name) for name in from_0 if not 0 <= getattr(self, name) < math.inf}:
            raise ValueError(f"These must not be below 0: {wrong}.")
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise ValueError("The key of the server must be letters of ASCII without blanks, and at least one.")

    def _check_url(self) -> None:
        shown = self.shown_url
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url={shown!r} must begin with http:// or https://, as in http://localhost:8000/v1.")
        try:
            parts = urlsplit(self.url)
            is_address = re.search(r"[\s%]", parts.hostname or " ") is None and parts.port != 0
            httpx2.URL(shown)  # what the client will make of it
        except (ValueError, httpx2.InvalidURL):
            is_address = False
        if not is_address:
            raise ValueError("The url is no address; give one as http://localhost:8000/v1.")
        if parts.query or parts.fragment:
            raise ValueError(f"{shown!r}: the url must end with its path, as in …/v1.")
        if self.api_key is not None and parts.username is not None:
            raise ValueError("The url has a name or a password, and there is a key: give one of them.")

    @property
    def shown_url(self) -> str:
        """The url without a password."""
        return without_password(self.url)


class ServerChat:
    """
    Talks to a server; a [`Chat`], and an asynchronous context that holds its connections.

    Args:
        settings ([`ServerSettings`]): which one, and how.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.concurrency = settings.concurrency
        self._secrets = Secrets(settings.url, settings.api_key)
        self._shown_address = f"{settings.shown_url.rstrip('/')}{PATH}"
        self._next_start = 0.0
        self._lost = 0  # requests in a row that failed to their last try
        self._shown_at = -math.inf

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for two runs to be one; where the server is must not."""
        names = ("model", "temperature", "max_tokens")
        return {name: getattr(self.settings, name) for name in names}

    async def __aenter__(self) -> ServerChat:
        settings = self.settings
        limits = httpx2.Limits(max_connections=self.concurrency)
        transport = BoundedTransport(settings.max_bytes, limits=limits)
        self._client = AsyncOpenAI(
            api_key="none",  # the library does not know it, so it can show it nowhere
            base_url=settings.shown_url,
            timeout=None,  # those of the library are of a piece of a reply; ours is of all of it
            max_retries=0,  # it does not send again what is no chat completion, and waits for at most 8 s
            http_client=httpx2.AsyncClient(auth=self._authorize, transport=transport),
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def complete(self, messages: list[Message], seed: int) -> Reply:
        """
        Answers the last of the messages.

        Args:
            messages (`list[dict]`): turns of user and assistant, with an image in the first.
            seed (`int`): for servers that take one.

        Returns:
            [`Reply`]

        Raises:
            Rejected: if the server refuses this request, or fails to answer it time after time.
            ValueError: if it would refuse all of them: the key, the address or the name of the model is wrong.
            ConnectionError: if many requests in a row were in vain.
        """
        body = {
            "model": self.settings.model,
            "messages": [_with_uri(message) for message in messages],
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
            "seed": seed,
        }
        for retry in range(self.settings.retries + 1):
            await self._wait_for_a_start()
            try:
                reply = await self._ask(body)
            except _Passing as error:
                if retry == self.settings.retries:
                    self._count_lost(error)
                    why = f"{retry + 1} times; at last {error.detail}"
                    raise Rejected(f"server: {error.reason}", why) from error
                await self._wait(error, retry)
            else:
                self._lost = 0
                return reply._replace(retries=retry)

    async def _wait(self, error: _Passing, retry: int) -> None:
        """Waits before another try, as long as the server wishes, if that is not too long."""
        if error.wait is not None and error.wait > self.settings.max_wait:
            self._count_lost(error)
            why = f"it asks to be left alone for {error.wait:.0f} s, more than {self.settings.max_wait:g} s (max_wait)"
            raise Rejected(f"server: {error.reason}", why) from error
        seconds = self._pause(retry) if error.wait is None else error.wait
        now = asyncio.get_running_loop().time()
        if seconds >= SHOWN_WAIT and now - self._shown_at >= SHOWN_EVERY:
            self._shown_at = now
            tries = f"try {retry + 1} of {self.settings.retries + 1}"
            logger.warning(f"{self.settings.shown_url}: {error.reason}, {tries}; waiting {seconds:.0f} s")
        await asyncio.sleep(seconds)

    async def _ask(self, body: dict[str, Any]) -> Reply:
        request = {"cast_to": httpx2.Response, "body": body, "options": {"headers": HEADERS}}
        try:
            async with asyncio.timeout(self.settings.timeout):
                response = await self._client.post(PATH, **request)
        except TimeoutError as error:
            raise _Passing("time-out", f"there was no reply in {self.settings.timeout:g} s") from error
        # `from None`: what a server said may have the key in it, and a traceback shows all of a chain.
        except APIStatusError as error:
            response = error.response
        except TooLarge as error:
            raise Rejected("server: too much", str(error)) from None
        except APIConnectionError as error:
            why = error.__cause__
            reason = "not a chat completion" if isinstance(why, httpx2.DecodingError) else "connection"
            raise _Passing(reason, self._said(f"{self._shown_address}: {type(why).__name__}: {why}")) from None
        return self._reply(response)

    def _reply(self, response: httpx2.Response) -> Reply:
        """What a status and a body mean. Nothing of them leaves this class with a secret in it."""
        status, body = response.status_code, response.content
        said = self._said(body.decode("utf-8", errors="replace"))
        if status in HOPELESS:
            where = self._said(response.headers.get("location", ""))
            moved = f" It points to {where!r}." if where else ""
            look = "Look at the address, the model and the key."
            raise ValueError(f"{self._shown_address} answers HTTP {status}: {said!r}.{moved} {look}")
        if status in PASSING:
            raise _Passing(f"HTTP {status}", said, _seconds(response.headers.get("retry-after")))
        if status != 200:
            raise Rejected(f"server: HTTP {status}", said)
        try:
            reply = _read_reply(body.decode("utf-8-sig"))
        except ValueError as error:
            raise _Passing("not a chat completion", f"{self._said(str(error))}: {said!r}") from None
        if self._secrets.are_in(reply.text):
            raise Rejected("server: key in the reply", "the text of the reply has the key of the server in it")
        return reply

    def _said(self, text: str) -> str:
        return " ".join(self._secrets.hide(text).split())[:WIDEST_BODY]

    def _authorize(self, request: httpx2.Request) -> httpx2.Request:
        if self._secrets.authorization is not None:
            request.headers["Authorization"] = self._secrets.authorization
        return request

    async def _wait_for_a_start(self) -> None:
        if self.settings.requests_per_second is not None:
            now = asyncio.get_running_loop().time()
            start = max(now, self._next_start)
            self._next_start = start + 1 / self.settings.requests_per_second
            await asyncio.sleep(start - now)

    def _pause(self, retry: int) -> float:
        longest = min(self.settings.max_backoff, self.settings.backoff * 2**retry)
        return longest * random.uniform(0.5, 1)

    def _count_lost(self, error: _Passing) -> None:
        self._lost += 1
        if self._lost >= max(GONE_AFTER, 2 * self.concurrency):
            where = f"{self.settings.shown_url}: {self._lost} requests in a row failed, each after all of its tries"
            raise ConnectionError(f"{where}; at last {error.reason}: {error.detail}") from error


class _Passing(Fault):
    """A failure that may pass, and how long the server wants to be left alone."""

    def __init__(self, reason: str, detail: str, wait: float | None = None) -> None:
        super().__init__(reason, detail)
        self.wait = wait


def _with_uri(message: Message) -> dict[str, Any]:
    if "image" not in message:
        return message
    image = {"type": "image_url", "image_url": {"url": message["image"].uri}}
    return {"role": message["role"], "content": [image, {"type": "text", "text": message["content"]}]}


def _read_reply(text: str) -> Reply:
    """The reply in a chat completion; `ValueError` if it is none: no JSON, a key twice, or of another form."""
    try:
        found = parse_json(text)
        choice = found["choices"][0]
        content = choice["message"]["content"]
        if not isinstance(content, str | None):
            raise TypeError(f"the content is a {type(content).__name__}")
        cut_off, usage = choice.get("finish_reason") in CUT_OFF, found.get("usage")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    used = usage if isinstance(usage, dict) else {}
    numbers = [used.get(name) for name in ("prompt_tokens", "completion_tokens")]
    known = [number if type(number) is int and 0 <= number < LARGEST_COUNT else None for number in numbers]
    return Reply(content or "", cut_off, *known)


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` is a number of seconds or a date; what is neither is as good as nothing."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", retry_after.strip()):
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
