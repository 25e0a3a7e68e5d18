"""What the geometry of embeddings tells: closeness of pairs, spread on the sphere, likeness of compression tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F


__all__ = ["alignment", "anisotropy", "effective_rank", "token_similarity", "uniformity"]

CHUNK = 1024  # rows whose distances to all others are alive at one time


def alignment(queries: torch.Tensor, documents: torch.Tensor) -> float:
    r"""
    $\frac{1}{N} \sum_i \lVert q_i - d_i \rVert^2$ (Wang and Isola 2020): how close pairs are; 0 is best.

    Args:
        queries, documents (`torch.Tensor` of shape `(num_pairs, dim)`): embeddings, row by row a pair.

    Raises:
        ValueError: for other shapes.
    """
    if queries.shape != documents.shape or queries.ndim != 2 or not len(queries):
        raise ValueError(
            f"Pairs have the shape (num_pairs, dim) on both sides, not {queries.shape}, {documents.shape}."
        )
    pairs = zip(queries.split(CHUNK), documents.split(CHUNK), strict=True)
    return sum(_unit(q).sub(_unit(d)).square().sum().item() for q, d in pairs) / len(queries)


def uniformity(embeddings: torch.Tensor, scale: float = 2.0) -> float:
    r"""
    $\log \frac{1}{N (N - 1)} \sum_{i \ne j} e^{-t \lVert x_i - x_j \rVert^2}$ (Wang and Isola 2020): how evenly
    embeddings cover the sphere. 0 is all in one place, lower is better; memory grows with N, time with N².

    Args:
        embeddings (`torch.Tensor` of shape `(num_rows, dim)`): at least two.
        scale (`float`, *optional*, defaults to 2.0): t.

    Raises:
        ValueError: for fewer than two rows.
    """
    unit = _several(embeddings)
    total = 0.0
    for rows in unit.split(CHUNK):
        squared = (2 - 2 * rows @ unit.T).clamp(min=0)
        total += torch.exp(-scale * squared).sum(dtype=torch.float64).item()
    number = len(unit)
    return float(torch.tensor((total - number) / (number * (number - 1)), dtype=torch.float64).log())


def anisotropy(embeddings: torch.Tensor) -> float:
    r"""
    Mean cosine of two different rows, $(\lVert \sum_i x_i \rVert^2 - N) / (N (N - 1))$: 1 is a collapse, 0 is none.

    Args:
        embeddings (`torch.Tensor` of shape `(num_rows, dim)`): at least two.

    Raises:
        ValueError: for fewer than two rows.
    """
    unit = _several(embeddings).double()
    return ((unit.sum(dim=0).square().sum() - len(unit)) / (len(unit) * (len(unit) - 1))).item()


def effective_rank(embeddings: torch.Tensor) -> float:
    r"""
    $e^{-\sum_k p_k \log p_k}$ with $p_k$ the share of the k-th singular value (Roy and Vetterli 2007): how many
    dimensions are in use, from 1 to `dim`.

    Args:
        embeddings (`torch.Tensor` of shape `(num_rows, dim)`): at least two.

    Raises:
        ValueError: for fewer than two rows.
    """
    values = torch.linalg.svdvals(_several(embeddings))
    share = values / values.sum()
    return torch.exp(torch.special.entr(share).sum()).item()


def token_similarity(states: torch.Tensor) -> torch.Tensor:
    """
    Mean cosine of the compression tokens of a row to each other (paper, figure 3).

    Args:
        states (`torch.Tensor` of shape `(num_rows, K, dim)`): `compression_states` of the model.

    Returns:
        `torch.Tensor` of shape `(K, K)`
    """
    unit = _unit(states)
    return torch.einsum("nkd,nld->kl", unit, unit) / len(unit)


def _several(embeddings: torch.Tensor) -> torch.Tensor:
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ValueError(f"Needed are embeddings (num_rows, dim) of two rows or more, not {tuple(embeddings.shape)}.")
    return _unit(embeddings)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return F.normalize(vectors.float(), dim=-1)
