"""`coma embed --vectors` keeps the first states of every row, and `coma search` ranks by MaxSim of them."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from hub_scripts.common.loading import load_model
from hub_scripts.embed import embed_table
from hub_scripts.embedding.nearest import nearest_by_maxsim
from hub_scripts.embedding.store import index_metadata, read_rows
from hub_scripts.index import build_index
from hub_scripts.search import search_index
from trainers.encoding.encode import embed_items


TEXTS = [
    f"{'a little ' * (place % 3)}{color} {thing}"
    for color in ("red", "blue")
    for thing in ("apple", "tree", "leaf")
    for place in range(3)
]
AWAY = {"float32": 1e-6, "float16": 1e-3, "int8": 2e-2, "ubinary": 2e-2}  # of a number


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    return file


def maxsims(coma: tuple, text: str, q: int, d: int) -> list[float]:
    """MaxSim of a text and every row, one pair of states after another."""
    model, processor = coma
    with torch.no_grad():
        query, *documents = (model(**processor.process([one])).compression_states[0] for one in (text, *TEXTS))
    return [
        sum(max(float(torch.cosine_similarity(a, b, dim=0)) for b in document[:d]) for a in query[:q]) / q
        for document in documents
    ]


@pytest.mark.parametrize(
    "precision", [name if name in ("float16", "int8") else pytest.param(name, marks=pytest.mark.slow) for name in AWAY]
)
def test_rows_have_their_states_and_search_is_maxsim(
    nested: Path, corpus: Path, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / ("folder" if precision == "int8" else "i.parquet")
    made = embed_table(nested, corpus, out, vectors=3, precision=precision, part_rows=7)
    coma = load_model(str(nested))
    assert (made.model["vectors"], made.model["query_vectors"]) == (3, 2) and index_metadata(out)["vectors"] == 3
    found = torch.cat([rows.several_vectors() for rows in read_rows(out, ["vectors"])])
    assert (found - embed_items(*coma, TEXTS, num_vectors=3)).abs().max() < AWAY[precision]
    expected = torch.tensor(maxsims(coma, "a red leaf", 2, 3))
    hits = search_index(out, "a red leaf", model=coma, k=99)
    assert len(hits) == len(TEXTS) and {hit.measure for hit in hits} == {"maxsim"}
    scores = torch.tensor([hit.score for hit in hits])
    assert (scores - expected[[hit.row["row"] for hit in hits]]).abs().max() < 3 * AWAY[precision]
    assert (scores[:-1] >= scores[1:]).all()
    exact = search_index(out, "a red leaf", model=coma, k=99, exact=True)
    assert [hit.row for hit in exact] == [hit.row for hit in hits]
    assert [hit.score for hit in exact] == pytest.approx(scores.tolist(), abs=1e-6)
    by_cosine = search_index(out, "a red leaf", model=coma, k=2, by="cosine")
    assert [hit.measure for hit in by_cosine] == ["cosine"] * 2
    monkeypatch.setattr("hub_scripts.embedding.nearest.CANDIDATES_OF_MAXSIM", 2)
    monkeypatch.setattr("hub_scripts.embedding.nearest.MAXSIM_CANDIDATES_OF_A_HIT", 1)
    few = search_index(out, "a red leaf", model=coma, k=2)
    assert {hit.row["row"] for hit in few} == {hit.row["row"] for hit in by_cosine}
    assert search_index(out, "a red leaf", model=coma, k=2, exact=True) == exact[:2]


def test_the_one_vector_stays_and_the_command_says_what_there_is(
    nested: Path, corpus: Path, coma_command: Callable, tmp_path: Path
) -> None:
    code, text, error = coma_command("embed", nested, corpus, tmp_path / "i.parquet", "--vectors", 3)
    assert code == 0, error
    assert "and 3 vectors of each, 768 bytes a row, for MaxSim" in text
    embed_table(nested, corpus, tmp_path / "one.parquet")
    with_several, one = (pq.read_table(tmp_path / name) for name in ("i.parquet", "one.parquet"))
    assert with_several.drop_columns("vectors").equals(one)
    code, text, _ = coma_command("search", nested, tmp_path / "i.parquet", "a red leaf", "-k", 1)
    assert code == 0 and text.splitlines()[0] == "rank  maxsim  id"
    code, text, _ = coma_command("search", nested, tmp_path / "i.parquet", "a red leaf", "--by", "cosine")
    assert code == 0 and text.splitlines()[0] == "rank  cosine  id"
    code, _, error = coma_command("search", nested, tmp_path / "one.parquet", "a red leaf", "--by", "maxsim")
    assert code == 1 and "one.parquet has one vector of each row, and MaxSim needs several" in error


@pytest.mark.parametrize("is_exact", [False, True])
def test_a_query_that_is_not_finite_is_refused(nested: Path, corpus: Path, tmp_path: Path, is_exact: bool) -> None:
    embed_table(nested, corpus, tmp_path / "i.parquet", vectors=3)
    query = torch.ones(3, 64)
    query[2, 5] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        nearest_by_maxsim(tmp_path / "i.parquet", query, 2, is_exact)


def test_what_was_not_trained_is_refused(nested: Path, corpus: Path, tmp_path: Path) -> None:
    def embed(**options: object) -> dict:
        return embed_table(nested, corpus, tmp_path / "i.parquet", **options).model

    with pytest.raises(ValueError, match="was trained for 1x1, 2x3 vectors, not for 2. Add --any-vectors"):
        embed(vectors=2)
    with pytest.raises(ValueError, match="5 vectors of an input are not from 1 to 4"):
        embed(vectors=5, any_vectors=True)
    with pytest.raises(ValueError, match="give them, too"):
        embed(any_vectors=True)
    assert embed(vectors=2, any_vectors=True)["query_vectors"] == 2


def test_parts_of_another_number_are_refused(nested: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a red apple\n\n")
    (tmp_path / "t.jsonl").write_text('{"text": "a red apple"}\n{"text": ""}\n')
    with pytest.raises(ValueError, match="^Row 1"):
        embed_table(nested, tmp_path / "t.jsonl", tmp_path / "i.parquet", part_rows=1, vectors=3)
    with pytest.raises(ValueError, match=r"vectors \(3, now None\)"):
        embed_table(nested, tmp_path / "t.jsonl", tmp_path / "i.parquet", part_rows=1)


@pytest.mark.extras
def test_an_index_of_lancedb_keeps_the_one_vector(nested: Path, corpus: Path, tmp_path: Path) -> None:
    store, index = tmp_path / "i.parquet", tmp_path / "i.index"
    embed_table(nested, corpus, store, vectors=3, precision="int8")
    build_index(store, index)
    (tmp_path / "more.txt").write_text("a green tree\n")
    embed_table(nested, tmp_path / "more.txt", tmp_path / "more.parquet", precision="int8")
    assert build_index(tmp_path / "more.parquet", index, replace=True).num_rows == len(TEXTS)
    hits = search_index(index, "a green tree", model=nested, k=1)
    assert hits[0].measure == "cosine" and hits[0].row["text"] == "a green tree"
    with pytest.raises(ValueError, match="i.index has one vector of each row, and MaxSim needs several"):
        search_index(index, "a red leaf", model=nested, by="maxsim")
