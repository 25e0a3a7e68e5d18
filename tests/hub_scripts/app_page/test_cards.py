"""In the HTML of the page nothing of an index or a person is more than text."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hub_scripts.app_page import cards
from hub_scripts.app_page.session import Answer, Session
from hub_scripts.embedding.opened import OpenStore


HOSTILE = (
    "</b></button><script>alert(1)</script><img src=x onerror=alert(1)>\"' onload=1 ${alert(1)} {{this}} \x1b[2J\u202e"
)
TAGS = {"b", "br", "button", "div", "em", "h1", "i", "img", "p", "small", "span", "strong"}


class Elements(HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def hostile(make_index: Callable, session: Session, tmp_path: Path) -> Session:
    rows = [
        {"id": HOSTILE, "text": HOSTILE, "image": f"../{HOSTILE}"},
        {"id": "", "text": HOSTILE},
        {"id": "b", "image": HOSTILE.replace("/", "")},
        {"id": "c", "image": "/etc/passwd"},
    ]
    return Session(OpenStore(make_index(tmp_path, rows)), session.coma, tmp_path)


def test_hostile_rows_are_text(hostile: Session) -> None:
    hits = hostile.search("apple", None, 10)
    row, _ = hostile.more_like(0, 3)
    html = cards.results(hostile, hits, cards.query(hostile, HOSTILE, None))
    html += cards.more_like(hostile, row) + cards.problem(ValueError(HOSTILE)) + cards.note(HOSTILE)
    html += cards.answer_of(Answer(HOSTILE, 4, 1024)) + cards.heading(hostile)
    page = Elements(html)
    assert set(page.tags) <= TAGS and page.tags.count("button") == 4 and "img" not in page.tags
    assert not {name for name, _ in page.attributes} - {"class", "title", "type", "data-row", "role", "style"}
    assert "<script>alert(1)</script>" in page.text and r"\x1b[2J" in page.text
    assert not set("\x1b\u202e\n") & set(page.text)
    assert page.text.count("not shown: outside the image root") == 2 and "root:" not in page.text.replace(
        "image root:", ""
    )


def test_a_card_has_what_a_person_wants_to_know(session: Session) -> None:
    hits = session.search("red apple", None, 3)
    html = cards.results(session, hits, "asked")
    text = Elements(html).text
    for hit in hits:
        assert f"{hit.score:.3f}" in text and hit.row["id"] in text and hit.row["image"] in text
    assert html.count('src="data:image/jpeg;base64,') == 3 and "3 of 60" in text
    assert text.count("% of random pairs") == 3


@pytest.mark.parametrize(
    ("share", "said"),
    [(None, ""), (0.0, "above 0.0 %"), (0.9876, "above 98.7 %"), (0.99999, "above 99.9 %"), (1.0, "above all random")],
)
def test_a_share_is_never_rounded_up(share: float | None, said: str) -> None:
    assert cards._share(share).startswith(said)
