"""Equal queries and documents are one, and everything that is known to be an answer is known."""

import tracemalloc
from collections.abc import Callable

import pytest

from trainers.mining.pairs import PairIndex, PairItems, Place, index_pairs


def text(words: str | None) -> dict:
    return {"text": words, "image": None}


def row(query: str, positive: str, *negatives: str, **more: str) -> dict:
    return {"query": text(query), "positive": text(positive), "negatives": [text(n) for n in negatives], **more}


def known(index: PairIndex, rows: list[dict]) -> dict[str, set[str]]:
    """By query, the texts of what is known."""
    texts = [place.item(rows[place.row])["text"] for place in index.document_places]
    return {
        place.item(rows[place.row])["text"]: {texts[number] for number in numbers}
        for place, numbers in zip(index.query_places, index.known, strict=True)
    }


def test_equal_ones_are_one() -> None:
    rows = [row("q", "a", "b"), row("q", "b"), row("r", "a", "c", "a")]
    index = index_pairs(rows)
    assert index.queries.tolist() == [0, 0, 1] and index.positives.tolist() == [0, 1, 0]
    assert index.negatives == [[1], [], [2, 0]]
    assert index.query_places == [Place(0, "query"), Place(2, "query")]
    assert index.document_places == [Place(0, "positive"), Place(0, 0), Place(2, 0)]
    assert known(index, rows) == {"q": {"a", "b"}, "r": {"a"}}


def test_groups_and_what_equals_the_query() -> None:
    rows = [row("q", "a", group="1"), row("r", "b", group="1"), row("a", "c"), row("s", "d"), row("q", "e", group="2")]
    rows += [row("t", "f", group="2")]
    assert known(index_pairs(rows), rows) == {
        "q": {"a", "b", "e", "f"},
        "r": {"a", "b"},
        "a": {"c", "a"},
        "s": {"d"},
        "t": {"e", "f"},
    }


def test_memory_does_not_grow_with_the_square_of_a_group() -> None:
    rows = [row(f"q{n}", f"d{n}", group="1") for n in range(1000)]
    tracemalloc.start()
    index = index_pairs(rows)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(index.known) == 1000 and index.known[999].tolist() == list(range(1000))
    assert held < 2e6  # a number for every pair of them would be 8e6


def test_documents_come_from_the_same_source() -> None:
    rows = [row("q", "a", "b", source="x"), row("r", "c", source="y"), row("s", "d"), row("t", "a", source="y")]
    index = index_pairs(rows)
    texts = [place.item(rows[place.row])["text"] for place in index.document_places]
    pools = {source: "".join(texts[number] for number in pool) for source, pool in index.pools.items()}
    assert pools == {"x": "abd", "y": "acd", None: "abcd"}


def test_an_instruction_makes_another_query_with_the_same_answers() -> None:
    rows = [row("q", "a", source="x"), row("q", "b", source="y")]
    index = index_pairs(rows, {"x": "Find it."})
    assert index.queries.tolist() == [0, 1]
    assert [numbers.tolist() for numbers in index.known] == [[0, 1], [0, 1]]
    items = PairItems(rows, index.query_places, {"x": "Find it."})
    assert [message["role"] for message in items[0]] == ["system", "user"]
    assert [message["role"] for message in items[1]] == ["user"] and len(items) == 2
    documents = PairItems(rows, index.document_places, {"x": "Find it."})
    assert documents[1] == [{"role": "user", "content": [{"type": "text", "text": "b"}]}]


def test_pictures_by_their_content(picture: Callable) -> None:
    image = {"text": None, "image": picture(seed=1)}
    same, other = {"text": None, "image": picture(seed=1)}, {"text": None, "image": picture(seed=2)}
    index = index_pairs([{"query": image, "positive": other}, {"query": same, "positive": same}])
    assert index.queries.tolist() == [0, 0] and [numbers.tolist() for numbers in index.known] == [[0, 1]]


def test_a_bad_row_is_named() -> None:
    with pytest.raises(ValueError, match="Row 1: positive is empty"):
        index_pairs([row("q", "a"), row("r", "")])
