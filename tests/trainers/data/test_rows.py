"""Rows that know their number, images that stay as they are stored, and errors that are no fault of a row."""

import io
import sys
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from modeling_coma.inputs_coma import to_rgb
from trainers.data.faults import describe
from trainers.data.images import as_image, without_decoding
from trainers.data.rows import BadRows, NumberedRows


@pytest.fixture
def dataset(picture):
    def stored(seed):
        file = io.BytesIO()
        picture(8, 8, seed).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    rows = {
        "images": [[stored(0)], [], [stored(1), stored(2)]],
        "query": [{"text": "a", "image": stored(3)}, {"text": None, "image": None}, {"text": "b", "image": stored(4)}],
        "negatives": [[{"image": stored(5)}], [], []],
        "text": ["x", None, "z"],
    }
    item = {"text": Value("string"), "image": Image()}
    features = {"images": List(Image()), "query": item, "negatives": [{"image": Image()}], "text": Value("string")}
    return Dataset.from_dict(rows, features=Features(features))


def test_images_stay_as_they_are_stored_however_nested(dataset):
    row = without_decoding(dataset)[0]
    for image in (row["images"][0], row["query"]["image"], row["negatives"][0]["image"]):
        assert as_image(image).startswith(b"\x89PNG")
    assert without_decoding(dataset)[1]["query"]["image"] is None
    texts = dataset.select_columns(["text"])
    assert without_decoding(texts) is texts


def test_nothing_is_read_or_written_to_leave_images_as_they_are(dataset, monkeypatch):
    monkeypatch.setattr(Dataset, "map", lambda *_, **__: pytest.fail("a pass over the rows"))
    twin = without_decoding(dataset)
    assert twin.features != dataset.features
    assert dataset[0]["images"][0].size == (8, 8)  # the other decodes as before
    stored = [part.column(0).chunk(0).buffers() for part in (twin.data, dataset.data)]
    assert [buffer and buffer.address for buffer in stored[0]] == [buffer and buffer.address for buffer in stored[1]]
    assert twin._fingerprint != dataset._fingerprint and twin._fingerprint == without_decoding(dataset)._fingerprint
    chosen = without_decoding(dataset.select([2, 0]))
    assert [row["text"] for row in chosen] == ["z", "x"] and as_image(chosen[0]["images"][0]).startswith(b"\x89PNG")


def test_the_picture_to_blame_is_named_by_its_column(picture):
    def collate(rows):
        raise ValueError("Row 1: cannot decode the image")

    item = {"text": "a", "image": picture(8, 8)}
    row = {
        "query": item,
        "positive": {"image": [picture(8, 8), b"no"]},
        "negatives": [item, {"image": "lost.png"}],
        "row": 7,
    }
    with pytest.raises(
        ValueError, match=r"^Row 7 of it is bad: column positive.image\[1\]: found 2 bytes, expected an imag"
    ):
        BadRows("raise", "it").apply(collate, [row])
    row["positive"] = item
    with pytest.raises(ValueError, match=r"column negatives\[1\].image: found 'lost.png', expected .* No such file"):
        BadRows("raise").apply(collate, [row])
    row["negatives"] = []
    with pytest.raises(ValueError, match="^Row 7 of the data set is bad: cannot decode the image$"):
        BadRows("raise").apply(collate, [row])


def test_an_image_over_a_limit_that_was_raised_is_not_to_blame(picture, monkeypatch):
    """Of the limit that is in force, the processor speaks."""
    monkeypatch.setattr(to_rgb, "__defaults__", (0, 10, 10))  # as if the image were larger than the default limit
    row = {"query": {"image": picture(8, 8)}, "row": 7}
    for said, told in (("Row 0: is too long", "is too long"), ("Row 0: … `max_image_pixels`", "column query.image: ")):

        def collate(rows, said=said):
            raise ValueError(said)

        with pytest.raises(ValueError, match=f"^Row 7 of the data set is bad: {told}"):
            BadRows("raise").apply(collate, [row])


def test_rows_know_their_number(dataset):
    for source in (dataset, dataset.to_list()):
        rows = NumberedRows(source)
        assert len(rows) == 3 and rows[2]["row"] == 2 and rows[2]["text"] == "z"
        assert [(row["row"], row["text"]) for row in rows.__getitems__([2, 0])] == [(2, "z"), (0, "x")]


def test_images_as_the_processor_takes_them(picture):
    assert as_image({"bytes": b"x", "path": "y"}) == b"x"
    assert as_image({"bytes": None, "path": "y"}) == "y"
    assert as_image({"bytes": None, "path": None}) is None
    assert as_image(image := picture()) is image


def test_an_error_that_no_row_has_alone_is_raised_as_it_is():
    def collate(rows):
        if len(rows) > 1:
            raise ValueError("these rows do not go together")
        return rows

    for policy in ("raise", "skip"):
        bad_rows = BadRows(policy)
        with pytest.raises(ValueError, match="^these rows do not go together$"):
            bad_rows.apply(collate, [{}, {}])
        assert bad_rows.skipped == 0


def test_a_fault_of_the_program_is_no_bad_row():
    def collate(rows):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        BadRows("skip").apply(collate, [{}])


def test_values_are_described_by_what_people_know_them_by(tmp_path: Path) -> None:
    PILImage.new("RGB", (3, 4)).save(tmp_path / "a.png")
    assert describe(PILImage.open(tmp_path / "a.png")) == f"the image {tmp_path / 'a.png'}"
    assert describe(PILImage.new("RGB", (3, 4))) == "the image (3, 4)"
    deep: list = []
    for _ in range(sys.getrecursionlimit()):
        deep = [deep]
    assert describe(deep) == "list that is nested too deep to be shown"
