"""Negatives are the nearest documents that may be: by hand, and against an oracle that compares everything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Image

import trainers.encoding.shards
import trainers.mining.mine
from trainers.data.images import without_decoding
from trainers.data.schema import PAIR_FEATURES
from trainers.encoding.shards import EmbeddingShards
from trainers.mining.mine import Mined, MiningSettings, add_negatives, mine
from trainers.mining.pairs import PairIndex, index_pairs


NO_MARGIN = {"relative_margin": None}


def shards(embeddings: Any) -> EmbeddingShards:
    return EmbeddingShards([np.asarray(embeddings, dtype=np.float32)])


def text(words: str) -> dict:
    return {"text": words, "image": None}


def row(query: str, positive: str, *negatives: str, **more: str) -> dict:
    return {"query": text(query), "positive": text(positive), "negatives": [text(n) for n in negatives], **more}


def texts(mined: Mined, index: PairIndex, rows: list[dict]) -> list[list[str]]:
    names = [place.item(rows[place.row])["text"] for place in index.document_places]
    return [[names[number] for number in found if number >= 0] for found in mined.documents]


# One query; documents on a line, so that a document's number is its score.
SCORES = {"p": 0.8, "a": 0.9, "b": 0.79, "c": 0.77, "d": 0.7, "e": 0.5, "f": -0.2}
ROWS = [row("q", "p"), *(row(f"other {name}", name) for name in "abcdef")]


def mine_line(rows: list[dict] = ROWS, **settings: Any) -> tuple[list[str], dict]:
    index = index_pairs(rows)
    names = [place.item(rows[place.row])["text"] for place in index.document_places]
    queries = shards([[1.0]] * len(index.query_places))
    documents = shards([[SCORES[name]] for name in names])
    mined = mine(index, queries, documents, MiningSettings(**{"number": 3, "depth": 6, **NO_MARGIN, **settings}))
    return texts(mined, index, rows)[0], mined.report


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "abc"),
        ({"number": 6}, "abcdef"),
        ({"absolute_margin": 0.0}, "bcd"),
        ({"absolute_margin": 0.05}, "def"),
        ({"relative_margin": 0.05}, "def"),  # at most 0.76
        ({"relative_margin": 0.02}, "cde"),  # at most 0.784
        ({"relative_margin": 0.02, "absolute_margin": 0.2}, "ef"),  # at most 0.6
        ({"max_score": 0.78}, "cde"),
        ({"max_score": 0.4, "relative_margin": 0.05}, "f"),
        ({"max_score": -1}, ""),
        ({"skip": 2}, "cde"),
        ({"skip": 1, "depth": 4, "relative_margin": 0.05}, "d"),  # ranks 1 to 3 are b, c, d
        ({"relative_margin": -0.2}, "abc"),  # at most 0.96
    ],
)
def test_margins_by_hand(settings: dict, expected: str) -> None:
    found, report = mine_line(**settings)
    assert "".join(found) == expected
    assert report["rows"] == 7 and report["wanted"] == settings.get("number", 3)


def test_a_positive_below_zero_has_a_margin_below_it() -> None:
    limits = MiningSettings(relative_margin=0.1).limits(torch.tensor([0.5, -0.5]))
    assert torch.allclose(limits, torch.tensor([0.45, -0.55]))


def test_negatives_that_are_there_are_not_mined_again() -> None:
    found, report = mine_line([row("q", "p", "b"), *ROWS[1:]])
    assert "".join(found) == "acd" and report["documents"] == 7


def test_who_got_fewer_is_counted() -> None:
    rows = [row("q", "p", source="x"), row("r", "a", source="x"), row("s", "b", source="y"), row("q", "e", source="x")]
    index = index_pairs(rows)
    queries = shards([[1.0]] * 3)
    documents = shards([[SCORES[name]] for name in "pabe"])
    mined = mine(index, queries, documents, MiningSettings(number=2, depth=5))
    assert texts(mined, index, rows) == [[], ["p", "e"], [], []]  # `a` is nearer to q than p; b is of another source
    assert mined.report["rows_by_number"] == {"0": 3, "1": 0, "2": 1} and mined.report["rows_with_fewer"] == 3
    assert (mined.report["mined"], mined.report["too_near"]) == (2, 2)
    assert mined.report["rows_without_negatives"] == 3
    assert mined.report["rows_with_mined"] == 1  # over which both means are
    assert mined.report["mean_positive_score"] == pytest.approx(0.9, abs=1e-4)
    assert mined.report["mean_negative_score"] == pytest.approx(0.65, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "kept_out_by", "would_help"),
    [
        ({"relative_margin": 0.3}, {"relative_margin": 1}, {"relative_margin": (0.8 - 0.7) / 0.8}),
        ({"relative_margin": None, "absolute_margin": 0.2}, {"absolute_margin": 1}, {"absolute_margin": 0.1}),
        ({"relative_margin": None, "max_score": 0.6}, {"max_score": 1}, {"max_score": 0.7}),
        ({"relative_margin": None}, {}, {}),
    ],
)
def test_why_a_row_found_none_and_what_would_help(settings: dict, kept_out_by: dict, would_help: dict) -> None:
    index = index_pairs([row("q", "p"), row("r", "a"), row("s", "b")])
    documents = shards([[0.8, 0.0, 0.0], [0.75, 1.0, 0.0], [0.7, 0.0, 1.0]])  # all near to q, each near to its own
    mined = mine(index, shards(torch.eye(3).tolist()), documents, MiningSettings(number=1, **settings))
    assert mined.report["kept_out_by"] == kept_out_by
    assert mined.report["would_help"] == pytest.approx(would_help, abs=2e-3)
    more = MiningSettings(number=1, **{**settings, **mined.report["would_help"]})
    again = mine(index, shards(torch.eye(3).tolist()), documents, more)
    assert again.report["rows_with_mined"] == 3 and not again.report["kept_out_by"]


def oracle(rows: list[dict], index: PairIndex, scores: np.ndarray, settings: MiningSettings) -> list[list[int]]:
    """One row after the other, one document after the other."""
    found = []
    for number, one in enumerate(rows):
        positive = scores[index.queries[number], index.positives[number]]
        limit = min(positive - settings.relative_margin * abs(positive), settings.max_score)
        equal = [o for o in rows if o["query"] == one["query"]]
        groups = {o["group"] for o in equal if o["group"]}
        answers = [o["positive"]["text"] for o in rows if o in equal or o["group"] in groups] + [one["query"]["text"]]
        own = [item["text"] for item in one["negatives"]]
        candidates = []
        for document, place in enumerate(index.document_places):
            words = place.item(rows[place.row])["text"]
            having = [o for o in rows if words in (o["positive"]["text"], *(item["text"] for item in o["negatives"]))]
            free = one["source"] is None or any(o["source"] in (None, one["source"]) for o in having)
            if free and words not in answers:
                candidates.append((-scores[index.queries[number], document], document, words in own))
        candidates = sorted(candidates)[settings.skip : settings.depth]
        found.append([d for score, d, is_own in candidates if -score <= limit and not is_own][: settings.number])
    return found


@pytest.mark.parametrize("seed", range(4))
def test_in_pieces_as_row_by_row(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers.mining.mine, "QUERIES_AT_A_TIME", 4)
    monkeypatch.setattr(trainers.encoding.shards, "DOCUMENTS_AT_A_TIME", 6)
    random = np.random.default_rng(seed)

    def some(kind: str, number: int) -> str:
        return f"{kind}{random.integers(number)}"

    rows = [
        row(
            some("q", 15) if random.random() < 0.9 else some("d", 25),
            some("d", 25),
            *(some("d", 25) for _ in range(random.integers(0, 3))),
            source=[None, "x", "y"][random.integers(3)],
            group=[None, None, "1", "2"][random.integers(4)],
        )
        for _ in range(40)
    ]
    index = index_pairs(rows)
    # Small whole numbers: scores are exact, and many of them equal.
    queries = random.integers(-2, 3, (len(index.query_places), 5))
    documents = random.integers(-2, 3, (len(index.document_places), 5))
    settings = MiningSettings(number=3, depth=9, skip=1, relative_margin=0.25, max_score=4)
    mined = mine(index, shards(queries), shards(documents), settings)
    found = [[int(number) for number in one if number >= 0] for one in mined.documents]
    assert found == oracle(rows, index, queries @ documents.T, settings)
    assert sum(map(len, found)) == mined.report["mined"] > 20


def test_rows_are_written_with_what_they_had(picture: Callable, tmp_path: Path) -> None:
    rows = [row("q0", "p0", "n0"), row("q1", "p1"), row("q2", "p2")]
    rows[1]["positive"] = {"text": None, "image": picture(seed=1)}
    dataset = Dataset.from_list([one | {"source": "s"} for one in rows], features=PAIR_FEATURES)
    index = index_pairs(without_decoding(dataset))
    documents = np.array([[2, -1], [3, 0], [-1, -1]])  # of p0, n0, p1, p2
    made = add_negatives(dataset, index, documents, tmp_path / "rows.arrow")
    assert made.features == dataset.features and isinstance(made.features["negatives"].feature["image"], Image)
    assert [[one["text"] for one in found["negatives"]] for found in made] == [["n0", None], ["p2", "p0"], []]
    assert made[0]["negatives"][1]["image"].tobytes() == picture(seed=1).tobytes()
    assert made.remove_columns("negatives")[0] == dataset.remove_columns("negatives")[0]

    bare = dataset.remove_columns(["negatives", "source"])
    index = index_pairs(without_decoding(bare))
    made = add_negatives(bare, index, np.array([[1], [-1], [0]]), tmp_path / "bare.arrow")
    assert made.column_names == ["query", "positive", "negatives"]
    assert [len(found) for found in made["negatives"]] == [1, 0, 1]


def test_both_means_are_over_the_same_rows() -> None:
    """Each of them counts once, however many negatives it has."""
    rows = [row("q", "b"), row("r", "f"), row("s", "c", "d", "e")]
    index = index_pairs(rows)
    queries = shards([[1.0]] * 3)
    documents = shards([[SCORES[name]] for name in "bfcde"])
    mined = mine(index, queries, documents, MiningSettings(number=3, depth=5, absolute_margin=0.03, relative_margin=0))
    assert texts(mined, index, rows) == [["d", "e", "f"], [], ["f"]]
    assert mined.report["rows_with_mined"] == 2 and mined.report["rows_without_negatives"] == 1
    assert mined.report["mean_positive_score"] == pytest.approx((0.79 + 0.77) / 2, abs=1e-4)
    assert mined.report["mean_negative_score"] == pytest.approx(((0.7 + 0.5 - 0.2) / 3 - 0.2) / 2, abs=1e-4)


def test_more_than_there_is_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="number=5 and skip=2 ask for more than there is: no query has more than 6"):
        mine_line(number=5, skip=2, depth=7)


@pytest.mark.parametrize("place", [0, 3])
def test_an_embedding_that_is_not_finite_is_refused(place: int) -> None:
    """A limit of NaN would let everything through."""
    index, embeddings = index_pairs(ROWS), [[1.0] for _ in range(7)]
    embeddings[place] = [np.nan]
    settings = MiningSettings(number=3, depth=6)
    with pytest.raises(ValueError, match=f"document {place} have the score|Row {place}: the score of its positive"):
        mine(index, shards([[1.0]] * 7), shards(embeddings), settings)


@pytest.mark.parametrize("name", ["relative_margin", "absolute_margin", "max_score"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_limits_that_are_none(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value} is no limit"):
        MiningSettings(**{name: value})


@pytest.mark.parametrize("settings", [{"number": 0}, {"skip": -1}, {"number": 3, "depth": 4, "skip": 2}])
def test_settings_that_make_no_sense(settings: dict) -> None:
    with pytest.raises(ValueError, match="number="):
        MiningSettings(**settings)
