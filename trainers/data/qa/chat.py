"""What a dialogue is written with: an image, somebody who answers, and a reason when there is nothing to write."""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple, Protocol

from PIL import Image

from modeling_coma.inputs_coma import DECODE_ERRORS, MAX_IMAGE_PIXELS, open_image, open_regular_file, to_rgb
from modeling_coma.pages_coma import page_of


__all__ = ["Chat", "Fault", "ImageFile", "Message", "Rejected", "Reply", "read_image"]

AS_THEY_ARE = ("JPEG", "PNG", "WEBP")  # formats that every server reads
ORIENTATION = 0x0112  # the EXIF tag
MOST_BYTES = 256 * 2**20  # of a file; no server takes as much

# `{"role": "user" | "assistant", "content": str, "image": ImageFile (optional, shown before the text)}`
Message = dict[str, Any]


class _WithReason(ValueError):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Fault(_WithReason):
    """What is wrong with a reply: `reason` is one of few and is counted, `detail` is for a person. Another may do."""


class Rejected(_WithReason):
    """Why an image has no dialogue."""


class Reply(NamedTuple):
    """
    One answer of a model.

    Args:
        text (`str`): what it says.
        cut_off (`bool`): whether it reached the limit of tokens before its end.
        prompt_tokens, completion_tokens (`int`, *optional*): what was read and written, if the model says so.
        retries (`int`): how often the request was sent again.
    """

    text: str
    cut_off: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    retries: int = 0


class Chat(Protocol):
    """
    Somebody who answers. `concurrency` is how many conversations it can have at one time, `fingerprint` what must be
    the same for two runs to be one.
    """

    concurrency: int
    fingerprint: dict[str, Any]

    async def complete(self, messages: list[Message], seed: int) -> Reply:
        """Answers the last of the messages; raises [`Rejected`] if this one cannot be answered."""


@dataclass(frozen=True, eq=False)
class ImageFile:
    """
    The file of an image.

    Args:
        data (`bytes`): JPEG, PNG or WebP.
        mime (`str`): for instance `"image/png"`.
        original (`bytes`): the file that it was made of, often the same.
    """

    data: bytes
    mime: str
    original: bytes

    @functools.cached_property
    def uri(self) -> str:
        """The image as a `data:` URI."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"

    @property
    def digest(self) -> str:
        """By which equal files are known."""
        return hashlib.blake2b(self.original, digest_size=8).hexdigest()


def read_image(image: str | bytes | None, max_pixels: int | None = None) -> ImageFile:
    """
    Reads an image and decodes it, to know that others can. Files that programs show in different ways (transparent
    ones, rotated by EXIF, 16-bit, animated, rare formats, pages of a PDF) become the PNG of what CoMa is trained on;
    all others are left as they are.

    Args:
        image (`str` or `bytes`): path or content of the file.
        max_pixels (`int`, *optional*): what has more is not decoded; by default 89478485.

    Returns:
        `ImageFile`

    Raises:
        Rejected: if there is no image, or none that can be decoded.
    """
    if image is None:
        raise Rejected("no image", "the row has none")
    try:
        limit = max_pixels or MAX_IMAGE_PIXELS
        if page_of(image):
            rgb = to_rgb(image, max_pixels=limit)
            return ImageFile(_as_png(rgb), "image/png", rgb.tobytes())
        data = image if isinstance(image, bytes) else _read_file(image)
        rgb = to_rgb(data, max_pixels=limit)
        with open_image(data, max_pixels=limit) as file:
            if _is_plain(file):
                return ImageFile(data, Image.MIME[file.format], data)
    except DECODE_ERRORS as error:
        why = str(error).removeprefix("Row 0: ") or type(error).__name__
        where = "" if isinstance(image, bytes) or image in why else f"{image}: "
        raise Rejected("image cannot be read", f"{where}{why}") from error
    return ImageFile(_as_png(rgb), "image/png", data)


def _as_png(rgb: Image.Image) -> bytes:
    encoded = BytesIO()
    rgb.save(encoded, format="PNG")
    return encoded.getvalue()


def _is_plain(file: Image.Image) -> bool:
    """Whether all programs show a file in the same way."""
    if file.format not in AS_THEY_ARE or file.mode not in ("RGB", "L") or file.has_transparency_data:
        return False
    return file.getexif().get(ORIENTATION, 1) == 1 and getattr(file, "n_frames", 1) == 1


def _read_file(path: str) -> bytes:
    """The content of a regular file: a FIFO or a device would be read for ever."""
    with open_regular_file(path) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    return data
