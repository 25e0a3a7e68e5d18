"""Sets hold every input once, and their scores are those of arithmetic."""

import math

import pytest
import torch

from trainers.evaluation.retrieval import RetrievalSet, UniqueInputs, score_set


def retrieval_set(queries, documents, relevant, candidates=None):
    unique = UniqueInputs()
    for document in documents:
        unique.add(document)
    return RetrievalSet.of(queries, [""] * len(queries), unique, relevant, candidates)


def said(text):
    return [{"role": "user", "content": text}]


def shown(image):
    return [{"role": "user", "content": [{"type": "image", "image": image}]}]


def test_equal_inputs_are_embedded_once_whatever_side_they_are_on(picture):
    image, other = picture(56, 28, 1), picture(56, 28, 2)
    blocks = [{"role": "user", "content": [{"type": "text", "text": "b"}]}]
    queries = [said("a"), said("b"), said("a"), shown(image), shown("a.png")]
    documents = [blocks, shown(image.copy()), shown(other), shown("a.png"), shown("b.png")]
    made = retrieval_set(queries, documents, [[0]] * 5)
    assert made.documents.tolist() == [0, 1, 2, 3, 4] and made.queries.tolist() == [5, 0, 5, 1, 3]
    assert len(made.items) == 6 and made.items[5] == said("a")


def test_an_instruction_makes_another_input():
    instructed = [{"role": "system", "content": "Find it."}, *said("a")]
    made = retrieval_set([instructed, said("a")], [said("a")], [[0], [0]])
    assert made.queries.tolist() == [1, 0] and made.documents.tolist() == [0]


def test_the_digest_knows_everything_that_scores_depend_on(tmp_path):
    (tmp_path / "a.png").write_bytes(b"12")

    def digest(query="a", document="b", relevant=0, among=(0, 1), size=b"12"):
        (tmp_path / "a.png").write_bytes(size)
        documents = [said(document), shown(str(tmp_path / "a.png"))]
        return retrieval_set([said(query)], documents, [[relevant]], among and [among]).digest

    assert digest() == digest()
    others = [{"query": "c"}, {"document": "c"}, {"relevant": 1}, {"among": (0,)}, {"among": None}, {"size": b"1"}]
    assert len({digest(), *(digest(**other) for other in others)}) == len(others) + 1


def test_scores_by_hand():
    """Three queries to four documents. The first is ranked among three, which leaves out what would beat it."""
    made = retrieval_set(
        [said("p"), said("q"), said("r")],
        [said("a"), said("b"), said("c"), said("d")],
        [[0], [1], [2, 3]],
        [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3]],
    )
    queries = torch.tensor([[3.0, 2, 1, 4], [4, 1, 3, 2], [1, 4, 2, 3]])  # products with the documents below
    scores = score_set(made, torch.cat([torch.eye(4), queries]))
    # ranks: 1 of {a b c}; 4th; d second and c third
    ndcg = (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    assert scores == {
        "hit@1": pytest.approx(1 / 3),
        "hit@5": 1,
        "hit@10": 1,
        "mrr": pytest.approx((1 + 1 / 4 + 1 / 2) / 3),
        "ndcg_linear@1": pytest.approx(1 / 3),
        "ndcg_linear@5": pytest.approx((1 + 1 / math.log2(5) + ndcg) / 3),
        "ndcg_linear@10": pytest.approx((1 + 1 / math.log2(5) + ndcg) / 3),
        "recall@1": pytest.approx(1 / 3),
        "recall@5": 1,
        "recall@10": 1,
        "num_pred": 3,
        "num_data": 3,
        "num_candidates": [3, 4],
        "chance_hit@1": pytest.approx((1 / 3 + 1 / 4 + 2 / 4) / 3),
    }


def test_ties_count_against_the_model():
    made = retrieval_set([said("p")], [said("a"), said("b")], [[0]])
    assert score_set(made, torch.ones(3, 4))["hit@1"] == 0


def test_what_is_to_be_found_must_be_a_candidate():
    made = retrieval_set([said("p"), said("q")], [said("a"), said("b")], [[0], [1]], [[0, 1], [0]])
    with pytest.raises(ValueError, match="Query 1 has .* `-inf` at a document that is relevant"):
        score_set(made, torch.eye(4))
