"""A page of a PDF is an image like others: of a size that is known before, of as many pixels as an image keeps."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from modeling_coma.inputs_coma import open_image, to_rgb
from modeling_coma.pages_coma import LAST, file_of, page_of
from tests.pdf_files import write_pdf
from trainers.encoding.tokenize import token_lengths


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    return write_pdf(tmp_path / "report.pdf", ["apple", "pear"])


def test_names_of_pages(tmp_path: Path) -> None:
    assert page_of("a/b.PDF#12") == ("a/b.PDF", 12) and file_of("a/b.PDF#12") == "a/b.PDF"
    for other in ("b.pdf", "b.pdf#0", "b.pdf#-1", "b.pdf#x", "b.png#1", b"b.pdf#1", None, "#1"):
        assert page_of(other) is None and file_of(other) == other
    (tmp_path / "b.pdf#1").touch()
    assert page_of(tmp_path / "b.pdf#1") is None


def test_the_size_is_known_before_it_is_drawn(pdf: Path) -> None:
    for pixels in (1, 100, 5_000, 300_000, 10**9):
        with open_image(f"{pdf}#2", page_pixels=pixels) as image:
            size = image.size
        assert to_rgb(f"{pdf}#2", page_pixels=pixels).size == size
        width, height = size
        assert (width - 1) * (height - 1) < pixels and width <= 834  # 300 dots per inch
    assert abs(width / height - 2) < 0.01
    assert to_rgb(f"{pdf}#2", max_pixels=5_000).size == (100, 50)


def test_a_page_is_what_is_on_it(pdf: Path) -> None:
    first, second = (np.asarray(to_rgb(f"{pdf}#{number}")) for number in (1, 2))
    assert first[0, 0].tolist() == [255, 255, 255] and 0.01 < (first < 128).mean() < 0.1
    assert (first != second).any()
    drawn, images = [], [f"{pdf}#{1 + number % 2}" for number in range(16)]
    threads = [Thread(target=lambda image=image: drawn.append((image, np.asarray(to_rgb(image))))) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == 16
    for image, pixels in drawn:
        assert np.array_equal(pixels, first if image.endswith("#1") else second)


def test_it_is_embedded_as_an_image_of_the_pixel_budget(pdf: Path, make_coma: Callable) -> None:
    model, processor = make_coma()
    assert processor.page_pixels == processor.image_processor.size["longest_edge"]
    page = f"{pdf}#1"
    batch = processor.process([{"image": page, "text": "find it"}])
    image = to_rgb(page, page_pixels=processor.page_pixels)
    with torch.no_grad():
        embedding = model(**batch).embeddings
        assert torch.equal(embedding, model(**processor.process([{"image": image, "text": "find it"}])).embeddings)
    assert token_lengths(processor, [{"image": page, "text": "find it"}]) == batch["input_ids"].shape[1]


def test_a_page_as_a_thread_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    page = f"{write_pdf(tmp_path / 'thread.pdf', ['apple'], width=10**7, height=1)}#1"
    with pytest.raises(ValueError, match=r"^Row 4: .*#1': page 1 has 1e\+07 x 1 points; an image has at most 1:200"):
        to_rgb(page, 4, max_pixels=10**4)


def test_a_document_stays_open_and_a_changed_one_is_opened_anew(pdf: Path) -> None:
    first = np.asarray(to_rgb(f"{pdf}#1"))
    (document,) = LAST.values()
    assert np.array_equal(to_rgb(f"{pdf}#1"), first) and list(LAST.values()) == [document]
    write_pdf(pdf, ["another"])
    assert not np.array_equal(to_rgb(f"{pdf}#1"), first) and list(LAST.values()) != [document]
    child = os.fork()
    if not child:  # it has a document of its own: the place in the file is that of all who have opened it together
        os._exit(0 if to_rgb(f"{pdf}#1").size[0] and next(iter(LAST))[0] == os.getpid() else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("report.pdf#3", "there is no page 3: it has 2"),
        ("report.pdf", "it is a PDF: name one of its pages, as in report.pdf#1"),
        ("locked.pdf#1", "it is encrypted: save it without its password"),
        ("broken.pdf#1", "it is damaged, or no PDF"),
        ("gone.pdf#1", "No such file or directory"),
    ],
)
def test_what_cannot_be_drawn_names_its_row(pdf: Path, name: str, why: str) -> None:
    write_pdf(pdf.with_name("locked.pdf"), ["apple"], is_locked=True)
    pdf.with_name("broken.pdf").write_bytes(pdf.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"Row 7: cannot decode the image '.*{name}': {why}"):
        to_rgb(pdf.with_name(name), row=7)


def test_without_pypdfium2_it_is_said_what_to_install(pdf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(ValueError, match=r"report\.pdf#1': pages of a PDF need pypdfium2: `pip install pypdfium2`"):
        to_rgb(f"{pdf}#1")
