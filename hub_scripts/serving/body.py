"""What a request to /v1/embeddings asks for: its body is read, and what is wrong with it is named by its place in it.

Texts are `input`, as OpenAI has it, one or a list. Images and both are `messages`, as vLLM has them: a chat, or a list
of chats with a vector each. Items of `input` may also be `{"text": …, "image": "data:…"}`. Images are data URLs:
nothing is fetched.
"""

import base64
import binascii
import reprlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from modeling_coma.templates_coma import ROLES
from trainers.data.json_rows import parse_json


__all__ = ["Asked", "Item", "Refused", "parse_body"]

MAX_ITEMS = 2048  # of a request, as OpenAI has it
KEYS = {"model", "input", "messages", "dimensions", "encoding_format", "user"}  # `user` changes no vector
FORMATS = ("float", "base64")


class Refused(ValueError):
    """
    A request that gets no vectors.

    Args:
        message (`str`): why, for whoever sent it.
        param (`str`, *optional*): which part of it, as in `input[3]`.
        status (`int`, *optional*, defaults to 400): of the answer.
        code (`str`, *optional*): what programs tell it by.
    """

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


class Item(NamedTuple):
    """
    What gets a vector.

    Args:
        name (`str`): its place in the body, as in `input[3]`.
        content (`str`, `dict` or `list[dict]`): as [`~trainers.embed_items`] takes it, images as the bytes of files.
        images (`list[tuple[str, bytes]]`): its images and their places in the body.
    """

    name: str
    content: Any
    images: list[tuple[str, bytes]]


class Asked(NamedTuple):
    """
    What a request asks for.

    Args:
        items (`list[Item]`): what is to be embedded.
        dims (`int`, *optional*): numbers of a vector.
        is_base64 (`bool`): whether vectors are sent as base64 of their fp32 numbers.
    """

    items: list[Item]
    dims: int | None
    is_base64: bool


def parse_body(content: bytes, model: str) -> Asked:
    """
    Reads the body of a request.

    Args:
        content (`bytes`): the body.
        model (`str`): the name by which the model is served.

    Returns:
        [`Asked`]

    Raises:
        Refused: for whatever is not understood, with its place.
    """
    body = _object(content)
    if unknown := sorted(body.keys() - KEYS):
        raise Refused(f"There is no parameter {unknown[0]!r}; there are {', '.join(sorted(KEYS))}.", unknown[0])
    if body.get("model") != model:
        given = f"the model {reprlib.repr(body['model'])}" if "model" in body else "no model"
        message = f"The request names {given}; this server has {model!r} and no other."
        raise Refused(message, "model", status=404, code="model_not_found")
    form, dims = body.get("encoding_format", "float"), body.get("dimensions")
    if form not in FORMATS:
        raise Refused(f"encoding_format is float or base64, not {reprlib.repr(form)}.", "encoding_format")
    if dims is not None and type(dims) is not int:
        raise Refused(f"dimensions is a whole number, not {reprlib.repr(dims)}.", "dimensions")
    if ("input" in body) == ("messages" in body):
        raise Refused("Give either `input`, texts, or `messages`, a chat with texts and images.", "input")
    items = list(_of_input(body["input"]) if "input" in body else _of_messages(body["messages"]))
    return Asked(items, dims, form == "base64")


def _object(content: bytes) -> dict[str, Any]:
    try:
        body = parse_json(content.decode())
    except ValueError as error:  # of the encoding, too
        raise Refused(f"The body is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise Refused("The body is not a JSON object.")
    return {key: value for key, value in body.items() if value is not None}


def _named(value: list[Any], name: str) -> list[tuple[str, Any]]:
    """The elements of a list with their places."""
    if not value:
        raise Refused(f"{name} is empty.", name)
    if len(value) > MAX_ITEMS:
        raise Refused(f"{name} has {len(value)} items, and a request has at most {MAX_ITEMS}: send several.", name)
    return [(f"{name}[{place}]", one) for place, one in enumerate(value)]


def _of_input(value: Any) -> Iterator[Item]:
    for name, item in _named(value, "input") if isinstance(value, list) else [("input", value)]:
        if isinstance(item, str):
            yield Item(name, item, [])
        elif isinstance(item, dict) and item and item.keys() <= {"text", "image"}:
            yield _pair(item, name)
        elif _is_tokens(item):
            raise Refused(f"{name} is token ids; send the text, which is tokenized here as the model knows it.", name)
        else:
            what = 'a text or {"text": …, "image": "data:…"}'
            raise Refused(f"{name} is {reprlib.repr(item)}, and an item is {what}.", name)


def _is_tokens(item: Any) -> bool:
    return type(item) is int or (isinstance(item, list) and all(type(number) is int for number in item))


def _pair(item: dict[str, Any], name: str) -> Item:
    content, images = {}, []
    for kind, value in item.items():
        place = f"{name}.{kind}"
        if not isinstance(value, str):
            raise Refused(f"{place} is {reprlib.repr(value)}, and no text.", place)
        content[kind] = value
        if kind == "image":
            content[kind] = _image(value, place)
            images.append((place, content[kind]))
    return Item(name, content, images)


def _of_messages(value: Any) -> Iterator[Item]:
    if not isinstance(value, list):
        raise Refused(f"messages is a chat, a list of messages, not {reprlib.repr(value)}.", "messages")
    chats = [("messages", value)] if not all(isinstance(one, list) for one in value) else _named(value, "messages")
    for name, chat in chats:
        images: list[tuple[str, bytes]] = []
        content = [_message(message, place, images) for place, message in _named(chat, name)]
        yield Item(name, content, images)


def _message(message: Any, name: str, images: list[tuple[str, bytes]]) -> dict[str, Any]:
    """A message as the processor takes it; its images are added to the list."""
    match message:
        case {"role": role, "content": str() as text} if role in ROLES and len(message) == 2:
            return {"role": role, "content": text}
        case {"role": role, "content": list() as parts} if role in ROLES and len(message) == 2:
            blocks = [_part(part, place, images) for place, part in _named(parts, f"{name}.content")]
            return {"role": role, "content": blocks}
    what = f"a role ({', '.join(ROLES)}) and content, a text or a list of parts, and nothing else"
    raise Refused(f"{name} is {reprlib.repr(message)}, and a message has {what}.", name)


def _part(part: Any, name: str, images: list[tuple[str, bytes]]) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str()} if len(part) == 2:
            return part
        case {"type": "image_url", "image_url": {"url": str() as url, **options}} if len(part) == 2:
            if options not in ({}, {"detail": "auto"}):
                raise Refused(f"{name} has {', '.join(options)}, and images are made as the model has learnt.", name)
            images.append((name, _image(url, name)))
            return {"type": "image", "image": images[-1][1]}
    what = '{"type": "text", "text": …} or {"type": "image_url", "image_url": {"url": "data:…"}}'
    raise Refused(f"{name} is {reprlib.repr(part)}, and a part is {what}.", name)


def _image(url: str, name: str) -> bytes:
    """The bytes in a data URL."""
    header, _, data = url.partition(",")
    if not header.lower().startswith("data:"):
        raise Refused(f"{name} is no data URL: nothing is fetched here; send data:image/…;base64,….", name)
    try:
        if not header.lower().endswith(";base64"):
            raise ValueError("no ;base64 stands before its comma")
        content = base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error) as error:
        raise Refused(f"{name} is no data URL in base64: {error}.", name) from error
    if not content:
        raise Refused(f"{name} is an image of no bytes.", name)
    return content
