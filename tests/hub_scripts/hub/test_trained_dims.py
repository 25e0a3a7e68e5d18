"""Embeddings are cut to what the record of the training says, and else only if somebody insists."""

import json
from pathlib import Path
from typing import Any

import pytest

from hub_scripts.hub.trained_dims import checked_dims, trained_budgets
from hub_scripts.hub.training_record import TRAINING_FILE


PLAIN = {"stage": "contrastive", "settings": {"temperature": 0.03}}
CUT = {"stage": "contrastive", "settings": {"matryoshka_dims": [32, 16]}}
FIRST = {"stage": "compression", "settings": {}}


def folder(tmp_path: Path, stages: list[dict[str, Any]] | None) -> str:
    if stages is not None:
        (tmp_path / TRAINING_FILE).write_text(json.dumps(stages))
    return str(tmp_path)


@pytest.mark.parametrize("stages", [[CUT], [FIRST, PLAIN, CUT], [CUT, FIRST]])
def test_what_was_trained_is_taken(tmp_path: Path, stages: list) -> None:
    name = folder(tmp_path, stages)
    assert [checked_dims(name, dims, 64) for dims in (16, 32, 64, None)] == [16, 32, 64, 64]
    with pytest.raises(ValueError, match=f"^{name} was trained for 16, 32, 64 dimensions, not for 8. Add --any-dims"):
        checked_dims(name, 8, 64)
    assert checked_dims(name, 8, 64, any_dims=True) == 8


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (None, "has no coma_training.json, which would say whether it was trained for 16 of its 64 dimensions. Add"),
        ([], "was trained without matryoshka_dims, for all its 64 dimensions, not for 16. Add"),
        ([FIRST], "was trained without"),
        ([CUT, PLAIN], "was trained without"),
        ([{"stage": "contrastive"}], "was trained without"),
        ([{"stage": "contrastive", "settings": {"matryoshka_dims": "16"}}], "was trained without"),
    ],
)
def test_what_was_not_is_refused(tmp_path: Path, stages: list | None, message: str) -> None:
    name = folder(tmp_path, stages)
    with pytest.raises(ValueError, match=message):
        checked_dims(name, 16, 64)
    assert checked_dims(name, None, 64) == checked_dims(name, 64, 64) == 64
    assert checked_dims(name, 16, 64, any_dims=True) == 16


def test_any_of_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give them, too"):
        checked_dims(str(tmp_path), None, 64, any_dims=True)


@pytest.mark.parametrize("dims", [0, -1, 65])
def test_what_there_is_not_is_refused_always(tmp_path: Path, dims: int) -> None:
    with pytest.raises(ValueError, match=f"dims={dims} is not from 1 to 64"):
        checked_dims(str(tmp_path), dims, 64, any_dims=True)


def test_budgets_are_those_of_the_last_contrastive_training(tmp_path: Path) -> None:
    nested = {"stage": "contrastive", "settings": {"late_interaction_budgets": [[1, 1], [2, 4]]}}
    for stages, expected in (([CUT, nested, FIRST], [[1, 1], [2, 4]]), ([nested, PLAIN], []), ([], []), (None, [])):
        (tmp_path / TRAINING_FILE).unlink(missing_ok=True)
        assert trained_budgets(folder(tmp_path, stages)) == expected
