"""InfoNCE of a matrix of similarities as its formula says it, pair by pair, and random relations of a batch."""

import random

import torch

from trainers.contrastive.loss import InfoNCEOptions
from trainers.contrastive.targets import ContrastiveTargets, IdPair


DOUBLE = {"dtype": torch.float64}


class Relations:
    """Who is related to whom by each rule, as sets of Python."""

    def __init__(self, targets: ContrastiveTargets) -> None:
        self.ids = {
            name: tuple([set(ids) for ids in side.tolist()] for side in (rule.queries, rule.documents))
            for name, rule in targets.rules()
        }

    def related(self, rule: str, i: int, j: int) -> bool:
        queries, documents = self.ids[rule]
        return bool(queries[i] & documents[j])

    def may_be_negative(self, i: int, j: int) -> bool:
        for rule in {"source", "own_list"} & self.ids.keys():
            queries, documents = self.ids[rule]
            if queries[i] and documents[j] and not self.related(rule, i, j):
                return False
        return not self.related("positive", i, j)


def slow_losses(
    scores: torch.Tensor, targets: ContrastiveTargets, temperature: torch.Tensor, options: InfoNCEOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    """The formula of InfoNCE, pair by pair: losses of the queries that take part, and their statistics."""
    relations, values, losses, statistics = Relations(targets), scores.tolist(), [], []
    for i in range(len(scores)):
        if not relations.ids["positive"][0][i]:
            continue
        tau = temperature if temperature.dim() == 0 else temperature[i]
        documents = range(scores.shape[1])
        positives = [j for j in documents if relations.related("positive", i, j)]
        best = max(values[i][j] for j in positives)
        allowed = [j for j in documents if relations.may_be_negative(i, j)]
        negatives = [j for j in allowed if "content" not in relations.ids or not relations.related("content", i, j)]
        if options.false_negative_margin is not None:
            negatives = [j for j in negatives if values[i][j] <= best + options.false_negative_margin]
        logits = scores[i, negatives] / tau + options.hardness * scores[i, negatives].detach()
        terms = [
            torch.logsumexp(torch.cat([scores[i, p : p + 1] / tau, logits]), 0) - scores[i, p] / tau for p in positives
        ]
        losses.append(torch.stack(terms).mean())
        hardest = max((values[i][j] for j in negatives), default=None)
        mean = sum(values[i][p] for p in positives) / len(positives)
        contested = hardest is not None
        won = contested and best > hardest
        statistics.append([1, contested, won, mean, hardest or 0, len(negatives), len(allowed) - len(negatives)])
    return torch.stack(losses), torch.tensor(statistics, **DOUBLE).sum(0)


def random_positives(dice: random.Random, rows: int, documents: int) -> IdPair:
    """Every query has a positive, or takes no part; documents that nobody needs have no id."""
    kind = dice.choice(["paired", "groups", "lists"])
    if kind == "paired":
        queries, ids = torch.arange(rows), torch.arange(documents)
    elif kind == "groups":  # several queries and several documents may share an id
        queries = torch.randint(0, 3, (rows,))
        ids = torch.cat([queries, torch.randint(0, 3, (documents - rows,))])[torch.randperm(documents)]
    else:  # lists of one to three document numbers, in any column
        queries, ids = torch.randint(0, documents, (rows, 3)), torch.arange(documents)
        queries[torch.rand(rows, 3) < 0.5] = -1
        queries[:, 1] = torch.randint(0, documents, (rows,))
    if rows > 1 and dice.random() < 0.3:
        queries[0] = -1
    return IdPair(queries, ids.masked_fill(~torch.isin(ids, queries), -1))


def random_targets(dice: random.Random, rows: int, documents: int) -> ContrastiveTargets:
    """Any of the rules, each maybe."""

    def some_ids(kinds: int, *columns: int) -> IdPair | None:
        ids = torch.randint(-2, kinds, (rows, *columns)), torch.randint(-2, kinds, (documents,))
        return IdPair(*ids) if dice.random() < 0.4 else None

    positive = random_positives(dice, rows, documents)
    return ContrastiveTargets(positive, content=some_ids(6, 2), source=some_ids(2), own_list=some_ids(rows))
