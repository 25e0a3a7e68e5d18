"""What a request asks for, and that what is wrong with it is named by its place, with nothing fetched."""

import base64
import json
import socket
from typing import Any

import pytest

from hub_scripts.hub.golden import input_rows
from hub_scripts.serving.answers import error_reply
from hub_scripts.serving.body import MAX_ITEMS, Refused, parse_body
from hub_scripts.serving.requests import make_requests


URL = f"data:image/png;base64,{base64.b64encode(b'an image').decode()}"
PICTURE = {"type": "image_url", "image_url": {"url": URL}}


def parse(**body: Any):
    return parse_body(json.dumps({"model": "m", **body}).encode(), "m")


def chat(*parts: Any) -> list[dict]:
    return [{"role": "system", "content": "Find it."}, {"role": "user", "content": list(parts)}]


def test_every_form_becomes_what_the_model_takes() -> None:
    text = {"type": "text", "text": "what is this?"}
    image = {"type": "image", "image": b"an image"}
    assert [item.content for item in parse(input="one").items] == ["one"]
    mixed = parse(input=["one", {"image": URL, "text": "two"}], dimensions=8, encoding_format="base64", user="me")
    assert [item.content for item in mixed.items] == ["one", {"image": b"an image", "text": "two"}]
    assert list(mixed.items[1].content) == ["image", "text"]  # in the order of the prompt
    assert mixed.dims == 8 and mixed.is_base64 and mixed.items[1].images == [("input[1].image", b"an image")]
    (item,) = parse(messages=chat(PICTURE, text)).items
    assert item.content == [{"role": "system", "content": "Find it."}, {"role": "user", "content": [image, text]}]
    assert (item.name, item.images) == ("messages", [("messages[1].content[0]", b"an image")])
    both = parse(messages=[chat(text), chat(text, PICTURE)]).items
    assert [item.name for item in both] == ["messages[0]", "messages[1]"]
    assert both[1].images == [("messages[1][1].content[1]", b"an image")]


def test_what_verify_sends_is_understood() -> None:
    for request in make_requests(input_rows()):
        assert len(parse(**request.body, encoding_format="float").items) == 1 + request.is_batch


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": [1, 2]}, "input[0]", "is token ids; send the text"),
        ({"input": ["a", [1, 2]]}, "input[1]", "is token ids; send the text"),
        ({"input": ["a", True]}, "input[1]", "is True, and an item is"),
        ({"input": ["a", {"text": "b", "audio": "c"}]}, "input[1]", "and an item is"),
        ({"input": ["a", {"image": 3}]}, "input[1].image", "is 3, and no text"),
        ({"input": []}, "input", "is empty"),
        ({"input": ["a"] * (MAX_ITEMS + 1)}, "input", "at most 2048"),
        ({}, "input", "Give either"),
        ({"input": "a", "messages": chat("b")}, "input", "Give either"),
        ({"messages": "a"}, "messages", "a list of messages, not 'a'"),
        ({"messages": []}, "messages", "is empty"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0]", "a message has a role"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages[0]", "and nothing else"),
        ({"messages": chat({"type": "input_audio"})}, "messages[1].content[0]", "and a part is"),
        ({"messages": chat({"type": "image", "path": "/etc/x.png"})}, "messages[1].content[0]", "and a part is"),
        ({"messages": chat(PICTURE | {"uuid": "1"})}, "messages[1].content[0]", "and a part is"),
        ({"input": "a", "dimensions": 1.5}, "dimensions", "a whole number, not 1.5"),
        ({"input": "a", "dimensions": True}, "dimensions", "a whole number, not True"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "float or base64, not 'hex'"),
        ({"input": "a", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens", "There is no parameter"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(body: dict, param: str, message: str) -> None:
    with pytest.raises(Refused, match=message.replace("[", r"\[")) as refused:
        parse(**body)
    assert (refused.value.param, refused.value.status) == (param, 400)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:PORT/x.png", "nothing is fetched here"),
        ("file:///etc/hostname", "nothing is fetched here"),
        ("/etc/hostname", "nothing is fetched here"),
        ("data:image/png,abc", "no ;base64 stands"),
        ("data:image/png;base64,YW$Jj", "is no data URL in base64"),
        ("data:image/png;base64,", "an image of no bytes"),
    ],
)
def test_images_are_data_urls_and_no_other(url: str, message: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        nobody.listen()
        nobody.setblocking(False)
        url = url.replace("PORT", str(nobody.getsockname()[1]))
        with pytest.raises(Refused, match=message) as refused:
            parse(messages=chat({"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": url}}))
        with pytest.raises(BlockingIOError):
            nobody.accept()
    assert refused.value.param == "messages[1].content[1]"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"model": "m", "model": "n"}', b"[" * 100_000])
def test_what_is_no_object_is_refused(content: bytes) -> None:
    with pytest.raises(Refused, match="The body is not"):
        parse_body(content, "m")


def test_another_model_is_told_which_one_is_here() -> None:
    for body in ({"input": "a"}, {"model": "n", "input": "a"}, {"model": None, "input": "a"}):
        with pytest.raises(Refused, match="this server has 'm' and no other") as refused:
            parse_body(json.dumps(body).encode(), "m")
        reply = error_reply(refused.value)
        assert reply.status == 404 and json.loads(reply.body)["error"]["code"] == "model_not_found"
