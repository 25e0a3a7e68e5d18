"""Budgets of late interaction: how many states of what looks and of what is found are compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from trainers.ranges import COUNT, POSITIVE


__all__ = ["Budget", "budgets_of", "checked_budgets"]

WORDS = "pairs of whole numbers from 1, the states of a query and of a document, as 2x4 or [2, 4]"


class Budget(NamedTuple):
    """
    The first states of both sides of a search that are compared.

    Args:
        queries (`int`): of what looks.
        documents (`int`): of what is found.
        weight (`float`): of its loss.
    """

    queries: int
    documents: int
    weight: float

    @property
    def name(self) -> str:
        """In the log."""
        return f"{self.queries}x{self.documents}"


def checked_budgets(budgets: Any, weights: Any) -> list[list[int]] | None:
    """
    The setting `late_interaction_budgets`, of words or pairs, as pairs.

    Raises:
        ValueError: for no budgets, for one that is no pair of counts or does not rise above the one before, and for
            weights that do not fit.
    """
    if budgets is None:
        if weights is not None:
            raise ValueError(f"late_interaction_weights={weights!r} need late_interaction_budgets: give them, too.")
        return None
    if not isinstance(budgets, (list, tuple)) or not budgets:
        raise ValueError(f"late_interaction_budgets must be {WORDS}, or be left out; got {budgets!r}.")
    pairs = [_pair(budget) for budget in budgets]
    for before, after in zip(pairs, pairs[1:], strict=False):
        if before == after or before[0] > after[0] or before[1] > after[1]:
            raise ValueError(
                f"late_interaction_budgets must rise, since each is a part of the next: {after} cannot follow "
                f"{before}. Leave one out, or give them in order."
            )
    if weights is not None and (len(weights) != len(pairs) or not all(map(POSITIVE.holds, weights))):
        raise ValueError(
            f"late_interaction_weights must be a number above 0 for each of the {len(pairs)} budgets, got {weights!r}."
        )
    return pairs


def _pair(budget: Any) -> list[int]:
    if isinstance(budget, str) and (found := re.fullmatch(r"(\d+)x(\d+)", budget.strip())):
        budget = [int(number) for number in found.groups()]
    if not isinstance(budget, (list, tuple)) or len(budget) != 2 or not all(map(COUNT.holds, budget)):
        raise ValueError(f"late_interaction_budgets must be {WORDS}; got {budget!r}.")
    return list(budget)


def budgets_of(pairs: Sequence[Sequence[int]] | None, weights: Sequence[float] | None, tokens: int) -> list[Budget]:
    """
    Checked budgets for a model with so many compression tokens.

    Raises:
        ValueError: for a budget of more.
    """
    for pair in pairs or []:
        if max(pair) > tokens:
            raise ValueError(
                f"late_interaction_budgets has {list(pair)}, but the model has {tokens} compression tokens, so many "
                "states at most: lower it, or begin with a model that has more (num_compression_tokens in stage 1)."
            )
    weights = weights or [1.0] * len(pairs or [])
    return [Budget(*pair, weight) for pair, weight in zip(pairs or [], weights, strict=True)]
