"""MaxSim in blocks is what a loop says, and what sentence-transformers says."""

import pytest
import torch

import trainers.encoding.maxsim
from trainers.encoding.maxsim import maxsim


def oracle(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    found = torch.empty(len(queries), len(documents), dtype=queries.dtype)
    for row, query in enumerate(queries):
        for column, document in enumerate(documents):
            best = [max(float(torch.cosine_similarity(one, other, dim=0)) for other in document) for one in query]
            found[row, column] = sum(best) / len(best)
    return found


@pytest.mark.parametrize("cosines", [1, 40, 2**24])
@pytest.mark.parametrize(("q", "t"), [(1, 1), (2, 4), (3, 1)])
def test_in_blocks_as_in_a_loop(cosines: int, q: int, t: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers.encoding.maxsim, "COSINES", cosines)
    torch.manual_seed(q)
    queries, documents = torch.randn(7, 4, 6, dtype=torch.double), torch.randn(4, 5, 6, dtype=torch.double)
    documents = documents.transpose(0, 1)  # in memory one state of all of them after another
    found = maxsim(queries[:, :q], documents[:, :t])
    assert torch.allclose(found, oracle(queries[:, :q], documents[:, :t]), atol=1e-12)
    if (q, t) == (1, 1):
        assert torch.allclose(found, torch.cosine_similarity(queries[:, None, 0], documents[None, :, 0], dim=2))


def test_as_in_sentence_transformers() -> None:
    from sentence_transformers.util import mean_maxsim

    queries, documents = torch.randn(4, 3, 8), torch.randn(6, 5, 8).half()
    unit = (torch.nn.functional.normalize(states.float(), dim=-1) for states in (queries, documents))
    assert torch.allclose(maxsim(queries, documents), mean_maxsim(*unit), atol=1e-6)


def test_nothing_among_nothing() -> None:
    assert maxsim(torch.ones(0, 2, 4), torch.ones(3, 1, 4)).shape == (0, 3)
    assert maxsim(torch.ones(2, 2, 4), torch.ones(0, 1, 4)).shape == (2, 0)


@pytest.mark.parametrize("documents", [torch.ones(2, 4), torch.ones(2, 0, 4), torch.ones(2, 1, 3)])
def test_other_shapes_are_refused(documents: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="must be .rows, states, dim. with one dim and at least one state, got"):
        maxsim(torch.ones(2, 2, 4), documents)
