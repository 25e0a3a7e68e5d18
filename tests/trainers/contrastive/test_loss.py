"""The blockwise InfoNCE is the formula, in value, gradients and statistics, whatever is combined with what."""

import doctest
import math
import random
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import trainers.contrastive.targets
from tests.trainers.contrastive.slow_info_nce import DOUBLE, random_targets, slow_losses
from trainers.contrastive.loss import InfoNCEOptions, InfoNCEOutput, info_nce
from trainers.contrastive.targets import ContrastiveTargets, IdPair


def both_directions(queries, documents, targets, temperature, options) -> InfoNCEOutput:
    """The mean of the loss of the queries and of that of the documents that have a query."""
    forward = info_nce(queries, documents, targets, temperature, options)
    backward = info_nce(documents, queries, targets.transposed(), temperature, options)
    return InfoNCEOutput((forward.loss + backward.loss) / 2, forward.sums)


def means(output: InfoNCEOutput) -> dict[str, float]:
    return {name: (total / count).item() for name, (total, count) in output.fractions().items()}


def shard(num_queries: int, num_documents: int, first: int) -> ContrastiveTargets:
    """Document `first + i` is the positive of query `i`."""
    documents = torch.arange(num_documents)
    here = (documents >= first) & (documents < first + num_queries)
    return ContrastiveTargets(IdPair(torch.arange(first, first + num_queries), documents.masked_fill(~here, -1)))


def slow_info_nce(queries, documents, targets, temperature, options, bidirectional):
    loss = torch.zeros((), **DOUBLE)
    for dim, weight in sorted((options.matryoshka or {queries.shape[1]: 1.0}).items()):
        scores = F.normalize(queries[:, :dim], dim=1) @ F.normalize(documents[:, :dim], dim=1).T
        losses, statistics = slow_losses(scores, targets, temperature, options)
        direction = losses.mean()
        if bidirectional:
            losses, _ = slow_losses(scores.T, targets.transposed(), temperature, options)
            direction = (direction + losses.mean()) / 2
        loss = loss + weight * direction
    return loss, statistics


def random_case(seed: int):
    """A batch with a random choice of everything that can be chosen."""
    dice = random.Random(seed)
    torch.manual_seed(seed)
    rows, hard, dim = dice.randint(1, 7), dice.randint(0, 5), dice.randint(3, 6)
    documents = rows + hard
    targets = random_targets(dice, rows, documents)
    bidirectional = dice.random() < 0.5
    temperature = torch.tensor(dice.uniform(0.05, 1.0), **DOUBLE)
    if not bidirectional and dice.random() < 0.5:
        temperature = torch.rand(rows, **DOUBLE) + 0.1
    options = InfoNCEOptions(
        false_negative_margin=dice.choice([None, 0.0, 0.1]),
        hardness=dice.choice([0.0, 0.0, 2.0]),
        matryoshka=dice.choice([None, {2: 0.5, dim: 1.0}]),
        pairs_per_block=dice.choice([1, 2 * documents, 10**6]),
    )
    inputs = [torch.randn(rows, dim, **DOUBLE), torch.randn(documents, dim, **DOUBLE), temperature]
    return [tensor.requires_grad_() for tensor in inputs], targets, options, bidirectional


@pytest.mark.parametrize("seed", range(150))
def test_equals_the_formula_in_value_gradients_and_statistics(seed):
    (queries, documents, temperature), targets, options, bidirectional = random_case(seed)
    inputs = (queries, documents, temperature)
    expected, sums = slow_info_nce(queries, documents, targets, temperature, options, bidirectional)
    direction = both_directions if bidirectional else info_nce
    output = direction(queries, documents, targets, temperature, options)
    torch.testing.assert_close(output.loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.sums, sums)
    gradients = torch.autograd.grad(3 * output.loss, inputs)
    references = torch.autograd.grad(3 * expected, inputs)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-6, atol=1e-9)


def pair(rows: int = 6, extra: int = 0, dim: int = 8, seed: int = 0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, dim, generator=generator, **kwargs),
        torch.randn(rows + extra, dim, generator=generator, **kwargs),
    )


@pytest.mark.parametrize("bidirectional", [False, True])
def test_plain_case_is_cross_entropy(bidirectional):
    queries, documents = pair(extra=3)
    logits = F.normalize(queries, dim=1) @ F.normalize(documents, dim=1).T / 0.07
    expected = F.cross_entropy(logits, torch.arange(6))
    if bidirectional:
        expected = (expected + F.cross_entropy(logits.T[:6], torch.arange(6))) / 2
        output = both_directions(queries, documents, ContrastiveTargets.paired(6, 9), 0.07, InfoNCEOptions())
    else:
        output = info_nce(queries, documents, temperature=0.07)
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("documents", [4, 7])
def test_collapsed_embeddings_give_log_n_and_no_accuracy(documents):
    output = info_nce(torch.ones(4, 3), torch.ones(documents, 3))
    assert output.loss.item() == pytest.approx(math.log(documents))
    assert means(output) == pytest.approx(
        {
            "in_batch_accuracy": 0,
            "positive_similarity": 1,
            "hardest_negative_similarity": 1,
            "negatives": documents - 1,
            "masked_false_negatives": 0,
        }
    )


def test_perfect_embeddings_give_the_closed_form():
    output = info_nce(torch.eye(4), torch.eye(4), temperature=0.5)
    assert output.loss.item() == pytest.approx(math.log(1 + 3 * math.exp(-1 / 0.5)))
    assert means(output)["in_batch_accuracy"] == 1


def test_positives_of_one_query_do_not_compete():
    """Two positives and no negative: nothing to lose, where one denominator for all would leave log 2."""
    targets = ContrastiveTargets(IdPair(torch.tensor([[0, 1]]), torch.arange(2)))
    queries, documents = pair(rows=1, extra=1)
    assert info_nce(queries, documents, targets).loss == 0


def test_each_hard_negative_changes_the_loss_and_pushes():
    queries, documents = pair(extra=4)
    documents.requires_grad_()
    losses = [info_nce(queries, documents[:count], temperature=0.3).loss.item() for count in range(6, 11)]
    assert all(before < after for before, after in pairwise(losses))
    info_nce(queries, documents, temperature=0.3).loss.backward()
    assert (documents.grad.norm(dim=1) > 1e-4).all()


def test_equal_content_changes_nothing():
    """Rows 0 and 6 have the same document. Row 0 loses what it would lose without row 6."""
    queries, documents = pair(rows=7)
    documents[6] = documents[0]
    contents = torch.tensor([0, 1, 2, 3, 4, 5, 0])
    targets = ContrastiveTargets(ContrastiveTargets.paired(7, 7).positive, content=IdPair(contents, contents))
    first = info_nce(queries[:1], documents, targets.for_queries(slice(0, 1)), 0.5).loss
    torch.testing.assert_close(first, info_nce(queries[:1], documents[:6], None, 0.5).loss)
    assert first < info_nce(queries[:1], documents, None, 0.5).loss
    assert info_nce(queries, documents, targets).sums[-1] == 2


def test_margin_drops_what_is_more_similar_than_the_positive():
    queries = torch.tensor([[1.0, 0.0]])
    documents = F.normalize(torch.tensor([[0.5, 0.75**0.5], [0.59, 0.8074], [0.62, 0.7846]]), dim=1)
    without_last = info_nce(queries, documents[:2], temperature=0.1).loss
    options = InfoNCEOptions(false_negative_margin=0.1)
    output = info_nce(queries, documents, temperature=0.1, options=options)
    torch.testing.assert_close(output.loss, without_last)
    assert means(output)["masked_false_negatives"] == 1
    assert info_nce(queries, documents, temperature=0.1).loss > without_last


def test_the_example_of_the_documentation():
    assert (
        doctest.testmod(trainers.contrastive.targets).attempted
        and not doctest.testmod(trainers.contrastive.targets).failed
    )


def test_own_list_and_source_restrict_negatives():
    queries, documents = pair(rows=3, extra=2)
    paired = ContrastiveTargets.paired(3, 5).positive
    owners, sources = torch.tensor([0, 1, 2, 1, 1]), torch.tensor([0, 0, 1, 0, 0])
    restricted = ContrastiveTargets(
        paired, source=IdPair(sources[:3], sources), own_list=IdPair(torch.tensor([-1, 1, -1]), owners)
    )
    negatives = restricted.masks(slice(0, 3)).negative
    assert negatives.int().tolist() == [[0, 1, 0, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]
    assert means(info_nce(queries, documents, restricted))["negatives"] == pytest.approx(5 / 3)


def test_without_negatives_there_is_nothing_to_learn():
    queries, documents = pair(rows=1)
    queries.requires_grad_()
    output = info_nce(queries, documents)
    output.loss.backward()
    assert output.loss == 0 and not queries.grad.any()
    assert math.isnan(means(output)["in_batch_accuracy"])


@pytest.mark.parametrize("processes", [2, 3])
def test_shards_of_rows_add_up_to_the_whole(processes):
    """What N processes do: own rows against everybody's, both directions, the sum of losses and of gradients."""
    rows = 7
    queries, documents = (tensor.requires_grad_() for tensor in pair(rows=rows, extra=4, **DOUBLE))
    temperature = torch.tensor(0.2, requires_grad=True, **DOUBLE)
    options = InfoNCEOptions(false_negative_margin=0.1, hardness=1.0)
    whole = both_directions(queries, documents, ContrastiveTargets.paired(rows, rows + 4), temperature, options)
    bounds = torch.linspace(0, rows, processes + 1).long().tolist()
    total, sums = 0, torch.zeros(7, **DOUBLE)
    for start, end in pairwise(bounds):
        own = slice(start, end)
        one = shard(end - start, rows + 4, start)
        forward = info_nce(queries[own], documents, one, temperature, options, num_items_in_batch=rows)
        other = shard(end - start, rows, start)
        backward = info_nce(documents[own], queries, other, temperature, options, num_items_in_batch=rows)
        total = total + (forward.loss + backward.loss) / 2
        sums = sums + forward.sums
    torch.testing.assert_close(total, whole.loss)
    torch.testing.assert_close(sums, whole.sums)
    inputs = (queries, documents, temperature)
    for ours, reference in zip(
        torch.autograd.grad(total, inputs), torch.autograd.grad(whole.loss, inputs), strict=True
    ):
        torch.testing.assert_close(ours, reference)


def test_a_process_without_rows_gets_a_zero_with_a_gradient():
    queries, documents = (tensor.requires_grad_() for tensor in pair(rows=3))
    output = info_nce(queries[:0], documents, ContrastiveTargets.paired(0, 3), num_items_in_batch=3)
    output.loss.backward()
    assert output.loss == 0 and not documents.grad.any()


def test_half_precision_and_autocast_are_computed_in_fp32():
    queries, documents = (tensor.bfloat16() for tensor in pair(rows=32))
    expected = info_nce(queries.float(), documents.float()).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(queries.requires_grad_(), documents).loss
    assert loss.dtype == torch.float32 and loss == expected
    loss.backward()
    assert queries.grad.dtype == torch.bfloat16


class Operations(TorchDispatchMode):
    """Notes every operation, and the elements of the largest tensor that any of them makes."""

    def __init__(self):
        super().__init__()
        self.names, self.largest = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        tensors = [tensor for tensor in tree_leaves(output) if isinstance(tensor, torch.Tensor)]
        self.names.append(func._schema.name)
        self.largest = max([self.largest, *(tensor.numel() for tensor in tensors)])
        return output


def test_no_gradients_are_made_where_none_are_wanted():
    queries, documents = (tensor.requires_grad_() for tensor in pair())
    with torch.no_grad(), Operations() as operations:
        output = info_nce(queries, documents)
    assert not output.loss.requires_grad and operations.names.count("aten::mm") == 1
    torch.testing.assert_close(output.loss, info_nce(queries, documents).loss)


def test_no_tensor_is_larger_than_a_block():
    rows = 512
    queries, documents = (tensor.requires_grad_() for tensor in pair(rows=rows))
    ids = torch.arange(rows) % 100
    targets = ContrastiveTargets(ContrastiveTargets.paired(rows, rows).positive, content=IdPair(ids, ids))
    options = InfoNCEOptions(false_negative_margin=0.1, matryoshka={4: 1.0, 8: 1.0}, pairs_per_block=2**14)
    with Operations() as operations:
        both_directions(queries, documents, targets, 0.03, options).loss.backward()
    assert operations.largest == 2**14


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ContrastiveTargets(IdPair(torch.tensor([0, 1, 9]), torch.arange(3)))}, "query 2 .* id 9"),
        ({"targets": ContrastiveTargets(IdPair(torch.arange(2), torch.arange(3)))}, r"positive.queries.* \(3,\)"),
        ({"targets": ContrastiveTargets(IdPair(torch.ones(3), torch.arange(3)))}, "float32"),
        ({"targets": shard(3, 3, 1)}, "query 2 .* id 3"),
        ({"queries": torch.zeros(3, 4)}, "query 0 has norm 0.0"),
        ({"documents": torch.full((3, 4), torch.nan)}, "document 0 has norm nan"),
        ({"documents": torch.ones(3, 5)}, r"\(3, 4\) and \(3, 5\)"),
        ({"temperature": 0.0}, "must be positive, got 0.0"),
        ({"temperature": torch.ones(2)}, r"one per query \(3\)"),
        ({"options": InfoNCEOptions(matryoshka={8: 1.0})}, "dimension 8 exceeds the 4"),
        ({"targets": ContrastiveTargets(IdPair(torch.arange(3), torch.tensor([0, -1, 2])))}, "query 1 .* id 1"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"queries": torch.ones(3, 4), "documents": torch.ones(3, 4)} | change
    with pytest.raises(ValueError, match=message):
        info_nce(**arguments)


@pytest.mark.parametrize(
    "options",
    [
        {"false_negative_margin": -0.1},
        {"hardness": -1.0},
        {"matryoshka": {}},
        {"matryoshka": {0: 1.0}},
        {"pairs_per_block": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        InfoNCEOptions(**options)
