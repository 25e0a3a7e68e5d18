"""A server on Ray Serve: replicas with a model, and what stands before them, for the time of a context."""

import contextlib
import logging
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from hub_scripts.common.interrupts import ignore_interrupts
from hub_scripts.embedding.model_settings import ModelSettings
from hub_scripts.embedding.ray_cluster import RayOptions, place_models


__all__ = ["ServerOptions", "application"]

START_SECONDS = 120
QUIET = {"log_level": "ERROR", "enable_access_log": False}
COMMON: dict[str, Any] = {"graceful_shutdown_wait_loop_s": 0.1, "graceful_shutdown_timeout_s": 10}


class ServerOptions(NamedTuple):
    """What a server is told beside its model; as in [`~hub_scripts.serve.serve_model`]."""

    name: str
    host: str
    port: int
    max_batch: int
    batch_tokens: int
    max_queued: int
    any_dims: bool


@contextlib.contextmanager
def application(
    settings: ModelSettings, options: ServerOptions, replicas: int | None, api_key: str | None
) -> Iterator[None]:
    """
    Serves a model on the cluster of Ray that this process uses.

    Args:
        settings ([`ModelSettings`]): the model.
        options ([`ServerOptions`]): how it is served.
        replicas (`int`, *optional*): how often; by default as there is room for.
        api_key (`str`, *optional*): what requests must bear.

    Raises:
        ValueError: if there is no room, or what is to be served is no model.
        OSError: if it does not start.
    """
    from ray import serve
    from ray.exceptions import RayActorError
    from ray.serve.config import ProxyLocation

    from hub_scripts.serving.front import APPLICATION, MODELS

    if serve.status().proxies:
        raise ValueError("The cluster of Ray that this process uses serves something already.")
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    bound = _bound(settings, options, replicas, api_key)
    try:
        with contextlib.suppress(RayActorError):  # what is slow to listen, on a busy machine, is replaced by Ray
            serve.start(
                proxy_location=ProxyLocation.HeadOnly,
                http_options={"host": options.host, "port": options.port},
                logging_config=QUIET,
            )
        try:
            serve.run(bound, name=APPLICATION, route_prefix="/", logging_config=QUIET)
        except RuntimeError as error:
            states = serve.status().applications[APPLICATION].deployments
            raise _why(states[MODELS].message if MODELS in states else str(error)) from error
        _wait_until_heard()
        yield
    finally:
        ignore_interrupts()  # a second one would leave processes
        serve.shutdown()


def _wait_until_heard() -> None:
    from ray import serve

    until = time.monotonic() + START_SECONDS
    while "HEALTHY" not in serve.status().proxies.values():
        if time.monotonic() > until:
            raise OSError(f"Ray Serve does not listen after {START_SECONDS} s.")
        time.sleep(0.2)


def _bound(settings: ModelSettings, options: ServerOptions, replicas: int | None, api_key: str | None) -> Any:
    """What Ray Serve is to run."""
    from ray import serve

    from hub_scripts.serving.front import MODELS, Front, digest_of
    from hub_scripts.serving.replica import Replica

    room, placed = place_models(settings, RayOptions(num_actors=replicas), "ask for fewer --replicas")
    models = serve.deployment(Replica).options(
        name=MODELS,
        num_replicas=room.num_actors,
        ray_actor_options={"num_cpus": room.num_cpus, "num_gpus": room.num_gpus},
        max_ongoing_requests=2 * options.max_batch,  # one batch is computed, and the next one read
        max_queued_requests=options.max_queued,
        max_constructor_retry_count=1,
        **COMMON,
    )
    # It only passes on: what waits, waits for a replica, in a queue that has an end.
    front = serve.deployment(Front).options(
        name="Front", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=10_000, **COMMON
    )
    model = models.bind(placed, options.name, options.max_batch, options.batch_tokens, options.any_dims)
    return front.bind(model, options.name, None if api_key is None else digest_of(api_key))


def _why(message: str) -> Exception:
    """What a replica has raised: Ray Serve has its traceback in a text."""
    raised = re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exception)): (.+)", message, re.MULTILINE)
    kind, why = raised[-1] if raised else ("", message)
    return ValueError(why) if kind == "ValueError" else OSError(f"The model does not start: {kind or 'Ray'}: {why}")
