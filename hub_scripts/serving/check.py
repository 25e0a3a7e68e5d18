"""Whether the vectors of a server are the golden ones, and why not."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from hub_scripts.hub.clean_load import decode_inputs
from hub_scripts.hub.golden import TOLERANCES, distances, golden_embeddings
from hub_scripts.serving.causes import explain
from hub_scripts.serving.endpoint import Refused, ask_for_embeddings
from hub_scripts.serving.requests import Form, make_requests
from hub_scripts.serving.variants import Variant, variants


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor
    from trainers.data.qa.server import ServerSettings


__all__ = ["Answer", "ServerVerification", "check_server"]

BY_PADDING = (
    "padding: alone the vector is right, and beside a longer text it is not; the padding side, or padding that is seen"
)


class Answer(NamedTuple):
    """
    What a server made of a golden input.

    Args:
        difference (`float`, *optional*): how far its vector is from the golden one, as a share of its length; `None`
            if it gave none.
        cause (`str`): likely cause of a difference, or what the server said; empty if the vector is as published.
    """

    difference: float | None
    cause: str


class ServerVerification(NamedTuple):
    """
    What [`check_server`] has found.

    Args:
        answers (`dict[str, Answer]`): by the names of the golden inputs and of their forms.
        tolerance (`float`): how far a vector may be.
    """

    answers: dict[str, Answer]
    tolerance: float

    @property
    def is_intact(self) -> bool:
        """Whether there is a vector for everything that was asked, and all of them are as published."""
        return bool(self.answers) and not any(answer.cause for answer in self.answers.values())


def check_server(
    settings: "ServerSettings",
    golden: dict[str, Any],
    load: Callable[[], tuple["ComaForEmbedding", "ComaProcessor"]],
    form: Form = "both",
    tolerance: float | None = None,
) -> ServerVerification:
    """
    Asks a server for the vectors of golden inputs, and compares them.

    Args:
        settings ([`~trainers.data.qa.server.ServerSettings`]): which server, and the name that it has for the model.
        golden (`dict`): `names`, `inputs` and, where there are any, `embeddings` with their `dtype`.
        load (`Callable`): gives the model and its processor; called where vectors are missing, or differ.
        form (`str`, *optional*, defaults to `"both"`): see [`~hub_scripts.serving.requests.make_requests`].
        tolerance (`float`, *optional*): largest difference; by default that of the precision of the golden vectors.

    Returns:
        [`ServerVerification`]
    """
    load = functools.cache(load)
    inputs = decode_inputs(golden)

    @functools.cache
    def known_mistakes(row: int) -> list[Variant]:
        return list(variants(*load(), inputs[row]))

    requests = make_requests(golden, form)
    answers = ask_for_embeddings(settings, [request.body for request in requests])
    if "embeddings" not in golden:
        vectors = golden_embeddings(*load())
        dtype = str(vectors.dtype).removeprefix("torch.")
        golden = {**golden, "embeddings": vectors.float().tolist(), "dtype": dtype}
    limit = TOLERANCES[golden["dtype"]] if tolerance is None else tolerance
    found: dict[str, Answer] = {}
    right: set[int] = set()  # golden inputs that the server embedded rightly, when they were alone
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(answer, Refused):
            found[request.name] = Answer(None, str(answer))
            continue
        (difference,) = distances(answer[0], golden["embeddings"][request.row])
        if difference <= limit:
            right |= {request.row}
            found[request.name] = Answer(difference, "")
        elif request.is_batch and request.row in right:
            found[request.name] = Answer(difference, BY_PADDING)
        else:
            mistakes = functools.partial(known_mistakes, request.row)
            cause = explain(answer[0], golden["embeddings"][request.row], mistakes, "image" in request.kinds)
            found[request.name] = Answer(difference, cause)
    return ServerVerification(found, limit)
