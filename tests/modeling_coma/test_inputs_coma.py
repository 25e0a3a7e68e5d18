"""Every kind of input becomes messages, every kind of picture becomes RGB, and what cannot be names its row."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_coma.inputs_coma import to_messages, to_rgb


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
        {"type": "video", "video": "x.mp4"},
        {"text": "a"},
        "a",
        None,
    ],
)
def test_a_block_without_content_names_the_row(block):
    with pytest.raises(ValueError, match="Row 3: a content block is a text or an image that is there"):
        to_messages([{"role": "user", "content": [block]}], 3)


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
    [None, 3.5, "missing.png", Path("missing.png"), "a\0b.png", "/", b"", b"no picture", "https://a.b/c.png", 5],
    ids=repr,
)
def test_what_is_no_picture_names_the_row(image):
    with pytest.raises(ValueError, match="Row 2: cannot decode the image"):
        to_rgb(image, 2)


FORMATS = ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]


@pytest.mark.parametrize("file_format", FORMATS)
def test_truncated_files_name_the_row(picture, file_format):
    data = file_bytes(picture(40, 30), file_format)
    assert to_rgb(data).size == (40, 30)
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
                assert str(error).startswith("Row 2: ")
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
