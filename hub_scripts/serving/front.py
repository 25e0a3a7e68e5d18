"""The front of a server: HTTP to items, items to a replica with a model, vectors to HTTP.

It answers errors in the manner of OpenAI, where Ray Serve by itself would answer a line of text.
"""

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from hub_scripts.serving.answers import Reply, error_reply, models_reply, vectors_reply
from hub_scripts.serving.body import Asked, Refused, parse_body
from hub_scripts.serving.embedder import Fault
from hub_scripts.serving.loopback import listen_here_alone
from hub_scripts.serving.replica import Vectors


__all__ = ["MAX_BODY", "Front", "digest_of"]

MAX_BODY = 64 * 2**20  # bytes of a request
MAX_HELD = 16 * MAX_BODY  # of all requests that are here
ATTEMPTS = 2  # a request that two replicas have died of is not given to a third
SECONDS = 600  # for an answer, with the time in which a replica is replaced
ROUTES = {"/health": "GET", "/v1/models": "GET", "/v1/embeddings": "POST"}
APPLICATION, MODELS = "coma", "Replica"  # what Ray Serve knows the server and its replicas by


def digest_of(key: str) -> bytes:
    """What is kept of a key, so that no state of Ray has it."""
    return hashlib.sha256(key.encode()).digest()


class Front:
    """
    Answers requests.

    Args:
        replicas (`DeploymentHandle`): the models.
        served_as (`str`): the name of the model, for those who ask.
        key (`bytes`, *optional*): [`digest_of`] the key that they must have.
    """

    def __init__(self, replicas: DeploymentHandle, served_as: str, key: bytes | None) -> None:
        listen_here_alone()
        self.replicas, self.served_as, self.key = replicas, served_as, key
        self.created, self.held = int(time.time()), 0

    async def __call__(self, request: Request) -> Response:
        """Answers one request."""
        try:
            reply = await self._reply(request)
        except Refused as error:
            reply = error_reply(error)
        return Response(reply.body, reply.status, reply.headers, media_type="application/json")

    async def _reply(self, request: Request) -> Reply:
        path, method = request.url.path, request.method
        if path not in ROUTES:
            raise Refused(f"There is no {path}; there are {', '.join(ROUTES)}.", status=404)
        if method != ROUTES[path]:
            raise Refused(f"{path} takes {ROUTES[path]}, not {method}.", status=405)
        if path == "/health":
            return await self._health()
        self._check_key(request.headers.get("authorization", ""))
        if path == "/v1/models":
            return models_reply(self.served_as, self.created)
        async with asyncio.timeout(SECONDS) as limit:
            try:
                return await self._embeddings(request)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise Refused(f"There was no answer in {SECONDS} s.", status=503) from error

    def _check_key(self, header: str) -> None:
        scheme, _, given = header.partition(" ")
        is_known = scheme.lower() == "bearer" and hmac.compare_digest(digest_of(given.strip()), self.key or b"")
        if self.key is not None and not is_known:
            raise Refused("The key is missing or wrong: Authorization: Bearer ….", status=401, code="invalid_api_key")

    async def _health(self) -> Reply:
        status = await asyncio.to_thread(serve.status)
        states = status.applications[APPLICATION].deployments[MODELS].replica_states
        if not states.get("RUNNING"):
            raise Refused("No model is loaded at the moment.", status=503)
        return Reply(200, b"{}", {})

    async def _embeddings(self, request: Request) -> Reply:
        async with self._body(request) as content:
            asked = await asyncio.to_thread(parse_body, content, self.served_as)
            found = await self._found(asked)
        if isinstance(found, Fault):
            raise Refused(found.message, found.param, status=500 if found.param is None else 400)
        return await asyncio.to_thread(vectors_reply, self.served_as, *found, asked.is_base64)

    @contextlib.asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request; as long as it is held here it counts, so that all of them find room in memory."""
        parts, size = [], 0
        declared = request.headers.get("content-length", "")
        try:
            if declared.isdecimal() and int(declared) > MAX_BODY:
                raise _too_large()
            async for part in request.stream():
                parts.append(part)
                size, self.held = size + len(part), self.held + len(part)
                if size > MAX_BODY:
                    raise _too_large()
                if self.held > MAX_HELD:
                    raise Refused("Requests fill the memory of this server: try again.", status=429, code="overloaded")
            yield b"".join(parts)
        finally:
            self.held -= size

    async def _found(self, asked: Asked) -> Vectors | Fault:
        for _ in range(ATTEMPTS):
            try:
                return await self.replicas.embed.remote(asked.items, asked.dims)
            except BackPressureError as error:
                message = "More requests wait than this server takes: try again."
                raise Refused(message, status=429, code="overloaded") from error
            except RayActorError:  # a replica has died, and what it had is asked of another
                continue
            except (RayError, RayServeException) as error:
                why = next(iter(str(getattr(error, "cause", error)).splitlines()), "")[:300]
                raise Refused(f"The model has failed: {why}", status=500) from error
        raise Refused(f"{ATTEMPTS} replicas have died with this request: try again.", status=503)


def _too_large() -> Refused:
    return Refused(f"The body has more than {MAX_BODY} bytes, which is the limit: send several.", status=413)
