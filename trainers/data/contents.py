"""Contents of messages as of OpenAI and TRL: texts or blocks, with images, videos and placeholders in them."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainers.data.faults import describe, fault
from trainers.data.images import ImageRoot, as_stored


__all__ = ["PLACEHOLDERS", "Content", "has_video_block", "read_content"]

# What stands in a text for the next image, or video, of the row.
PLACEHOLDERS = {"image": "<image>", "video": "<video>"}
TEXT_BLOCKS = ("text", "input_text", "output_text")
# What types of blocks have, and where in a block it may be.
FILE_BLOCKS = {"image": "image", "image_url": "image", "input_image": "image", "video": "video", "video_url": "video"}
FILE_KEYS = {kind: (kind, f"{kind}_url", "url", "path", "base64") for kind in PLACEHOLDERS}
FILES = tuple(dict.fromkeys(name for names in FILE_KEYS.values() for name in names))


class Content(NamedTuple):
    """
    The content of a message.

    Args:
        text (`str`): what it says, without placeholders.
        files (`list[tuple[str, dict | None]]`): kinds of its images and videos, and these as `datasets` stores them,
            or `None` for a placeholder.
    """

    text: str
    files: list[tuple[str, dict[str, Any] | None]]


def read_content(content: Any, column: str, root: ImageRoot, kinds: tuple[str, ...]) -> Content:
    """
    Reads the content of a message.

    Args:
        content: a text or a list of blocks.
        column (`str`): where it stands, for error messages.
        root ([`ImageRoot`]): folder at which relative paths begin.
        kinds (`tuple[str, ...]`): kinds of files whose placeholders are taken out of texts.

    Returns:
        [`Content`]

    Raises:
        ValueError: for anything else, and for a block with more in it than one thing.
    """
    if isinstance(content, str):
        return _of_text(content, kinds)
    if not isinstance(content, list):
        raise fault(column, describe(content), "a text, or a list of blocks")
    blocks = [_block(block, f"{column}[{number}]", root, kinds) for number, block in enumerate(content)]
    text = "\n".join(block.text for block in blocks if block.text)
    return Content(text, [file for block in blocks for file in block.files])


def has_video_block(messages: Any) -> bool:
    """Whether there is a block for a video in a dialogue, whatever else is wrong with it."""
    contents = [message.get("content") for message in _dicts_of(messages)]
    blocks = (block for content in contents for block in _dicts_of(content))
    return any(FILE_BLOCKS.get(str(block.get("type"))) == "video" for block in blocks)


def _dicts_of(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _of_text(text: str, kinds: tuple[str, ...]) -> Content:
    files: list[tuple[str, None]] = []
    for kind in kinds:
        files += [(kind, None)] * text.count(PLACEHOLDERS[kind])
        text = text.replace(PLACEHOLDERS[kind], "")
    return Content(text.strip() if files else text, files)


def _block(block: Any, column: str, root: ImageRoot, kinds: tuple[str, ...]) -> Content:
    """A block of a content: a text, an image or a video, or a placeholder for one of the row."""
    name = block.get("type") if isinstance(block, dict) else None
    if name not in (*TEXT_BLOCKS, *FILE_BLOCKS):
        raise fault(column, describe(block), "a block of type text, image, image_url, video or video_url")
    # `datasets` fills up with `None` what only other blocks have.
    given = [name for name in (*FILES, "text") if block.get(name) not in (None, "")]
    kind = FILE_BLOCKS.get(name, "text")
    if others := [other for other in given if other not in FILE_KEYS.get(kind, ("text",))]:
        raise fault(f"{column}.{others[0]}", describe(block[others[0]]), "it in a block of its own")
    if kind == "text":
        return read_content(block.get("text"), f"{column}.text", root, kinds)
    if len(given) > 1:
        raise fault(column, f"a block with {' and '.join(given)}", f"one {kind}")
    return Content("", [(kind, _file(block[given[0]], given[0], kind, column, root) if given else None)])


def _file(value: Any, name: str, kind: str, column: str, root: ImageRoot) -> dict[str, Any] | None:
    column = f"{column}.{name}"
    if name == "base64":
        value = f"data:{kind};base64,{value}"
    if isinstance(value, dict) and "url" in value:
        value, column = value["url"], f"{column}.url"
    return as_stored(value, column, root)
