"""Anybody who answers over HTTP in the manner of OpenAI: vLLM, TGI, Ollama, SGLang, llama.cpp, a paid service."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any

import aiohttp

from trainers.data.qa_chat import Message, Rejected, Reply


__all__ = ["ServerChat", "ServerSettings"]

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # statuses that another try may not meet
HOPELESS = frozenset({401, 403, 404, 405})  # what is wrong is the same for every picture
WIDEST_BODY = 300  # characters of a reply in a message
GONE_AFTER = 20  # requests in a row that failed to their last try


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
            waived. A server that says by `Retry-After` how long to wait is believed.
    """

    url: str
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

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url={self.url!r} must begin with http:// or https://, as in http://localhost:8000/v1.")
        positive = {"max_tokens": self.max_tokens, "concurrency": self.concurrency, "timeout": self.timeout}
        if self.requests_per_second is not None:
            positive["requests_per_second"] = self.requests_per_second
        if wrong := {name: value for name, value in positive.items() if value <= 0}:
            raise ValueError(f"These must be above 0: {wrong}.")
        if wrong := {n: getattr(self, n) for n in ("retries", "backoff", "temperature") if getattr(self, n) < 0}:
            raise ValueError(f"These must not be below 0: {wrong}.")


class ServerChat:
    """
    Talks to a server; a [`Chat`], and an asynchronous context that holds its connections.

    Args:
        settings ([`ServerSettings`]): which one, and how.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.concurrency = settings.concurrency
        self._next_start = 0.0
        self._lost = 0  # requests in a row that failed to their last try

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for two runs to be one; where the server is must not."""
        names = ("model", "temperature", "max_tokens")
        return {name: getattr(self.settings, name) for name in names}

    async def __aenter__(self) -> ServerChat:
        key = self.settings.api_key
        self._session = aiohttp.ClientSession(
            headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=aiohttp.ClientTimeout(total=self.settings.timeout),
            connector=aiohttp.TCPConnector(limit=self.concurrency),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def complete(self, messages: list[Message], seed: int) -> Reply:
        """
        Answers the last of the messages.

        Args:
            messages (`list[dict]`): turns of user and assistant, with a picture in the first.
            seed (`int`): for servers that take one.

        Returns:
            [`Reply`]

        Raises:
            Rejected: if the server refuses this request, or fails to answer it time after time.
            ValueError: if it would refuse all of them: the key, the address or the name of the model is wrong.
            ConnectionError: if many requests in a row were in vain.
        """
        body = json.dumps(
            {
                "model": self.settings.model,
                "messages": [_with_uri(message) for message in messages],
                "temperature": self.settings.temperature,
                "max_tokens": self.settings.max_tokens,
                "seed": seed,
            }
        ).encode()
        for retry in itertools.count():
            await self._wait_for_a_start()
            try:
                reply = await self._post(body)
            except _Passing as error:
                if retry == self.settings.retries:
                    self._count_lost(error)
                    why = f"{retry + 1} times; at last {error.detail}"
                    raise Rejected(f"server: {error.reason}", why) from error
                await asyncio.sleep(self._pause(retry) if error.wait is None else error.wait)
            else:
                self._lost = 0
                return reply._replace(retries=retry)

    async def _post(self, body: bytes) -> Reply:
        url = f"{self.settings.url.rstrip('/')}/chat/completions"
        try:
            async with self._session.post(url, data=body) as response:
                text = (await response.read()).decode("utf-8", errors="replace")
                status, headers = response.status, response.headers
        except TimeoutError as error:
            raise _Passing("time-out", f"there was no reply in {self.settings.timeout:g} s") from error
        except aiohttp.InvalidURL as error:
            raise ValueError(f"{url} is no address.") from error
        except aiohttp.ClientError as error:
            raise _Passing("connection", f"{type(error).__name__}: {error}") from error
        said = " ".join(text.split())[:WIDEST_BODY]
        if status in HOPELESS:
            raise ValueError(f"{url} answers HTTP {status}: {said!r}. Look at the address, the model and the key.")
        if status in PASSING:
            raise _Passing(f"HTTP {status}", said, _seconds(headers.get("Retry-After")))
        if status != 200:
            raise Rejected(f"server: HTTP {status}", said)
        return _read_reply(text)

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
            where = f"{self.settings.url}: {self._lost} requests in a row failed, each after all of its tries"
            raise ConnectionError(f"{where}; at last {error.reason}: {error.detail}") from error


class _Passing(Exception):
    """A failure that may pass: its sort, what a person should know, and how long the server wants to be left alone."""

    def __init__(self, reason: str, detail: str, wait: float | None = None) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.wait = reason, detail, wait


def _with_uri(message: Message) -> dict[str, Any]:
    if "picture" not in message:
        return message
    picture = {"type": "image_url", "image_url": {"url": message["picture"].uri}}
    return {"role": message["role"], "content": [picture, {"type": "text", "text": message["content"]}]}


def _read_reply(text: str) -> Reply:
    try:
        found = json.loads(text)
        choice = found["choices"][0]
        content = choice["message"]["content"]
        if not isinstance(content, str | None):
            raise TypeError(f"the content is a {type(content).__name__}")
        cut_off, usage = choice.get("finish_reason") == "length", found.get("usage")
    except (json.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
        said = " ".join(text.split())[:WIDEST_BODY]
        raise _Passing("not a chat completion", f"{type(error).__name__}: {error}: {said!r}") from error
    used = usage if isinstance(usage, dict) else {}
    numbers = [used.get(name) for name in ("prompt_tokens", "completion_tokens")]
    return Reply(content or "", cut_off, *(number if isinstance(number, int) else None for number in numbers))


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` is a number of seconds or a date; what is neither is as good as nothing."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", retry_after.strip()):
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
