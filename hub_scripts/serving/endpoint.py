"""A server with an `/embeddings` route in the manner of OpenAI: vLLM, Infinity, TEI, a gateway, a paid service.

Whatever it does, a request ends: within its time, after so many bytes, with vectors or one line that says what was
wrong.
"""

import asyncio
import math
from typing import Any

import httpx2

from trainers.data.json_rows import parse_json
from trainers.data.qa.body import BoundedTransport, TooLarge
from trainers.data.qa.secrets import Secrets
from trainers.data.qa.server import ServerSettings


__all__ = ["Refused", "ask_for_embeddings"]

WIDEST_SAID = 200  # characters of what a server says, in a message
# The server knows this address, model and key, and does not take what was sent: another form may be taken.
OF_THE_REQUEST = frozenset({400, 413, 415, 422, 501})
BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class Refused(ValueError):
    """What a server says of a request that it does not take, or what is wrong with its answer."""


def ask_for_embeddings(settings: ServerSettings, bodies: list[dict[str, Any]]) -> list[list[list[float]] | Refused]:
    """
    Sends requests one after the other.

    Args:
        settings ([`~trainers.data.qa.server.ServerSettings`]): which server, how long it may take, and the most bytes
            of an answer. Nothing is tried again.
        bodies (`list[dict]`): each with `input`, a list, or `messages`, for one vector.

    Returns:
        `list`: for every request its vectors, or why there are none.

    Raises:
        ValueError: if the address, the model or the key is wrong.
        ConnectionError: if the server is not there, too slow or too busy.
    """
    return asyncio.run(_ask_all(settings, bodies))


async def _ask_all(settings: ServerSettings, bodies: list[dict[str, Any]]) -> list[list[list[float]] | Refused]:
    secrets = Secrets(settings.url, settings.api_key)
    headers = {"Accept-Encoding": "identity"}  # a small body could be a large one
    if secrets.authorization is not None:
        headers["Authorization"] = secrets.authorization
    answers: list[list[list[float]] | Refused] = []
    limits = httpx2.Limits(max_keepalive_connections=0)  # a server may close one while nobody looks
    transport = BoundedTransport(settings.max_bytes, limits=limits)
    # No other key of the environment, no redirection: nobody agreed to send a key elsewhere.
    async with httpx2.AsyncClient(transport=transport, headers=headers, timeout=None, trust_env=False) as client:
        for body in bodies:
            try:
                answers.append(await _ask(client, settings, secrets, body))
            except Refused as error:
                answers.append(error)
    return answers


async def _ask(
    client: httpx2.AsyncClient, settings: ServerSettings, secrets: Secrets, body: dict[str, Any]
) -> list[list[float]]:
    address = f"{settings.shown_url.rstrip('/')}/embeddings"
    body = {"model": settings.model, **body, "encoding_format": "float"}
    try:
        async with asyncio.timeout(settings.timeout):
            response = await client.post(address, json=body)
    except TimeoutError as error:
        raise ConnectionError(f"{address}: there was no answer in {settings.timeout:g} s.") from error
    except TooLarge as error:
        raise Refused(str(error)) from None
    # `from None`: what a server said may have the key in it, and a traceback shows all of a chain.
    except httpx2.DecodingError as error:
        raise Refused(_said(secrets, str(error))) from None
    except httpx2.HTTPError as error:
        raise ConnectionError(f"{address}: {_said(secrets, f'{type(error).__name__}: {error}')}") from None
    status, said = response.status_code, _said(secrets, response.content.decode("utf-8", errors="replace"))
    if status == 200:
        return _read(response.content, len(body["input"]) if "input" in body else 1, said)
    if status in OF_THE_REQUEST:
        raise Refused(f"HTTP {status}: {said!r}")
    if status in BUSY:
        raise ConnectionError(f"{address} answers HTTP {status}: {said!r}. Run the command again.")
    where = _said(secrets, response.headers.get("location", ""))
    moved = f" It points to {where!r}." if where else ""
    raise ValueError(f"{address} answers HTTP {status}: {said!r}.{moved} Look at the address, the model and the key.")


def _read(content: bytes, count: int, said: str) -> list[list[float]]:
    """The vectors of an answer, in the order of what was asked."""
    try:
        rows = parse_json(content.decode("utf-8-sig"))["data"]
        vectors = {row.get("index", place): _numbers(row["embedding"]) for place, row in enumerate(rows)}
        return [vectors[index] for index in range(count)]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Refused(f"its answer is not {count} vectors of finite numbers: {said!r}") from error


def _numbers(vector: Any) -> list[float]:
    numbers = [float(number) for number in vector if type(number) in (int, float) and math.isfinite(number)]
    if not isinstance(vector, list) or not numbers or len(numbers) != len(vector):
        raise TypeError("it is no list of finite numbers")
    return numbers


def _said(secrets: Secrets, text: str) -> str:
    text = " ".join(secrets.hide(text).split())
    return text if len(text) <= WIDEST_SAID else f"{text[:WIDEST_SAID]}…"
