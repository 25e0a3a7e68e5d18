"""A PDF is its pages, by their names; one that cannot be opened is named, and nothing of it is lost in silence."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.pdf_files import write_pdf
from trainers.data.corpus import Columns, open_corpus
from trainers.data.pdf_pages import page_text, pdf_pages


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    (folder / "more").mkdir(parents=True)
    write_pdf(folder / "b.pdf", ["apple", "pear", ""])
    write_pdf(folder / "more" / "A.PDF", [f"plum {number}" for number in range(11)])
    Image.new("RGB", (30, 30)).save(folder / "c.png")
    (folder / "notes.md").touch()
    return folder


def test_a_pdf_is_its_pages(papers: Path) -> None:
    corpus = open_corpus(papers / "b.pdf", Columns())
    rows = corpus.read(0, 3)
    assert [row["id"] for row in rows] == [row["path"] for row in rows] == ["b.pdf#1", "b.pdf#2", "b.pdf#3"]
    assert [row["image"] for row in rows] == [f"{papers}/b.pdf#{number}" for number in (1, 2, 3)]
    assert [row["page_text"] for row in rows] == ["apple", "pear", None]
    assert {row["text"] for row in rows} == {None} == {row["error"] for row in rows}
    assert corpus.records.name == "b.pdf"


def test_pages_stand_among_the_images_of_a_folder(papers: Path) -> None:
    corpus = open_corpus(papers, Columns())
    more = [f"more/A.PDF#{number}" for number in range(1, 12)]
    assert [row["id"] for row in corpus.read(0, 15)] == ["b.pdf#1", "b.pdf#2", "b.pdf#3", "c.png", *more]
    assert corpus.read(13, 14)[0]["page_text"] == "plum 9"
    assert corpus.left_alone == f"{papers}: 1 files are left alone: notes.md (no image)"


def test_what_cannot_be_opened_is_a_bad_row(papers: Path) -> None:
    write_pdf(papers / "a.pdf", ["apple"], is_locked=True)
    (papers / "d.pdf").write_bytes(b"%PDF-1.4 and nothing else")
    write_pdf(papers / "e.pdf", [])
    rows = open_corpus(papers, Columns()).read(0, 18)
    errors = {row["id"]: row["error"] for row in rows if row["error"]}
    assert list(errors) == ["a.pdf", "d.pdf", "e.pdf"]
    assert "Row 0 of papers: a.pdf: it is encrypted: save it without its password" in errors["a.pdf"]
    assert "it is damaged, or no PDF: " in errors["d.pdf"] and "it is damaged, or no PDF: " in errors["e.pdf"]
    for name, why in (("a", "is encrypted"), ("d", "is damaged"), ("e", "is damaged")):
        with pytest.raises(ValueError, match=rf"papers/{name}\.pdf: it {why}"):
            open_corpus(papers / f"{name}.pdf", Columns())
    with pytest.raises(ValueError, match="it cannot be read: No such file"):
        pdf_pages(papers / "gone.pdf")
    with pytest.raises(ValueError, match="page 4 cannot be read"):
        page_text(f"{papers / 'b.pdf'}#4")


def test_without_pypdfium2_they_are_left_alone_and_it_is_said(papers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    corpus = open_corpus(papers, Columns())
    assert corpus.num_rows == 1
    assert "b.pdf (a PDF, whose pages are read where pypdfium2 is installed: pip install" in corpus.left_alone
    with pytest.raises(ValueError, match=r"b\.pdf: pages of a PDF need pypdfium2: `pip install"):
        open_corpus(papers / "b.pdf", Columns())
