"""To how many numbers embeddings may be cut and which budgets of states compared: what a model was trained for."""

from typing import Any

from hub_scripts.hub.training_record import TRAINING_FILE, read_training_record


__all__ = ["checked_dims", "trained_budgets"]


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


def _trained_dims(stages: list[dict[str, Any]]) -> list[int]:
    return [dims for dims in _last_setting(stages, "matryoshka_dims") if isinstance(dims, int)]


def _last_setting(stages: list[dict[str, Any]], name: str) -> list[Any]:
    """A list in the settings of the last contrastive training; an earlier one's are forgotten by then."""
    settings = [stage.get("settings") for stage in stages if stage["stage"] == "contrastive"]
    found = settings[-1].get(name) if settings and isinstance(settings[-1], dict) else None
    return found if isinstance(found, list) else []
