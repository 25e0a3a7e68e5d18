"""Images made small beforehand are, number for number, what the image processor makes; of reduced JPEG nearly so."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from trainers.encoding import pictures
from trainers.encoding.encode import embed_items
from trainers.encoding.pictures import PictureReader


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth light, edges and grain."""
    random = np.random.default_rng(seed)
    parts = [Image.fromarray(random.integers(0, 256, (n, n, 3), dtype=np.uint8)) for n in (5, 17)]
    smooth, edges = parts[0].resize((width, height), 3), parts[1].resize((width, height), 0)
    grain = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return Image.blend(Image.blend(smooth, edges, 0.3), grain, 0.06)


def file_of(image: Image.Image, kind: str = "JPEG", orientation: int = 1) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    image.save(file, kind, quality=90, exif=exif)
    return file.getvalue()


def tensors(processor, image) -> tuple[np.ndarray, list]:
    made = processor.process([{"image": image}])
    return made["pixel_values"].numpy(), made["image_grid_thw"].tolist()


@pytest.mark.parametrize("size", [(320, 240), (151, 397), (30, 21), (4, 799), (300, 301)])
def test_bit_by_bit_the_same(make_coma: Callable, size: tuple[int, int]) -> None:
    processor = make_coma("qwen2_5_vl")[1]
    read, image = PictureReader(processor).read, photo(*size)
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(size))
    given = [image, np.asarray(image), file_of(image), file_of(image, orientation=6), file_of(image.convert("L"))]
    for one in (*given, file_of(alpha, "PNG"), file_of(image.quantize(), "PNG")):
        (expected, grid), (found, found_grid) = tensors(processor, one), tensors(processor, read(one))
        assert np.array_equal(found, expected) and found_grid == grid
    if size[0] == 320:
        assert max(read(image).size) < 200


def test_what_is_not_made_smaller_is_not_decoded(make_coma: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor does that, once."""
    read = PictureReader(make_coma("qwen2_5_vl")[1]).read
    monkeypatch.setattr(pictures, "to_rgb", None)
    for file in (file_of(photo(30, 21)), file_of(photo(4, 799))):
        assert read(file) is file


@pytest.mark.parametrize(("size", "orientation"), [((603, 451), 1), ((448, 600), 3), ((800, 600), 6), ((648, 640), 6)])
def test_reduced_jpeg_is_nearly_the_same(make_coma: Callable, size: tuple[int, int], orientation: int) -> None:
    model, processor = make_coma("qwen2_5_vl")
    file = file_of(photo(*size), orientation=orientation)
    read = PictureReader(processor, reduced_jpeg=True).read
    (expected, grid), (found, found_grid) = tensors(processor, file), tensors(processor, read(file))
    assert found_grid == grid
    levels = np.abs(found - expected) * 255 * max(processor.image_processor.image_std)
    assert 0 < levels.max() <= 4
    items = [{"image": file}]
    whole, reduced = (embed_items(model, processor, items, reduced_jpeg=option) for option in (False, True))
    assert torch.cosine_similarity(whole, reduced).min() > 0.999


def test_what_cannot_act_is_refused(make_coma: Callable) -> None:
    model, processor = make_coma("qwen2_5_vl")
    processor.image_processor.do_resize = False
    with pytest.raises(ValueError, match="reduced_jpeg cannot act: Qwen2VLImageProcessor"):
        embed_items(model, processor, ["a"], reduced_jpeg=True)
