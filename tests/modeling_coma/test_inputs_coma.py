"""Every kind of input becomes messages, every kind of image becomes RGB, and what cannot be names its row."""

import ctypes
import gc
import io
import os
import re
import socket
import struct
import sys
import warnings
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageFile

from modeling_coma.inputs_coma import MAX_IMAGE_PIXELS, open_image, to_messages, to_rgb


RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def file_bytes(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def text(value: str) -> dict:
    return {"type": "text", "text": value}


def test_the_four_kinds_of_input_become_messages(picture):
    image = picture()
    block = {"type": "image", "image": image}
    assert to_messages("a") == [{"role": "user", "content": [text("a")]}]
    assert to_messages(image) == [{"role": "user", "content": [block]}]
    assert to_messages({"image": image, "text": "a"}) == [{"role": "user", "content": [block, text("a")]}]
    assert to_messages({"text": "a", "image": image}) == [{"role": "user", "content": [text("a"), block]}]
    several = to_messages({"image": [image, image], "text": ["a", "b"]})
    assert several == [{"role": "user", "content": [block, block, text("a"), text("b")]}]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [text("a"), block, text("b")]}]
    assert to_messages(messages) == [{"role": "system", "content": [text("s")]}, messages[1]]


def test_an_absent_half_is_left_out_and_the_input_is_left_alone(picture):
    image = picture()
    item = {"text": None, "image": image}
    assert to_messages(item) == to_messages(image)
    assert item == {"text": None, "image": image}
    assert to_messages({"text": "a", "image": None}) == to_messages("a")
    messages = [{"role": "user", "content": [{"type": "image", "path": "x.png"}]}]
    assert to_messages(messages)[0]["content"] == [{"type": "image", "image": "x.png"}]
    assert messages == [{"role": "user", "content": [{"type": "image", "path": "x.png"}]}]


@pytest.mark.parametrize(
    "item",
    [
        "",
        " \n\t",
        {"text": None, "image": None},
        {"text": ""},
        {"text": []},
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": None}],
        [{"role": "system", "content": " "}, {"role": "user", "content": []}],
    ],
)
def test_nothing_to_embed_names_the_row(item):
    with pytest.raises(ValueError, match="Row 3 is empty: it has no image and no text other than blanks"):
        to_messages(item, 3)


@pytest.mark.parametrize(
    "item",
    [None, 5, b"bytes", [], {}, ["a"], {"txt": "a"}, {"text": "a", "label": 1}, [{"content": "a"}], ("a", "b")],
)
def test_a_type_that_means_nothing_names_the_row_and_the_way_out(item):
    with pytest.raises(ValueError, match="Row 3: cannot embed .*; give a text, a PIL image"):
        to_messages(item, 3)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": None},
        {"type": "text", "text": 5},
        {"type": "text"},
        {"type": "image"},
        {"type": "image", "image": None},
        {"type": "video"},
        {"type": "video", "image": "x.png"},
        {"type": "image", "image": "x.png", "text": "a"},
        {"type": "image", "image": "x.png", "path": "y.png"},
        {"type": "image", "image": "x.png", "min_pixels": 5},
        {"type": "text", "text": "a", "image": "x.png"},
        {"text": "a"},
        "a",
        None,
    ],
)
def test_a_block_without_content_names_the_row(block):
    with pytest.raises(ValueError, match="Row 3: a content block is a text, an image or a video that is there"):
        to_messages([{"role": "user", "content": [block]}], 3)


@pytest.mark.parametrize("message", [{"role": "tool"}, {"role": None}, {"role": ["user"]}, {"role": "user\n"}])
def test_another_role_names_the_row(message):
    with pytest.raises(ValueError, match="Row 3: a message has the role .*; roles are system, user, assistant"):
        to_messages([{"role": "user", "content": "a"}, {"content": "a", **message}], 3)


@pytest.mark.parametrize("content", [5, {"type": "text", "text": "a"}, b"a"])
def test_content_of_another_type_names_the_row(content):
    with pytest.raises(ValueError, match="Row 3: the content of a message is a text or a list of blocks, not"):
        to_messages([{"role": "user", "content": content}], 3)


def test_what_nothing_reads_is_refused_and_what_is_none_is_not_there():
    message = {"role": "user", "content": [{"type": "text", "text": "a", "image": None}], "name": None}
    assert to_messages([message])[0]["role"] == "user" and to_messages(message) == to_messages([message])
    with pytest.raises(ValueError, match=r"Row 3: a message has a role and content, and no \['tool_calls'\]"):
        to_messages([{**message, "tool_calls": []}], 3)


def test_an_instruction_alone_is_nothing_to_embed():
    with pytest.raises(ValueError, match="Row 3 is empty: .*instructions"):
        to_messages([{"role": "system", "content": "Find it."}, {"role": "user", "content": " "}], 3)


def test_chat_messages_that_sentence_transformers_wrapped():
    """In a batch with other inputs they come as a block of a message, behind the prompt."""
    inner = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    wrapped = [{"role": "user", "content": [{"type": "message", "message": inner}]}]
    prompt = {"role": "system", "content": "p"}
    assert to_messages(wrapped) == to_messages(inner)
    assert to_messages([prompt, *wrapped]) == to_messages([prompt, *inner])
    for bad in ([*wrapped[0]["content"], text("b")], [{"type": "message", "message": "a"}]):
        with pytest.raises(ValueError, match="Row 0: a content block"):
            to_messages([{"role": "user", "content": bad}])


def test_none_inside_lists_is_not_the_word_none():
    assert to_messages({"text": ["a", None]}) == to_messages("a")
    with pytest.raises(ValueError, match="Row 0: a content block"):
        to_messages({"text": 5})


def half_red(mode: str) -> Image.Image:
    """Red on the left; on the right red too, but transparent."""
    image = Image.new("RGBA", (4, 2), (*RED, 255))
    image.paste((*RED, 0), (2, 0, 4, 2))
    return image if mode == "RGBA" else image.convert(mode)


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([*RED, *BLACK])
    image.paste(1, (2, 0, 4, 2))
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("image", "left"),
    [
        (half_red("RGBA"), RED),
        (half_red("LA"), (76, 76, 76)),  # the grey of red
        (half_red("RGBa"), RED),
        (half_red("PA"), RED),
        (palette_with_transparency(), RED),
        (Image.open(io.BytesIO(file_bytes(palette_with_transparency(), "PNG"))), RED),
        (Image.open(io.BytesIO(file_bytes(half_red("RGBA"), "WEBP", lossless=True))), RED),
        (Image.open(io.BytesIO(file_bytes(half_red("RGBA").convert("P"), "GIF"))), RED),
    ],
    ids=["RGBA", "LA", "RGBa", "PA", "P", "P from PNG", "RGBA from WEBP", "P from GIF"],
)
def test_transparency_is_laid_on_white(image, left):
    converted = to_rgb(image)
    assert (converted.mode, converted.size) == ("RGB", (4, 2))
    if image.format != "GIF":  # whose palette may round, and which may write no transparency
        assert (converted.getpixel((0, 0)), converted.getpixel((3, 1))) == (left, WHITE)


def test_half_transparent_is_half_white():
    assert to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 128))).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("colour", [WHITE, BLACK])
def test_opaque_modes_keep_white_and_black(mode, colour):
    converted = to_rgb(Image.new("RGB", (3, 2), colour).convert(mode))
    assert (converted.mode, converted.size, converted.getpixel((1, 1))) == ("RGB", (3, 2), colour)


def test_cmyk_files_keep_their_colour():
    converted = to_rgb(file_bytes(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.array(converted.getpixel((8, 8))) - RED).max() < 12


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_16_bit_greys_are_scaled_not_clipped(mode):
    greys = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    kinds = {"I;16B": ">u2", "I": "<i4"}
    image = Image.frombytes(mode, (3, 1), greys.astype(kinds.get(mode, "<u2")).tobytes())
    assert [to_rgb(image).getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (100,) * 3, (255,) * 3]


def test_16_bit_files_and_arrays_are_scaled_too():
    greys = np.full((4, 4), 257 * 100, dtype=np.uint16)
    for image in (greys, file_bytes(Image.fromarray(greys), "PNG"), file_bytes(Image.fromarray(greys), "TIFF")):
        assert to_rgb(image).getpixel((2, 2)) == (100, 100, 100)


def test_arrays_paths_and_bytes_are_the_picture(picture, tmp_path):
    image = picture(12, 8)
    path = tmp_path / "a.png"
    image.save(path)
    for given in (np.asarray(image), path, str(path), path.read_bytes(), image):
        assert np.array_equal(np.asarray(to_rgb(given)), np.asarray(image))
    assert to_rgb(np.asarray(image.convert("L"))).tobytes() == image.convert("L").convert("RGB").tobytes()


def test_exif_rotation_is_applied(picture):
    image, exif = picture(12, 8), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    turned = to_rgb(file_bytes(image, "PNG", exif=exif))
    assert turned.size == (8, 12)
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(image), -1))


def test_the_given_picture_is_left_alone():
    image = half_red("RGBA")
    before = image.tobytes()
    to_rgb(image)
    assert (image.mode, image.tobytes()) == ("RGBA", before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.int16])
@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
def test_arrays_of_other_numbers_are_refused_not_guessed(dtype, shape):
    """Does 0.5 or 200 mean grey? PIL would turn most of these to black."""
    with pytest.raises(ValueError, match=r"Row 2: .*"):
        to_rgb((np.ones(shape) * 200).astype(dtype), 2)


@pytest.mark.parametrize("image", [Image.new("F", (4, 4), 0.5), Image.fromarray(np.ones((4, 4), np.float32))])
def test_floating_point_pictures_are_refused(image):
    with pytest.raises(ValueError, match=r"Row 2: .*"):
        to_rgb(image, 2)


@pytest.mark.parametrize(
    "image",
    [None, 3.5, "missing.png", Path("missing.png"), "a\0b.png", "/", b"", b"no image", "https://a.b/c.png", 5],
    ids=repr,
)
def test_what_is_no_picture_names_the_row(image):
    with pytest.raises(ValueError, match="Row 2: cannot decode the image"):
        to_rgb(image, 2)


def noise() -> Image.Image:
    """Whose file is longer than its header by far."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))


def one_line(message: str) -> bool:
    """Short, of one line, and without the address of an object."""
    return "\n" not in message and len(message) < 800 and not re.search("at 0x", message)


@pytest.mark.parametrize(
    "image",
    [
        "x" * 5000,
        b"x" * 5000,
        "data:image/png;base64," + "A" * 5000,
        "a\ud800.png",
        "a\nb\0.png",
        Path("y" * 300),
        {"bytes": b"x" * 5000, "path": None},
        ["a.png"],
        object(),
        io.BytesIO(b"x"),
        True,
        np.zeros((2, 2, 2, 2, 2), np.uint8),
        np.zeros(5, np.uint8),
        np.full((3, 3), "a"),
    ],
    ids=lambda image: type(image).__name__,
)
def test_a_value_that_is_no_picture_is_named_in_a_line(image):
    with pytest.raises(ValueError, match="^Row 2: cannot decode the image") as caught:
        to_rgb(image, 2)
    assert one_line(str(caught.value)), caught.value
    str(caught.value).encode()  # and can be written to a log


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_broken_file_is_named_by_its_path(picture, tmp_path, file_format):
    """However it was opened, and to the end of its name."""
    path = tmp_path / f"{'long' * 30} photo.{file_format.lower()}"
    data = file_bytes(noise(), file_format)
    path.write_bytes(data[: len(data) * 2 // 3])
    given = [path, str(path)]
    if file_format != "WEBP":  # whose decoder takes all of it when it is opened
        given.append(Image.open(path))
    for image in given:
        with pytest.raises(ValueError, match=f"^Row 2: cannot decode the image {re.escape(repr(str(path)))}: ") as e:
            to_rgb(image, 2)
        assert one_line(str(e.value)), e.value
    with pytest.raises(ValueError, match=f"^Row 2: cannot decode the image of {len(data) // 2} bytes: ") as e:
        to_rgb(data[: len(data) // 2], 2)
    assert one_line(str(e.value)), e.value


def test_a_broken_picture_without_a_path_is_named_by_its_size():
    data = file_bytes(noise(), "JPEG")
    with pytest.raises(ValueError, match="^Row 2: cannot decode the image of 40x30 pixels: image file is truncated"):
        to_rgb(Image.open(io.BytesIO(data[: len(data) // 2])), 2)


def test_only_regular_files_are_opened(picture, tmp_path, monkeypatch):
    """A pipe waits for a writer that never comes, a device never ends; a link to an image is one."""
    picture(12, 8).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
        for path in ("pipe.png", "/dev/zero", "/dev/null", "socket.png", str(tmp_path), "link to pipe.png"):
            if path.startswith("link"):
                os.symlink("pipe.png", path)
            with pytest.raises(ValueError, match=f"Row 2: cannot decode the image '{path}': it is a folder, a pipe"):
                to_rgb(path, 2)
    os.symlink("a.png", "link.png")
    assert to_rgb("link.png").size == (12, 8)


def png_of(width: int, height: int, colours: int = 2) -> bytes:
    """A small file with many pixels: it says how many, and its rows compress to nothing."""
    row = b"\0" * (1 + width * (1 if colours == 0 else 3))
    packer, body = zlib.compressobj(9), []
    for _ in range(height):
        body.append(packer.compress(row))
    body.append(packer.flush())
    header = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", b"".join(body)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_a_bomb_is_refused_by_its_header(tmp_path):
    """Without a warning, without the limit of Pillow, which belongs to the whole process."""
    assert MAX_IMAGE_PIXELS == Image.MAX_IMAGE_PIXELS == 89_478_485
    path, bomb = tmp_path / "bomb.png", bytearray(png_of(4, 4))
    for width, height in ((13_300, 13_300), (9_460, 9_460), (2**31 - 1, 2**31 - 1)):
        bomb[16:33] = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0) + b"    "
        bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
        path.write_bytes(bomb)
        for image in (path, bytes(bomb)):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with pytest.raises(ValueError, match=f"Row 2: .*{width}x{height} pixels are over the limit of 8947"):
                    to_rgb(image, 2)
    with pytest.raises(ValueError, match=r"bomb\.png.*shrink it, or raise `max_image_pixels` of the processor"):
        to_rgb(path)
    assert Image.MAX_IMAGE_PIXELS == 89_478_485


def test_the_limit_of_pixels_holds_for_pictures_in_every_form(picture):
    image = picture(20, 10)
    for given in (image, np.asarray(image), file_bytes(image, "PNG"), file_bytes(image, "TIFF")):
        assert to_rgb(given, max_pixels=200).size == (20, 10)
        with pytest.raises(ValueError, match="Row 2: .*20x10 pixels are over the limit of 199"):
            to_rgb(given, 2, max_pixels=199)


def test_the_limit_acts_beyond_that_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # as if the image were nine times what it warns at
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_rgb(png_of(10, 9)).size == (10, 9)


def peak_memory(function) -> float:
    """What a call takes at most beyond what was taken before, in MB, as Linux counts it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept would be taken again, and seem to cost nothing
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    function()
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return (int(peak[1]) - int(before[1])) / 1024


def test_a_transparent_picture_takes_three_times_its_memory():
    """The image, white, and the one upon the other; it once were four."""
    data, own = file_bytes(Image.new("RGBA", (4000, 4000)), "PNG"), 4000 * 4000 * 4 / 2**20
    assert 2 * own < peak_memory(lambda: to_rgb(data)) < 3.5 * own


def test_an_opened_picture_is_the_header_and_no_more(tmp_path):
    data = file_bytes(noise(), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    for image in (tmp_path / "cut.jpg", data[: len(data) // 2]):
        with open_image(image) as opened:
            assert opened.size == (40, 30)


def test_a_format_that_is_none():
    with pytest.raises(ValueError, match="of 19 bytes: it is in no format that Pillow can read"):
        to_rgb(b"GIF8, or so it says", 0)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "ICO", "PPM", "TGA", "JPEG2000"])
def test_every_format_is_recognised_as_pillow_does(picture, file_format):
    """A file is opened by the same plugins in the same order, and only by its content."""
    data = file_bytes(picture(32, 32), file_format)
    with open_image(data) as ours:
        theirs = Image.open(io.BytesIO(data))
        assert (ours.format, ours.mode, ours.size) == (theirs.format, theirs.mode, theirs.size)
        assert np.array_equal(np.asarray(ours.convert("RGB")), np.asarray(theirs.convert("RGB")))


FORMATS = ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "ICO"]


@pytest.mark.parametrize("file_format", FORMATS)
def test_truncated_files_name_the_row(picture, file_format):
    data = file_bytes(picture(48, 48), file_format)  # a square: ICO has no others
    assert to_rgb(data).size == (48, 48)
    for length in (1, 8, 20, len(data) // 3, len(data) // 2):
        with pytest.raises(ValueError, match="Row 2: cannot decode the image"):
            to_rgb(data[:length], 2)


@pytest.mark.parametrize("file_format", FORMATS)
def test_damaged_files_decode_or_name_the_row(picture, file_format):
    """Whatever a decoder throws at a damaged file, a bomb warning included, becomes one kind of error."""
    data, rng = np.frombuffer(file_bytes(picture(40, 30), file_format), np.uint8), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = data.copy()
        damaged[rng.integers(0, min(len(data), 60), rng.choice([1, 3, 10]))] = rng.integers(0, 256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns about the metadata of some of them
            try:
                assert to_rgb(damaged.tobytes(), 2).mode == "RGB"
            except ValueError as error:
                assert str(error).startswith("Row 2: ") and one_line(str(error)), error
                refused += 1
    assert refused > 10


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_zero_size_names_the_row_and_the_size(size, mode):
    with pytest.raises(ValueError, match=f"Row 2: .*{size[0]}x{size[1]} pixels"):
        to_rgb(Image.new(mode, size), 2)


def test_zero_size_arrays_are_refused():
    with pytest.raises(ValueError, match="Row 2: "):
        to_rgb(np.zeros((0, 5, 3), np.uint8), 2)


def test_the_aspect_limit():
    for size in ((200, 1), (1, 200), (400, 2), (1, 1)):
        assert to_rgb(Image.new("RGB", size)).size == size
    for size in ((201, 1), (1, 201), (403, 2)):
        with pytest.raises(ValueError, match=f"Row 2: .*{size[0]}x{size[1]} pixels"):
            to_rgb(Image.new("RGB", size), 2)


HEIC = (24).to_bytes(4) + b"ftypheic" + bytes(4) + b"mif1heic"


def test_heic_names_the_library_that_reads_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    with pytest.raises(ValueError, match="Row 1: cannot decode .*: it is HEIC: `pip install pillow-heif` to read it$"):
        to_rgb(HEIC, 1)


def test_heic_is_read_where_the_library_is(monkeypatch, picture):
    """A stand-in for it, which registers itself with Pillow as it does."""

    class HeicFile(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            self._mode, self._size = "RGB", (3, 2)

        def load(self):
            self.im = picture(3, 2).im
            return self.im.pixel_access(False)

    library = ModuleType("pillow_heif")
    library.register_heif_opener = lambda: Image.register_open("HEIF", HeicFile, lambda prefix: b"heic" in prefix)
    monkeypatch.setitem(sys.modules, "pillow_heif", library)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    assert np.array_equal(np.asarray(to_rgb(HEIC)), np.asarray(picture(3, 2)))


def test_a_decoder_that_pillow_lacks_is_named(monkeypatch, picture):
    content = file_bytes(picture(8, 8), "AVIF")
    factory, _ = Image.OPEN["AVIF"]
    missing = (factory, lambda prefix: "AVIF support not installed" if b"avif" in prefix else False)
    monkeypatch.setitem(Image.OPEN, "AVIF", missing)
    with pytest.raises(ValueError, match="AVIF support not installed$"):
        to_rgb(content)
