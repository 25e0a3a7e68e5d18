"""What stage 2 minimises: InfoNCE of one vector and, with late interaction, of several states in nested budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from trainers.contrastive.budgets import budgets_of
from trainers.contrastive.loss import InfoNCEOptions, InfoNCEOutput, info_nce
from trainers.contrastive.targets import ContrastiveTargets


if TYPE_CHECKING:  # it loads the settings of the HF `Trainer`, and with them PEFT
    from modeling_coma import ComaConfig
    from trainers.contrastive.config import ComaContrastiveConfig


__all__ = ["ContrastiveObjective", "Search"]


class Search(NamedTuple):
    """
    Rows that look for others: queries for documents or, if both directions are trained, documents for queries.

    Args:
        looking (`torch.Tensor` of shape `(num_looking, 1 + num_states, hidden_size)`): the vector of each, its states.
        found (`torch.Tensor` of shape `(num_found, 1 + num_states, hidden_size)`): those among which they look.
        targets ([`ContrastiveTargets`]): who is whose positive.
        temperature (`torch.Tensor` of shape `(num_looking,)`): of each.
    """

    looking: torch.Tensor
    found: torch.Tensor
    targets: ContrastiveTargets
    temperature: torch.Tensor


class ContrastiveObjective:
    r"""
    The loss of one vector plus, for every budget $(q, t)$ of late interaction, its weight times InfoNCE over MaxSim of
    the first $q$ states of what looks and the first $t$ of what is found (MetaEmbed). Rules, temperature, hardness and
    margin are the same in all; Matryoshka dimensions are of the one vector, states keep all theirs.

    Args:
        args ([`ComaContrastiveConfig`]): the settings.
        config ([`ComaConfig`]): of the model.

    Raises:
        ValueError: for a budget of more states than the model has.
    """

    def __init__(self, args: ComaContrastiveConfig, config: ComaConfig) -> None:
        weights = args.late_interaction_weights
        self.budgets = budgets_of(args.late_interaction_budgets, weights, config.num_compression_tokens)
        self.num_states = max((max(budget[:2]) for budget in self.budgets), default=0)  # a row looks and is found
        cuts = args.matryoshka_dims or []
        self.num_dims = len({*cuts, config.hidden_size})  # that the loss of the vector is the sum of
        self.options = InfoNCEOptions(
            false_negative_margin=args.false_negative_margin,
            hardness=args.hardness,
            matryoshka=dict.fromkeys({*cuts, config.hidden_size}, 1.0) if cuts else None,
        )

    def __call__(self, searches: Sequence[Search]) -> InfoNCEOutput:
        """The mean of the summed losses of one direction or both, with the statistics of the first."""
        vector = self._part(searches, slice(0, 1), slice(0, 1), self.options)
        if not self.budgets:
            return vector
        loss, parts, options = vector.loss, {"vector": vector}, replace(self.options, matryoshka=None)
        for budget in self.budgets:
            part = self._part(searches, slice(1, 1 + budget.queries), slice(1, 1 + budget.documents), options)
            loss, parts[budget.name] = loss + budget.weight * part.loss, part
        return vector._replace(loss=loss, parts=parts)

    @staticmethod
    def _part(searches: Sequence[Search], looking: slice, found: slice, options: InfoNCEOptions) -> InfoNCEOutput:
        outputs = []
        for search in searches:
            sides = search.looking[:, looking], search.found[:, found]
            if looking.start == 0:
                sides = tuple(side[:, 0] for side in sides)
            outputs.append(info_nce(*sides, search.targets, search.temperature, options, 1))
        return outputs[0]._replace(loss=sum(output.loss for output in outputs) / len(outputs))
