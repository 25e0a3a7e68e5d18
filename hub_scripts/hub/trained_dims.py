"""To how many numbers embeddings may be cut, which budgets of states compared, whether a memory answers: what a model
was trained for."""

import re
from collections.abc import Iterable
from typing import Any

from hub_scripts.hub.training_record import TRAINING_FILE, read_training_record


__all__ = ["check_memory", "checked_budgets", "checked_dims", "trained_budgets"]


def checked_dims(name: str, dims: int | None, dim: int, any_dims: bool = False) -> int:
    """
    Checks that embeddings cut to some dimensions are what a model was trained for.

    Args:
        name (`str`): of the model: a folder, or a repository on the Hub.
        dims (`int`, *optional*): how many of the first numbers are to be kept; by default all.
        dim (`int`): numbers of an embedding of the model.
        any_dims (`bool`, *optional*, defaults to `False`): whether to cut as well where it was not trained for that.

    Returns:
        `int`: how many are to be kept.

    Raises:
        ValueError: if it was not, with the dimensions that it was trained for, or if there is no record.
    """
    if any_dims and dims is None:
        raise ValueError("--any-dims (any_dims=True) says that --dims N may be any: give them, too.")
    dims = dim if dims is None else dims
    if not 1 <= dims <= dim:
        raise ValueError(f"dims={dims} is not from 1 to {dim}, the numbers of an embedding of {name}.")
    if any_dims or dims == dim:
        return dims
    stages = read_training_record(name)
    trained = _trained_dims(stages or [])
    if dims in trained:
        return dims
    if trained:
        why = f"{name} was trained for {', '.join(map(str, sorted({*trained, dim})))} dimensions, not for {dims}"
    elif stages is None:
        why = (
            f"{name} has no {TRAINING_FILE}, which would say whether it was trained for {dims} of its {dim} dimensions"
        )
    else:
        why = f"{name} was trained without matryoshka_dims, for all its {dim} dimensions, not for {dims}"
    raise ValueError(f"{why}. Add --any-dims (any_dims=True) to cut its embeddings all the same.")


def checked_budgets(
    name: str, budgets: Iterable[int | str], num_states: int, any_vectors: bool = False
) -> list[tuple[int, int]]:
    """
    Checks that several vectors of an input are what a model was trained for.

    Args:
        name (`str`): of the model: a folder, or a repository on the Hub.
        budgets (`Iterable[int or str]`): how many states of a document are compared: with as many of a query as in the
            training, or as "2x4" says, with two.
        num_states (`int`): compression tokens of the model.
        any_vectors (`bool`, *optional*, defaults to `False`): whether to compare as well where it was not trained for
            that, of both sides as many where nothing is said.

    Returns:
        `list[tuple[int, int]]`: states of a query and of a document.

    Raises:
        ValueError: if it was not, with the budgets that it was trained for, or if it has not as many states.
    """
    trained = [tuple(budget) for budget in trained_budgets(name)]
    return [_checked_budget(name, str(budget), num_states, any_vectors, trained) for budget in budgets]


def _checked_budget(
    name: str, budget: str, num_states: int, any_vectors: bool, trained: list[tuple[int, int]]
) -> tuple[int, int]:
    found = re.fullmatch(r"(?:(\d+)x)?(\d+)", budget.strip())
    pair = tuple(int(number or 0) for number in found.groups()) if found else (0, 0)
    if not found or found[1] == "0" or not 1 <= max(pair) <= num_states or not pair[1]:
        most = f"{num_states}, the compression tokens of {name}"
        raise ValueError(f"vectors={budget!r} is neither a number from 1 to {most}, nor two of them, as 2x4.")
    fitting = [known for known in trained if known == pair or (not pair[0] and known[1] == pair[1])]
    if fitting:
        return fitting[-1]
    if any_vectors:
        return pair[0] or pair[1], pair[1]
    known = ", ".join(f"{queries}x{documents}" for queries, documents in trained)
    why = f"was trained for {known} vectors" if known else "has no record of a training with late_interaction_budgets"
    raise ValueError(
        f"{name} {why}, not for {budget}. Add --any-vectors (any_vectors=True) to take them all the same."
    )


def trained_budgets(name: str) -> list[list[int]]:
    """
    The budgets of late interaction that a model was trained for, in its last contrastive training.

    Args:
        name (`str`): of the model: a folder, or a repository on the Hub.

    Returns:
        `list[list[int]]`: states of a query and of a document, smaller budgets first; none, if it was trained for none
        or there is no record.
    """
    return _last_setting(read_training_record(name) or [], "late_interaction_budgets")


def check_memory(name: str, any_memory: bool = False) -> None:
    """
    Checks that a model was trained to answer from its memory: in stage 1, or in stage 2 with a `joint_weight`.

    Args:
        name (`str`): of the model: a folder, or a repository on the Hub.
        any_memory (`bool`, *optional*, defaults to `False`): whether its memory will do where it was not, as well.

    Raises:
        ValueError: if it was not, or if there is no record.
    """
    stages = read_training_record(name)
    settings = [stage["settings"] for stage in stages or [] if isinstance(stage.get("settings"), dict)]
    was_trained = any(stage["stage"] == "compression" for stage in stages or [])
    if any_memory or was_trained or any(its.get("joint_weight") for its in settings):
        return
    why = f"has no {TRAINING_FILE}, which would say so" if stages is None else "has no stage 1 in its record"
    raise ValueError(
        f"{name} {why}: it may not be able to answer from its memory. Train it by `coma pretrain`, or add "
        "--any-memory (any_memory=True) to keep its memory all the same."
    )


def _trained_dims(stages: list[dict[str, Any]]) -> list[int]:
    return [dims for dims in _last_setting(stages, "matryoshka_dims") if isinstance(dims, int)]


def _last_setting(stages: list[dict[str, Any]], name: str) -> list[Any]:
    """A list in the settings of the last contrastive training; an earlier one's are forgotten by then."""
    settings = [stage.get("settings") for stage in stages if stage["stage"] == "contrastive"]
    found = settings[-1].get(name) if settings and isinstance(settings[-1], dict) else None
    return found if isinstance(found, list) else []
