"""The loss of nested budgets is the formula, in value, gradients and statistics, whatever is combined with what."""

import random
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.trainers.contrastive.slow_info_nce import DOUBLE, random_targets, slow_losses
from trainers.contrastive.loss import InfoNCEOptions, info_nce
from trainers.contrastive.objective import ContrastiveObjective, Search


def objective_of(tokens: int = 4, dim: int = 5, **settings) -> ContrastiveObjective:
    names = ("late_interaction_budgets", "late_interaction_weights", "matryoshka_dims", "false_negative_margin")
    args = SimpleNamespace(**{**dict.fromkeys(names), "hardness": 0.0, **settings})
    return ContrastiveObjective(args, SimpleNamespace(num_compression_tokens=tokens, hidden_size=dim))


def slow_maxsim(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """All cosines of states at once."""
    cosines = torch.einsum("nqd,mtd->nmqt", F.normalize(queries, dim=2), F.normalize(documents, dim=2))
    return cosines.amax(dim=3).mean(dim=2)


def random_case(seed: int) -> tuple[ContrastiveObjective, list[Search], tuple[torch.Tensor, ...]]:
    dice = random.Random(seed)
    torch.manual_seed(seed)
    rows, tokens, dim = dice.randint(1, 3), dice.randint(1, 4), dice.randint(2, 5)
    documents = rows + dice.randint(0, 2)
    sides = [sorted(dice.randint(1, tokens) for _ in range(2)) for _ in range(2)]
    budgets = [list(budget) for budget in dict.fromkeys(zip(*sides, strict=True))]
    objective = objective_of(
        tokens,
        dim,
        late_interaction_budgets=budgets,
        late_interaction_weights=dice.choice([None, [0.5, 2.0][: len(budgets)]]),
        matryoshka_dims=dice.choice([None, [1]]),
        false_negative_margin=dice.choice([None, 0.0, 0.1]),
        hardness=dice.choice([0.0, 2.0]),
    )
    object.__setattr__(objective.options, "pairs_per_block", dice.choice([1, 40, 10**6]))
    sizes = (rows, 1 + objective.num_states, dim), (documents, 1 + objective.num_states, dim)
    looking, found = (torch.randn(*size, **DOUBLE, requires_grad=True) for size in sizes)
    temperature = (torch.rand(rows, **DOUBLE) + 0.1).requires_grad_()
    targets = random_targets(dice, rows, documents)
    searches = [Search(looking, found, targets, temperature)]
    if dice.random() < 0.5:
        searches.append(Search(found, looking, targets.transposed(), temperature.mean().expand(documents)))
    return objective, searches, (looking, found, temperature)


def slow_objective(objective: ContrastiveObjective, searches: list[Search]) -> tuple[torch.Tensor, dict]:
    """The weighted sum of the means over directions, and by name of a part its loss and its statistics."""
    options, dim = objective.options, searches[0].looking.shape[2]
    views = [("vector", 1.0, slice(0, 1), slice(0, 1), cut) for cut in sorted(options.matryoshka or {dim: 1.0})]
    for q, t, weight in objective.budgets:
        views.append((f"{q}x{t}", weight, slice(1, 1 + q), slice(1, 1 + t), dim))
    total, parts = torch.zeros((), **DOUBLE), {}
    for name, weight, of_looking, of_found, cut in views:
        losses = []
        for search in searches:
            scores = slow_maxsim(search.looking[:, of_looking, :cut], search.found[:, of_found, :cut])
            loss, sums = slow_losses(scores, search.targets, search.temperature, options)
            losses.append(loss.sum())
            if len(losses) == 1:
                statistics = sums
        loss = sum(losses) / len(losses)
        total = total + weight * loss
        parts[name] = parts.get(name, (0, 0))[0] + loss, statistics
    return total, parts


@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(40, 300), marks=pytest.mark.slow)])
def test_equals_the_formula_in_value_gradients_and_statistics(seeds: range) -> None:
    for seed in seeds:
        objective, searches, inputs = random_case(seed)
        expected, parts = slow_objective(objective, searches)
        output = objective(searches)
        torch.testing.assert_close(output.loss, expected, rtol=1e-9, atol=1e-9, msg=f"seed {seed}")
        for name, (loss, sums) in parts.items():
            part = output.parts[name]
            torch.testing.assert_close((part.loss, part.sums), (loss, sums), msg=f"seed {seed}, {name}")
        assert output.parts.keys() == parts.keys()
        gradients, references = (torch.autograd.grad(loss, inputs) for loss in (output.loss, expected))
        for found, reference in zip(gradients, references, strict=True):
            torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-9, msg=f"seed {seed}")


def test_without_budgets_there_is_one_vector_and_no_state() -> None:
    objective = objective_of()
    looking, found = torch.randn(3, 1, 5), torch.randn(4, 1, 5)
    targets = random_targets(random.Random(0), 3, 4)
    output = objective([Search(looking, found, targets, torch.full((3,), 0.1))])
    assert objective.num_states == 0 and not output.parts
    assert output.loss == info_nce(looking[:, 0], found[:, 0], targets, 0.1, num_items_in_batch=1).loss


def test_a_budget_of_more_states_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has \[2, 5\], but the model has 4 compression tokens.*lower it"):
        objective_of(late_interaction_budgets=[[1, 1], [2, 5]])


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that any operation makes."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        tensors = [tensor for tensor in tree_leaves(output) if isinstance(tensor, torch.Tensor)]
        self.size = max([self.size, *(tensor.numel() for tensor in tensors)])
        return output


def test_no_tensor_is_larger_than_a_block() -> None:
    """All cosines of states would be 128 times as many, all of the states' best ones four times."""
    queries, documents = torch.randn(128, 8, 4, requires_grad=True), torch.randn(128, 16, 4, requires_grad=True)
    with Largest() as largest:
        info_nce(queries, documents, options=InfoNCEOptions(pairs_per_block=2**14)).loss.backward()
    assert largest.size == 2**14
