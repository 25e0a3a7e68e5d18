"""What a server is asked, so that its vectors can be compared with golden ones: each input in every form."""

from typing import Any, Literal, NamedTuple


__all__ = ["Form", "Request", "make_requests"]

Form = Literal["both", "input", "messages"]
# Longer than any text of the golden inputs: beside it they are padded.
LONGER = "Two people wait for a bus in the rain, and a dog sleeps under the bench beside them. " * 4


class Request(NamedTuple):
    """
    A request, of whose answer the first vector is compared.

    Args:
        row (`int`): which golden input it is.
        name (`str`): that of the input, and its form.
        body (`dict`): what is sent, without the name of the model.
        kinds (`frozenset[str]`): what is in the input, `"text"` and `"image"`.
        is_batch (`bool`, *optional*, defaults to `False`): whether there is a longer text beside it.
    """

    row: int
    name: str
    body: dict[str, Any]
    kinds: frozenset[str]
    is_batch: bool = False


def make_requests(golden: dict[str, Any], form: Form = "both") -> list[Request]:
    """
    The requests for golden inputs.

    Args:
        golden (`dict`): with `names` and `inputs`, as of [`hub_scripts.hub.golden.read_golden`].
        form (`str`, *optional*, defaults to `"both"`): `"input"`, plain texts, which cannot have images and
            instructions; `"messages"`, of a chat, as vLLM takes them; or both, where there are both.

    Returns:
        `list[Request]`
    """
    requests = []
    for row, (name, messages) in enumerate(zip(golden["names"], golden["inputs"], strict=True)):
        text = _only_text(messages)
        kinds = frozenset(block["type"] for message in messages for block in message["content"])
        if text is not None and form != "messages":
            requests.append(Request(row, f"{name}, input", {"input": [text]}, kinds))
            requests.append(
                Request(row, f"{name}, input, in a batch", {"input": [text, LONGER]}, kinds, is_batch=True)
            )
        if form != "input":
            body = {"messages": [_of_a_chat(message) for message in messages]}
            requests.append(Request(row, f"{name}, messages", body, kinds))
    return requests


def _only_text(messages: list[dict[str, Any]]) -> str | None:
    """The text of a single message from a user that has nothing else."""
    match messages:
        case [{"role": "user", "content": [{"type": "text", "text": text}]}]:
            return text
    return None


def _of_a_chat(message: dict[str, Any]) -> dict[str, Any]:
    blocks = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{block['image']}"}}
        if block["type"] == "image"
        else {"type": "text", "text": block["text"]}
        for block in message["content"]
    ]
    return {"role": message["role"], "content": blocks}
