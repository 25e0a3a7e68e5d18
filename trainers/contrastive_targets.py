"""The relations of a contrastive batch that is spread over processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainers.gather import gather_rows
from trainers.targets import ContrastiveTargets, IdPair


__all__ = ["BatchTargets"]


@dataclass(frozen=True, eq=False)
class BatchTargets:
    r"""
    Who is whose positive and negative, for the loss of one process.

    Args:
        queries ([`ContrastiveTargets`]):
            The queries of this process against the documents of all.
        documents ([`ContrastiveTargets`]):
            The documents of this process against the queries of all.
        num_rows (`int`):
            Rows of all processes.
    """

    queries: ContrastiveTargets
    documents: ContrastiveTargets
    num_rows: int

    @classmethod
    def of(cls, batch: dict[str, Any], same_source_negatives: bool = False) -> BatchTargets:
        """From a batch of [`ComaContrastiveCollator`] on each process."""
        num_rows, owners = len(batch["queries"]), batch["owners"]
        everywhere, offset = gather_rows(batch["groups"])
        rows = torch.arange(offset, offset + num_rows, device=owners.device)
        positive = torch.where(batch["groups"] < 0, rows, batch["groups"])  # a row alone is a group of its own
        is_positive = torch.arange(len(owners), device=owners.device) < num_rows
        query_ids = {
            "positive": positive,
            # Neither what equals its positive nor what equals the query itself can be its negative.
            "content": torch.stack([batch["document_keys"][:num_rows], batch["query_keys"]], dim=1),
            "source": batch["sources"],
            "own_list": torch.where(batch["restricted"], rows, -1),
        }
        document_ids = {
            "positive": torch.where(is_positive, positive[owners], -1),
            "content": batch["document_keys"],
            "source": batch["sources"][owners],
            "own_list": rows[owners],
        }
        if not same_source_negatives:
            del query_ids["source"]
        return cls(
            _relations(query_ids, {name: gather_rows(document_ids[name])[0] for name in query_ids}),
            _relations({n: document_ids[n] for n in query_ids}, {n: gather_rows(i)[0] for n, i in query_ids.items()}),
            len(everywhere),
        )


def _relations(queries: dict[str, torch.Tensor], documents: dict[str, torch.Tensor]) -> ContrastiveTargets:
    return ContrastiveTargets(**{name: IdPair(ids, documents[name]) for name, ids in queries.items()})
