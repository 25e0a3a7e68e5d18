"""The page of `coma evaluate --html`: what was found, right and wrong, in one file that loads nothing."""

import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hub_scripts.evaluate import evaluate_model
from hub_scripts.evaluation.page import FOUND, QUERIES, SIDE, ResultsPage
from trainers.evaluation.retrieval import RetrievalSet


NASTY = "<script>alert('x')</script> \u202e \x1b[2J &"


class Cards(HTMLParser):
    """The cards of a page: what kind they are, and their text."""

    def __init__(self) -> None:
        super().__init__()
        self.cards: list[list[str]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.add(tag)
        kind = dict(attributes).get("class") or ""
        if kind.startswith("card"):
            self.cards.append([kind.split()[1], ""])

    def handle_data(self, data: str) -> None:
        if self.cards:
            self.cards[-1][1] += data.strip() + " "


def parsed(path: Path) -> Cards:
    cards = Cards()
    cards.feed(path.read_text(encoding="utf-8"))
    return cards


def pairs_of(number: int, picture: Callable) -> RetrievalSet:
    rows = [{"query": {"image": picture(300, 200, n)}, "positive": {"text": f"text {n}"}} for n in range(number)]
    return RetrievalSet.from_rows(rows)


def embeddings_of(retrieval: RetrievalSet, wrong: set[int]) -> torch.Tensor:
    """Each query is as its document, but for some, which are as that of the next."""
    number = len(retrieval.queries)
    embeddings = torch.zeros(len(retrieval.items), number)
    embeddings[retrieval.documents] = torch.eye(number)
    for query in range(number):
        near = (query + 1) % number if query in wrong else query
        embeddings[retrieval.queries[query], near] = 1.0
        embeddings[retrieval.queries[query], query] += 0.5
    return embeddings


def test_right_and_wrong_are_shown_and_counted(picture: Callable, tmp_path: Path) -> None:
    retrieval = pairs_of(30, picture)
    embeddings = embeddings_of(retrieval, wrong={1, 5})
    for name in ("a.html", "b.html"):
        page = ResultsPage(tmp_path / name, "my-coma", 10**6)
        page.add("shop", retrieval, embeddings)
        page.write(["a table"])
    text = (tmp_path / "a.html").read_text()
    assert text == (tmp_path / "b.html").read_text()
    assert "First document wrong: 2 of 2, of 30 queries in all" in text and "a table" in text
    assert f"First document right: {QUERIES} of 28, of 30 queries in all" in text
    cards = parsed(tmp_path / "a.html").cards
    kinds = [kind for kind, _ in cards]
    assert kinds.count("asked") == 2 + QUERIES and kinds.count("right") == 2 + QUERIES
    assert kinds[:3] == ["asked", "wrong", "right"] and kinds.count("wrong") == (2 + QUERIES) * (FOUND - 1)
    assert cards[0][1].startswith("query 1 ") and cards[1][1] == "1. wrong, 0.894 text 2  "
    assert cards[2][1] == "2. right, 0.447 text 1  "
    shown = [int(words.split()[1]) for kind, words in cards if kind == "asked"][2:]
    assert shown == sorted(shown) and shown[0] == 0 and shown[-1] > 24  # spread over the data
    assert "://" not in text and text.count("src=") == text.count("data:image/jpeg;base64,") == 2 + QUERIES
    image = re.search(r"base64,([^\"]+)", text)[1]
    with Image.open(io.BytesIO(base64.b64decode(image))) as thumbnail:
        assert max(thumbnail.size) == SIDE


def test_the_right_one_is_shown_wherever_it_is(picture: Callable, tmp_path: Path) -> None:
    """Behind the nearest, with its rank; and in a tie behind the others, as it is counted."""
    retrieval = pairs_of(9, picture)
    embeddings = torch.zeros(len(retrieval.items), 9)
    embeddings[retrieval.documents] = torch.eye(9)
    embeddings[retrieval.queries] = 1 + torch.arange(8, -1, -1).float()  # of query 8 the farthest is right
    page = ResultsPage(tmp_path / "a.html", "m", 10**6)
    page.add("shop", retrieval, embeddings)
    page.add("ties", retrieval, torch.ones_like(embeddings))
    page.write([])
    cards = parsed(tmp_path / "a.html").cards
    last = next(place for place, (kind, words) in enumerate(cards) if kind == "asked" and words.startswith("query 8 "))
    assert [kind for kind, _ in cards[last + 1 : last + 2 + FOUND]] == ["wrong"] * FOUND + ["right"]
    assert cards[last + 1 + FOUND][1].startswith("9. right, 0.059 text 8 ")
    ties = (tmp_path / "a.html").read_text().partition("<h2>ties</h2>")[2]
    assert "First document right: 0 of 0, of 9" in ties and ties.count("9. right") == 9


def test_texts_are_no_commands(tmp_path: Path) -> None:
    rows = [{"query": {"text": NASTY + "x" * 999}, "positive": {"text": NASTY}, "source": "s"}]
    retrieval = RetrievalSet.from_rows(rows, {"s": f"<b>{NASTY}"})
    page = ResultsPage(tmp_path / "a.html", NASTY, 10**6)
    page.add(NASTY, retrieval, torch.ones(2, 3))
    page.write([NASTY])
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert not {"script", "b"} & parsed(tmp_path / "a.html").tags and "&lt;script&gt;" in text
    assert not set("\u202e\x1b") & set(text) and "x" * 300 not in text


def test_only_the_candidates_of_a_query_are_shown(tmp_path: Path, picture: Callable) -> None:
    retrieval = pairs_of(4, picture)._replace(candidates=torch.tensor([[0, 3], [1, -1], [2, 0], [3, 1]]))
    page = ResultsPage(tmp_path / "a.html", "m", 10**6)
    page.add("shop", retrieval, embeddings_of(retrieval, set()))
    page.write([])
    cards = parsed(tmp_path / "a.html").cards
    assert [kind for kind, _ in cards] == ["asked", "right", "wrong", "asked", "right"] + [
        "asked",
        "right",
        "wrong",
    ] * 2


def test_a_video_is_shown_by_some_of_its_frames(tmp_path: Path) -> None:
    frames = [np.full((28, 28, 3), 20 * number, dtype=np.uint8) for number in range(9)]
    rows = [{"query": {"video": frames}, "positive": {"text": "it gets brighter", "image": None}}]
    retrieval, page = RetrievalSet.from_rows(rows), ResultsPage(tmp_path / "a.html", "m", 10**6)
    page.add("clips", retrieval, torch.ones(2, 4))
    page.write([])
    shown = re.findall('base64,([^"]+)', (tmp_path / "a.html").read_text())
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in shown]
    assert [round(picture.mean()) for picture in pictures] == [0, 60, 120]


def test_nothing_of_somebody_else_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<!DOCTYPE html>\nmine")
    for path in (tmp_path / "a.html", tmp_path):
        with pytest.raises(ValueError, match="is no page of coma evaluate: give another --html"):
            ResultsPage(path, "m", 1)


def test_the_command_and_python_write_it(
    coma_folder: Path, coma_command: Callable, picture: Callable, tmp_path: Path
) -> None:
    picture(60, 60, 1).save(tmp_path / "a.png")
    rows = [
        {"query": {"text": "one <b>", "image": None}, "positive": {"text": None, "image": "a.png"}},
        {"query": {"text": "two", "image": None}, "positive": {"text": "a blue tree", "image": None}},
    ]
    (tmp_path / "shop.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["evaluate", coma_folder, tmp_path / "shop.jsonl", "--output", tmp_path / "out"]
    first, second = tmp_path / "pages" / "1.html", tmp_path / "2.html"
    code, text, error = coma_command(*words, "--html", first)
    assert code == 0, error
    assert text.splitlines()[-1] == f"page     {first}" and "candidates  hit@1" in text
    code, text, error = coma_command(*words)  # finished, and nothing is embedded
    assert code == 0 and text.splitlines()[1] == "  is finished already"
    told: list[str] = []
    results = evaluate_model(coma_folder, tmp_path / "shop.jsonl", tmp_path / "out", html=second, tell=told.append)
    assert told[1] == "  is finished already, and embedded again for the page"
    assert first.read_text() == second.read_text() and first.read_text().count("<img ") >= 1
    assert "one &lt;b&gt;" in first.read_text() and str(tmp_path) not in first.read_text()
    scores = results["metrics"]["retrieval"]["shop"]
    assert scores["num_candidates"] == [2, 2] and scores["chance_hit@1"] == 0.5
    second.write_text("mine")
    code, _, error = coma_command(*words, "--html", second)
    assert code == 1 and "give another --html" in error and second.read_text() == "mine"
