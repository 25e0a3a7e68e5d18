"""What a server answers, in the manner of OpenAI: vectors, the models that there are, errors."""

import base64
import json
from typing import Any, NamedTuple

import numpy as np

from hub_scripts.serving.body import Refused


__all__ = ["Reply", "error_reply", "models_reply", "vectors_reply"]

RETRY_SECONDS = 1
# What programs tell errors by, by the first digits of their statuses.
TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Reply(NamedTuple):
    """
    An answer.

    Args:
        status (`int`): 200, or what is wrong.
        body (`bytes`): JSON.
        headers (`dict[str, str]`): beside its type and length.
    """

    status: int
    body: bytes
    headers: dict[str, str]


def vectors_reply(model: str, vectors: np.ndarray, num_tokens: int, is_base64: bool) -> Reply:
    """
    Vectors.

    Args:
        model (`str`): the name by which the model is served.
        vectors (`np.ndarray` of shape `(num_items, dims)` in fp32): in the order of the items.
        num_tokens (`int`): of all items, with those of images and of compression.
        is_base64 (`bool`): whether they are sent as base64 of their numbers, little-endian.

    Returns:
        [`Reply`]
    """
    vectors = vectors.astype("<f4", copy=False)
    made = [base64.b64encode(row.tobytes()).decode() for row in vectors] if is_base64 else vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(made)]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return _reply(200, {"object": "list", "data": data, "model": model, "usage": usage})


def models_reply(model: str, created: int) -> Reply:
    """The list of models, of which there is one, with the time in seconds from when on it is served."""
    entry = {"id": model, "object": "model", "created": created, "owned_by": "coma-embedding"}
    return _reply(200, {"object": "list", "data": [entry]})


def error_reply(error: Refused) -> Reply:
    """What is wrong; of what may be right in a moment, when to try again."""
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    body = {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}
    return _reply(error.status, body, {"Retry-After": str(RETRY_SECONDS)} if error.status in (429, 503) else {})


def _reply(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(body, allow_nan=False).encode(), headers or {})
