"""The rows of an index that are nearest to a query.

In float32, float16 and int8 the query is compared with every row, a piece of the index at a time: exact, of vectors as
they are kept. In ubinary, signs come first: of the rows whose signs differ least from those of the query the best are
taken, `CANDIDATES` or twenty for each that is looked for, whichever is more, and those alone are compared in int8.

| read for every query | of a vector | of a million with 1,024 numbers |
|---|---|---|
| `float32`, `float16`, `int8`: all vectors | 4, 2 or 1 bytes a number | 4.1, 2.0, 1.0 GB |
| `ubinary`: all signs | 1/8 of a byte a number | 0.13 GB |
| and int8 of the candidates' row groups, 256 rows each | 1 byte a number | at most 0.1 GB |

Files are mapped: nothing of this needs to be in memory, only a piece of 2,048 rows; it is quick as long as the system
has memory for what is read for every query, and reads the disk each time where it has not.

Where rows have several vectors, the one vector chooses `CANDIDATES_OF_MAXSIM` rows, or ten for each that is looked
for, and MaxSim decides among these. Of several vectors, only the row groups of these are read, 64 rows each.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from hub_scripts.embedding.precision import bytes_of, cut_vectors
from hub_scripts.embedding.store import index_metadata, read_rows, rows_at
from trainers.encoding.maxsim import maxsim
from trainers.encoding.nearest import nearest_documents


__all__ = ["Hit", "Measure", "nearest", "nearest_by_maxsim", "nearest_numbers", "rows_of_hits"]

CANDIDATES = 400
CANDIDATES_OF_A_HIT = 20
CANDIDATES_OF_MAXSIM = 100
MAXSIM_CANDIDATES_OF_A_HIT = 10
BITS_AT_A_TIME = 16384

Measure = Literal["cosine", "maxsim", "likelihood"]


class Hit(NamedTuple):
    """
    A row of an index and its similarity to the query.

    Args:
        score (`float`): the cosine of the query, cut as the index is, in fp32, and the row as it is kept: in float32
            the cosine of the two embeddings itself, in float16 within 0.0005 of it; in int8, and in ubinary, which is
            scored in int8, mostly within 0.005: the error is that of the steps of the ranges. Of several vectors
            MaxSim, the mean over the query's of the cosine with the nearest of the row's. Reranked from memories the
            likelihood of the query, of [`~trainers.encoding.likelihood.answer_log_likelihoods`].
        row (`dict`): `row`, `id`, `text` and `image`.
        measure (`str`, *optional*, defaults to `"cosine"`): what the score is, `"cosine"`, `"maxsim"` or
            `"likelihood"`.
    """

    score: float
    row: dict[str, Any]
    measure: Measure = "cosine"


def nearest(path: Path, query: torch.Tensor, k: int) -> list[Hit]:
    """
    The rows whose vectors have the largest products with the query.

    Args:
        path (`Path`): an index, a file or a folder.
        query (`torch.FloatTensor` of shape `(dim,)`): the whole embedding of the query, on the CPU.
        k (`int`): how many; fewer if there are fewer rows.

    Returns:
        `list[Hit]`: best first; equal scores in the order of the rows.

    Raises:
        ValueError: if the index is damaged or has no rows, if numbers in it or in the query are not finite, or if the
            query has another number of dimensions than the model of the index.
    """
    return rows_of_hits(path, *nearest_numbers(path, query, k), "cosine")


def nearest_by_maxsim(path: Path, query: torch.Tensor, k: int, is_exact: bool = False) -> list[Hit]:
    """
    The rows whose several vectors are nearest to those of the query.

    Args:
        path (`Path`): an index, a file or a folder, with several vectors of each row.
        query (`torch.FloatTensor` of shape `(1 + num_vectors, dim)`): the whole embedding of the query, which chooses
            the candidates, and the vectors that are compared, on the CPU.
        k (`int`): how many; fewer if there are fewer rows.
        is_exact (`bool`, *optional*, defaults to `False`): whether every row is a candidate.

    Returns:
        `list[Hit]`: best first; equal scores in the order of the rows.

    Raises:
        ValueError: as [`nearest`].
    """
    _check(path, query)
    if is_exact:
        pieces = read_rows(path, ["vectors"])
    else:
        _, candidates = nearest_numbers(path, query[0], max(CANDIDATES_OF_MAXSIM, MAXSIM_CANDIDATES_OF_A_HIT * k))
        pieces = rows_at(path, np.sort(candidates), ["vectors"])
    found = [(rows.numbers, maxsim(query[None, 1:], rows.several_vectors())[0].numpy()) for rows in pieces]
    numbers, scores = (np.concatenate(side) for side in zip(*found, strict=True))
    best = np.argsort(-scores, kind="stable")[:k]
    return rows_of_hits(path, scores[best].tolist(), numbers[best], "maxsim")


def nearest_numbers(path: Path, query: torch.Tensor, k: int) -> tuple[list[float], np.ndarray]:
    """Scores and numbers of the rows that [`nearest`] looks for; arguments and raises as of it."""
    made = _check(path, query)
    query = torch.from_numpy(cut_vectors(query[None].numpy(), made["dims"]))
    if not torch.isfinite(query).all():
        raise ValueError(f"The first {made['dims']} numbers of the query, to which {path} is cut, are all 0.")
    if made["precision"] == "ubinary":
        candidates = _candidates(path, query.numpy(), max(CANDIDATES, CANDIDATES_OF_A_HIT * k))
        blocks = [(candidates, torch.cat([rows.vectors() for rows in rows_at(path, candidates, ["embedding"])]))]
    else:
        blocks = ((rows.numbers, rows.vectors()) for rows in read_rows(path, ["embedding"]))
    scores, numbers = nearest_documents(query, blocks, k)
    return scores[0].tolist(), numbers[0].numpy()


def _check(path: Path, query: torch.Tensor) -> dict[str, Any]:
    """The metadata of an index; a query, of one vector or several, must be finite, and of the model of the index."""
    if not torch.isfinite(query).all():
        raise ValueError("The embedding of the query has numbers that are not finite; try --dtype float32.")
    made = index_metadata(path)
    if query.shape[-1] != made["dim"]:
        raise ValueError(f"The query has {query.shape[-1]} dimensions, and the model of {path} {made['dim']}.")
    return made


def _candidates(path: Path, query: np.ndarray, depth: int) -> np.ndarray:
    """Numbers of the rows whose signs differ least from those of the query, rising; of equal ones the first."""
    signs = np.packbits(query > 0, axis=-1)
    numbers, differing = np.empty(0, np.int64), np.empty(0, np.uint32)
    for rows in read_rows(path, ["bits"], BITS_AT_A_TIME):
        found = _differing(bytes_of(rows.whole_column("bits")), signs)
        numbers, differing = np.concatenate([numbers, rows.numbers]), np.concatenate([differing, found])
        best = np.sort(np.argsort(differing, kind="stable")[:depth])
        numbers, differing = numbers[best], differing[best]
    return numbers


def _differing(signs: np.ndarray, of_query: np.ndarray) -> np.ndarray:
    """In how many signs each row differs from the query; eight bytes at once, where bytes come in eights."""
    word = np.uint64 if signs.shape[1] % 8 == 0 else np.uint8
    return np.bitwise_count(signs.view(word) ^ of_query.view(word)).sum(axis=1, dtype=np.uint32)


def rows_of_hits(path: Path, scores: list[float], numbers: np.ndarray, measure: Measure) -> list[Hit]:
    """What stands in the rows that were found, by their numbers, in that order."""
    found = {}
    for rows in rows_at(path, np.sort(numbers), ["row", "id", "text", "image"]):
        found |= dict(zip(rows.numbers.tolist(), rows.table.to_pylist(), strict=True))
    return [Hit(score, found[number], measure) for score, number in zip(scores, numbers.tolist(), strict=True)]
