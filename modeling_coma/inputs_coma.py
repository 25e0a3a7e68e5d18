"""Anything that can be embedded, as chat messages with texts, images and videos; images as checked RGB."""

import importlib
import os
import reprlib
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from .pages_coma import PAGE_PIXELS, PageImage, page_of
from .templates_coma import ROLES, check_text


MAX_IMAGE_PIXELS = 2**30 // 12  # that of Pillow: 256 MB of RGB
# What Pillow raises for files that are cut off or damaged, and warnings where these are made errors.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, AttributeError, RuntimeError, LookupError)
DECODE_ERRORS += (ArithmeticError, EOFError, MemoryError, AssertionError, BufferError, struct.error, zlib.error)
DECODE_ERRORS += (Image.DecompressionBombError, Warning)
# What a file begins with, after the length of its first part.
HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftyphevx", b"ftypheim", b"ftypheis", b"ftypmif1", b"ftypmsf1")
UNREADABLE = "it is in no format that Pillow can read"
UNKNOWN_WHITE = "no telling which number is white; scale the pixels to np.uint8"


def to_messages(item: Any, row: int = 0, tokens: tuple[str, ...] = ()) -> list[dict]:
    r"""
    Converts one input to chat messages.

    Args:
        item: a text; an image (PIL image or `np.ndarray`); `{"text": …, "image": …, "video": …}`, whose keys are in
            the order of the prompt, with texts and images or lists of them, and a video, a list being its frames; or
            chat messages, which interleave texts, images and videos at will.
        row (`int`): place in the batch, for error messages.
        tokens (`tuple[str, ...]`): what texts must not type, the `control_tokens` of a processor.
    Raises `ValueError` for an input without content, for a type that means nothing here, and for such texts.
    """
    if isinstance(item, str | Image.Image | np.ndarray):
        item = {"text" if isinstance(item, str) else "image": item}
    if isinstance(item, dict) and "role" in item:
        item = [item]
    if isinstance(item, list) and item and all(isinstance(message, dict) and "role" in message for message in item):
        messages = [_message(message, row) for message in _unwrapped(item)]
    elif isinstance(item, dict) and item and item.keys() <= {"text", "image", "video"}:
        values = {
            kind: value if isinstance(value, list | tuple) and kind != "video" else [value]
            for kind, value in item.items()
        }
        blocks = [{"type": kind, kind: value} for kind in values for value in values[kind] if value is not None]
        messages = [_message({"role": "user", "content": blocks}, row)]
    else:
        what = 'a text, a PIL image, {"text": …, "image": …, "video": …} or a list of chat messages with roles'
        raise ValueError(f"Row {row}: cannot embed {type(item).__name__} {reprlib.repr(item)}; give {what}.")
    blocks = [block for message in messages for block in message["content"] if message["role"] != "system"]
    if not any(block["type"] != "text" or block["text"].strip() for block in blocks):
        raise ValueError(f"Row {row} is empty: it has no image and no text other than blanks and instructions.")
    # As a template joins them: a token may be typed across two blocks.
    texts = ("".join(block.get("text", "\n") for block in message["content"]) for message in messages)
    check_text("\n".join(texts), row, tokens)
    return messages


def visuals_of(messages: list[dict], kind: str) -> list[Any]:
    """The images, or the videos, of checked messages, in their order."""
    return [block[kind] for message in messages for block in message["content"] if block["type"] == kind]


def _unwrapped(messages: list[dict]) -> Iterator[Any]:
    """In a batch with other inputs, sentence-transformers wraps chat messages in a block of a user's message."""
    for message in messages:
        match message:
            case {"content": [{"type": "message", "message": list() as inner}]}:
                yield from inner
            case _:
                yield message


def _message(message: Any, row: int) -> dict:
    given = _given(message)
    role = given.pop("role", None)
    content = given.pop("content", [])
    if role not in ROLES:
        role = reprlib.repr(role if isinstance(message, dict) else message)
        raise ValueError(f"Row {row}: a message has the role {role}; roles are {', '.join(ROLES)}.")
    if given:
        raise ValueError(f"Row {row}: a message has a role and content, and no {list(given)}, which nothing reads.")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple):
        what = f"a text or a list of blocks, not {type(content).__name__} {reprlib.repr(content)}"
        raise ValueError(f"Row {row}: the content of a message is {what}.")
    return {"role": role, "content": [_block(block, row) for block in content]}


def _block(block: Any, row: int) -> dict:
    given = _given(block)
    match given:
        case {"type": "text", "text": str()} if len(given) == 2:
            return given
        case {"type": "image" | "video" as kind, **rest} if len(rest) == 1 and rest.keys() <= {kind, "path", "url"}:
            return {"type": kind, kind: rest.popitem()[1]}
    if isinstance(block, dict):  # without the repr of an image
        block = {key: value if isinstance(value, str | None) else type(value).__name__ for key, value in block.items()}
    what = "a text, an image or a video that is there"
    raise ValueError(f"Row {row}: a content block is {what}, not {reprlib.repr(block)}.")


def _given(item: Any) -> dict:
    """What a message or a block says: a key whose value is `None` is not there."""
    return {key: value for key, value in item.items() if value is not None} if isinstance(item, dict) else {}


def check_dialogues(dialogues: Iterable[Any], tokens: tuple[str, ...]) -> None:
    """Raises `ValueError` for what is no list of messages, each a role and a text that types none of the tokens."""
    for row, messages in enumerate(dialogues):
        if not isinstance(messages, list | tuple) or not messages:
            raise ValueError(f"Row {row}: a dialogue is a list of messages, not {reprlib.repr(messages)}.")
        for number, message in enumerate(messages):
            match _given(message):
                case {"role": role, "content": str(text), **rest} if role in ROLES and not rest:
                    check_text(text, row, tokens, f"Dialogues are text: message {number}")
                case _:
                    what = f"a role ({', '.join(ROLES)}) and a text as content, not {reprlib.repr(message)}"
                    raise ValueError(f"Row {row}: message {number} of a dialogue has {what}.")


def to_rgb(
    image: Any, row: int = 0, max_pixels: int = MAX_IMAGE_PIXELS, page_pixels: int = PAGE_PIXELS
) -> Image.Image:
    r"""
    Decodes an image to 8-bit RGB: transparency is laid on white, 16-bit greys are scaled, EXIF rotation is applied.

    Args:
        image: a PIL image, a `np.ndarray` of shape `(height, width[, 3])` in uint8, a path or the bytes of a file. The
            path of a PDF with the number of a page, `report.pdf#3`, is an image of that.
        row (`int`): place in the batch, for error messages.
        max_pixels (`int`): what is larger is not decoded.
        page_pixels (`int`): with how many a page is drawn, at 300 dots per inch at most.
    Raises `ValueError` for an image that cannot be decoded, or whose longer side is over 200 times the shorter one.
    """
    with open_image(image, row, max_pixels, page_pixels) as rgb:
        rgb.load()
        if rgb.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            rgb = ImageOps.exif_transpose(rgb)
        if rgb.mode == "F":
            raise TypeError(UNKNOWN_WHITE)
        if rgb.mode.startswith("I"):  # 16-bit greys, which PIL would clip to white
            rgb = Image.fromarray((np.asarray(rgb).clip(0, 65535) // 257).astype(np.uint8))
        if rgb.has_transparency_data:
            rgba = rgb if rgb.mode == "RGBA" else rgb.convert("RGBA")
            rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), rgba)
        rgb = rgb if rgb.mode == "RGB" else rgb.convert("RGB")  # which would copy it
    if min(rgb.size) == 0 or max(rgb.size) > 200 * min(rgb.size):  # the limit of the Qwen image processors
        raise ValueError(f"Row {row}: {rgb.width}x{rgb.height} pixels; an image has at least 1x1, at most 1:200.")
    return rgb


@contextmanager
def open_image(
    image: Any, row: int = 0, max_pixels: int = MAX_IMAGE_PIXELS, page_pixels: int = PAGE_PIXELS
) -> Iterator[Image.Image]:
    """
    Gives the PIL image of whatever [`to_rgb`] takes, with nothing decoded: of a file the header is read. Whatever is
    wrong with it, there or in the block, is one `ValueError` that names the row and the file.
    """
    try:
        with ExitStack() as files:
            if page := page_of(image):
                opened = PageImage(
                    files.enter_context(open_regular_file(page[0])), page[1], min(page_pixels, max_pixels)
                )
            elif isinstance(image, str | os.PathLike):
                opened = _identify(files.enter_context(open_regular_file(image)))
            elif isinstance(image, bytes):
                opened = _identify(BytesIO(image))
            elif isinstance(image, np.ndarray):
                opened = _from_array(image)
            elif isinstance(image, Image.Image):
                opened = image
            else:
                raise TypeError("an image is a PIL image, a np.ndarray, the path or the bytes of a file")
            if opened.width * opened.height > max_pixels and not isinstance(opened, PageImage):
                size = f"{opened.width}x{opened.height} pixels are over the limit of {max_pixels}"
                raise ValueError(
                    f"{size}; shrink it, or raise `max_image_pixels` of the processor (--max-image-pixels)"
                )
            yield opened
    except DECODE_ERRORS as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        why = " ".join(why.split())[:200]
        raise ValueError(f"Row {row}: cannot decode the image {describe_input(image)}: {why}") from error


def open_regular_file(path: str | os.PathLike, what: str = "it is a folder, a pipe, a device or a socket") -> BinaryIO:
    """Opens a file to be read; a pipe, a device or a socket, which may have no end, is not opened: `ValueError`."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{what}, and no regular file")
    return open(path, "rb")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3):
        raise ValueError("the shape of an image is (height, width) or (height, width, 3)")
    if array.dtype not in (np.uint8, np.uint16):
        raise TypeError(UNKNOWN_WHITE)
    return Image.fromarray(array)


def _identify(file: BinaryIO) -> Image.Image:
    """`Image.open` without its limit of pixels, which belongs to the whole process and warns before it raises."""
    prefix = file.read(16)
    Image.preinit()  # the common formats come first
    Image.init()
    if prefix[4:12] in HEIC and "HEIF" not in Image.OPEN:
        with suppress(ImportError):
            importlib.import_module("pillow_heif").register_heif_opener()
    why = "it is a PDF: name one of its pages, as in report.pdf#1" if prefix.startswith(b"%PDF") else UNREADABLE
    for factory, accept in (Image.OPEN[name] for name in Image.ID):
        try:
            accepted = accept is None or accept(prefix)
            if isinstance(accepted, str):  # which library is not there
                why = accepted
            elif accepted:
                file.seek(0)
                return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # it is of another format
            continue
    raise UnidentifiedImageError("it is HEIC: `pip install pillow-heif` to read it" if prefix[4:12] in HEIC else why)


def describe_input(image: Any) -> str:
    """An image or a video in an error message: its path, if it has one."""
    path = getattr(image, "filename", "") if isinstance(image, Image.Image) else image
    if isinstance(path, str | os.PathLike) and os.fspath(path):
        name = repr(os.fspath(path))
        return name if len(name) <= 400 else f"{name[:200]}…{name[-100:]}"
    if isinstance(image, bytes):
        return f"of {len(image)} bytes"
    if isinstance(image, np.ndarray):
        return f"of shape {image.shape} and dtype {image.dtype}"
    if isinstance(image, Image.Image):
        return f"of {image.width}x{image.height} pixels"
    if isinstance(image, dict) and "frames" in image:
        image = image["frames"]
    if isinstance(image, list | tuple):
        return f"of {len(image)} frames"
    return f"{type(image).__name__} {reprlib.repr(image)}"


__all__ = [
    "DECODE_ERRORS",
    "MAX_IMAGE_PIXELS",
    "check_dialogues",
    "describe_input",
    "open_image",
    "open_regular_file",
    "to_messages",
    "to_rgb",
    "visuals_of",
]
