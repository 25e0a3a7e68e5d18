"""Serves a model: /v1/embeddings in the manner of OpenAI, by replicas of Ray Serve that batch what comes at one time.

Texts are sent as `input`, images and both as `messages` of a chat with data URLs, as vLLM takes them; nothing is
fetched, and nothing is cut: what is too long or too large is refused, by its place in the request. /health says
whether a model is loaded, /v1/models what it is called. Whoever reaches the server can use it, unless COMA_API_KEY is
set: then requests must bear that key. docs/serving.md has the details.

  coma serve my-coma
  coma serve my-coma --replicas 4 --max-batch 64 --port 8080
  coma verify http://127.0.0.1:8000/v1 --model my-coma --golden my-coma
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from hub_scripts.common.address import check_address, url_of
from hub_scripts.common.arguments import Dtype, add_model_options, command_parser, positive
from hub_scripts.common.interrupts import catch_interrupts, handlers_kept
from hub_scripts.common.terminal import one_line
from hub_scripts.embedding.model_settings import ModelSettings
from hub_scripts.embedding.ray_cluster import ray_cluster
from trainers.ranges import COUNT


__all__ = ["main", "serve_model"]

HOST, PORT = "127.0.0.1", 8000
KEY = "COMA_API_KEY"


def main(argv: list[str]) -> int:
    """Runs `coma serve`; returns the exit code."""
    parser = command_parser("serve", __doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="CoMa model or adapter: a folder, or a name on the Hub")
    add("--name", metavar="NAME", help="what requests call it (default: the name of the folder, or that on the Hub)")
    add("--host", default=HOST, help="address to listen at (default: %(default)s, this machine alone)")
    add("--port", type=positive, default=PORT, metavar="N", help="port to listen at (default: %(default)s)")
    add("--replicas", type=positive, metavar="N", help="models (default: one per GPU; without any, one)")
    add("--max-batch", type=positive, default=32, metavar="N", help="items of a batch (default: %(default)s)")
    tokens = "tokens of a batch, padding included (default: %(default)s)"
    add("--batch-tokens", type=positive, default=16384, metavar="N", help=tokens)
    queued = "requests that may wait, beyond which one is told to try again (default: %(default)s)"
    add("--max-queued", type=positive, default=256, metavar="N", help=queued)
    add("--any-dims", action="store_true", help="cut to any `dimensions`, even where the model was not trained for it")
    add_model_options(parser)
    arguments = vars(parser.parse_args(argv))
    with contextlib.suppress(KeyboardInterrupt), serve_model(api_key=os.environ.get(KEY) or None, **arguments) as url:
        wait = catch_interrupts()
        name = arguments["name"] or _name_of(arguments["model"])
        print(f"{one_line(name)} is served at {one_line(url)} (Ctrl-C ends it).", flush=True)
        if arguments["host"] not in (HOST, "localhost", "::1") and not os.environ.get(KEY):
            print(f"Whoever reaches this machine can use it: {KEY} is not set.", flush=True)
        wait()
    return 0


@contextlib.contextmanager
def serve_model(  # noqa: PLR0913 - what can be set
    model: str | Path,
    *,
    name: str | None = None,
    host: str = HOST,
    port: int = PORT,
    replicas: int | None = None,
    max_batch: int = 32,
    batch_tokens: int = 16384,
    max_queued: int = 256,
    any_dims: bool = False,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_image_pixels: int | None = None,
    api_key: str | None = None,
) -> Iterator[str]:
    r"""
    Serves a model as `coma serve` does, for as long as a `with` block runs.

    Args:
        model (`str` or `Path`): CoMa model or adapter: a folder, or a name on the Hub.
        name (`str`, *optional*): what requests call it; by default the name of the folder, or that on the Hub.
        host (`str`, *optional*, defaults to `"127.0.0.1"`): address to listen at.
        port (`int`, *optional*, defaults to 8000): port to listen at.
        replicas (`int`, *optional*): models; by default one per GPU, or one.
        max_batch (`int`, *optional*, defaults to 32): items of a batch.
        batch_tokens (`int`, *optional*, defaults to 16384): tokens of a batch, padding included.
        max_queued (`int`, *optional*, defaults to 256): requests that may wait for a replica; one more is answered
            429, with `Retry-After`.
        any_dims (`bool`, *optional*, defaults to `False`): whether to cut vectors to any `dimensions` of a request,
            even where the model was not trained for them.
        dtype (`str`, *optional*, defaults to `"auto"`): precision.
        device (`str`, *optional*, defaults to `"auto"`): `cpu`, or by default the GPUs, if there are any.
        max_image_pixels (`int`, *optional*): images with more are refused; by default as the model has it.
        api_key (`str`, *optional*): what requests must bear.

    Yields:
        `str`: the address, with `/v1`.

    Raises:
        ValueError: for what is no CoMa model, for more replicas than there is room for, and for numbers below 1.
        ImportError: if Ray is not installed.
        OSError: if nothing can listen there, or the model does not start.

    Example:

        >>> with serve_model("my-coma") as url:
        ...     input(f"{url} is open until Enter is pressed.")
    """
    from hub_scripts.common.loading import check_folder
    from hub_scripts.serving.application import ServerOptions, application

    counts = {"max_batch": max_batch, "batch_tokens": batch_tokens, "max_queued": max_queued, "replicas": replicas}
    for what, number in counts.items():
        if not (COUNT.holds(number) or (what == "replicas" and number is None)):
            raise ValueError(f"{what} must be {COUNT.words}, got {number!r}.")
    check_address(host, port)
    check_folder(str(model))
    settings = ModelSettings(name=str(model), dtype=dtype, device=device, max_image_pixels=max_image_pixels)
    name = name or _name_of(str(model))
    options = ServerOptions(name, host, port, max_batch, batch_tokens, max_queued, any_dims)
    printed = sys.stdout
    with handlers_kept(), ray_cluster(None):
        with application(settings, options, replicas, api_key), contextlib.redirect_stdout(printed):
            yield f"{url_of(host, port)}/v1"


def _name_of(model: str) -> str:
    """What requests call a model by default."""
    folder = Path(model)
    return folder.resolve().name if folder.is_dir() else model
