"""Visual documents: graded judgements, pages that stay in the file, and what is malformed is named."""

import pytest
import torch
from datasets import Dataset

from tests.mmeb_folders import NUMBER, visual_documents
from trainers.evaluation.retrieval import score_set
from trainers.evaluation.visual_documents import read_visual_documents


@pytest.fixture
def tables(tmp_path):
    return visual_documents(tmp_path)


def test_what_is_read(tables):
    made = read_visual_documents(**tables, name="docs")
    assert len(made.items) == 3 + NUMBER and made.documents.tolist() == [3, 4, 5, 6, 7, 8] and made.candidates is None
    assert made.items[1][0]["content"] == "Find a document image that matches the given query: a big grin"
    page = made.items[4][0]["content"]
    assert (
        page[0]["image"].startswith(b"\x89PNG")
        and page[0]["image"] == tables["corpus"].data["image"][1]["bytes"].as_py()
    )
    assert page[1]["text"] == " Understand the content of the provided document image."
    assert made.relevance.documents.tolist() == [[1, 2], [0, -1], [5, -1]]
    assert made.relevance.grades.tolist() == [[2, 1], [1, 0], [3, 0]]


def test_equal_queries_are_embedded_once(tables):
    tables["queries"] = Dataset.from_dict({"query-id": [10, 11, 12], "query": ["a grin", "tears", "a grin"]})
    made = read_visual_documents(**tables, name="docs")
    assert len(made.items) == 2 + NUMBER and made.queries.tolist() == [0, 1, 0]
    tables["queries"] = Dataset.from_dict({"query-id": [10, 11, 12], "query": ["a grin", "tears", "tears"]})
    assert read_visual_documents(**tables, name="docs").digest != made.digest


def test_scores_by_hand(tables):
    """Query 0 finds page 2, then 1; query 1 finds page 0 in place 6; query 2 finds page 5 first."""
    made = read_visual_documents(**tables, name="docs")
    embeddings = torch.eye(9, 6)
    embeddings[3:] = torch.eye(6)
    embeddings[:3] = torch.tensor([[1, 4, 5, 0, 0, 0], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]).float()
    scores = score_set(made, embeddings)
    first = (1 / 1 + 2 / 1.5849625007211562) / (2 / 1 + 1 / 1.5849625007211562)  # log2(3)
    assert scores["ndcg_linear@5"] == pytest.approx((first + 0 + 1) / 3)
    assert scores["hit@1"] == pytest.approx(2 / 3) and scores["mrr"] == pytest.approx((1 + 1 / 6 + 1) / 3)
    assert scores["recall@1"] == pytest.approx((1 / 2 + 0 + 1) / 3) and scores["num_data"] == 3


def test_the_digest_tells_sets_apart(tables, tmp_path):
    digest = read_visual_documents(**tables, name="docs").digest
    assert digest == read_visual_documents(**visual_documents(tmp_path), name="docs").digest
    others = tables["qrels"].to_dict()
    others["score"][0] = 3
    assert digest != read_visual_documents(**{**tables, "qrels": Dataset.from_dict(others)}, name="docs").digest


@pytest.mark.parametrize(
    ("table", "column", "row", "value", "message"),
    [
        ("queries", "query", 1, " ", "Row 1 of the queries of docs, query: found ' '; expected a text"),
        ("queries", "query-id", 1, 10, "Row 1, query-id of the queries of docs: found '10' again, as in row 0"),
        ("corpus", "corpus-id", 2, "page-0", "Row 2, corpus-id of the corpus of docs: found 'page-0' again"),
        ("qrels", "corpus-id", 1, "page-9", "Row 1 of the qrels of docs, corpus-id: found 'page-9'; .* in the corpus"),
        ("qrels", "query-id", 1, 99, "Row 1 of the qrels of docs, query-id: found '99'; .* in the queries"),
        ("qrels", "score", 1, -1, "Row 1 of the qrels of docs, score: found -1; expected a number from 0"),
        ("qrels", "score", slice(None), ["1"] * 6, "Row 0 of the qrels of docs, score: found '1'; expected a number"),
        ("qrels", "score", 5, 0, "Query '12' of docs: found no judgement above 0"),
    ],
)
def test_what_is_malformed_is_named(tables, table, column, row, value, message):
    values = list(tables[table][column])
    values[row] = value
    tables[table] = tables[table].remove_columns(column).add_column(column, values)
    with pytest.raises(ValueError, match=message):
        read_visual_documents(**tables, name="docs")


def test_a_missing_column_is_named(tables):
    tables["corpus"] = tables["corpus"].rename_column("image", "page")
    with pytest.raises(ValueError, match=r"The corpus of docs lack the columns \['image'\]: found"):
        read_visual_documents(**tables, name="docs")
