"""A frozen model gives the values that it gave. If a library moves them, this says which step moved first."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from hub_scripts.tiny.backbone import MODEL_TYPES
from tests.golden.frozen import GOLDEN, VERSIONS, build, sample, stages


TOLERANCE = 1e-4  # other processors and the supported versions of the libraries stay within


def first_move(found: Iterable[tuple[str, torch.Tensor]], golden: dict[str, Any]) -> str | None:
    """What moved first, how far, and which libraries are others than those of the recording; `None` if nothing did."""
    steps = [step for step in golden if step != "versions"]
    for step, (name, tensor) in zip(steps, found, strict=True):
        assert step == name, f"the steps are others than those recorded: {name} where {step} was"
        values, expected = torch.tensor(sample(tensor)).double(), torch.tensor(golden[step]).double()
        if values.shape != expected.shape:
            moved = f"{len(values)} numbers, were {len(expected)}"
        elif (difference := (values - expected).abs().max().item()) > TOLERANCE * max(1, expected.abs().max().item()):
            moved = f"by {difference:.2g}"
        else:
            continue
        then = golden["versions"]
        others = [f"{lib} {now}, was {then[lib]}" for lib, now in VERSIONS.items() if now != then[lib]]
        return f"{step} moved first: {moved} (steps before: {steps[: steps.index(step)]}; {others or 'same versions'})"
    return None


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_nothing_moved(name: str, tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / name / "values.json").read_text())
    moved = first_move(stages(*build(name, tmp_path)), golden)
    assert moved is None, moved


def other_colours(model, processor) -> None:
    processor.image_processor.image_mean = [0.4, 0.4, 0.4]


def other_vision(model, processor) -> None:
    next(model.backbone.model.visual.parameters()).data *= 1.05


def other_layer(model, processor) -> None:
    model.backbone.model.language_model.layers[1].mlp.down_proj.weight.data *= 1.05


def other_pooling(model, processor) -> None:
    model.config.pooling = "last"


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (other_colours, "pixels"),
        (other_vision, "vision features"),
        (other_layer, "layer 1"),
        (other_pooling, "embeddings"),
    ],
)
def test_the_first_step_that_moved_is_named(change, step: str, tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / "qwen2_5_vl" / "values.json").read_text())
    golden["versions"]["transformers"] = "5.0.0"
    model, processor = build("qwen2_5_vl", tmp_path)
    change(model, processor)
    moved = first_move(stages(model, processor), golden)
    assert moved.startswith(f"{step} moved first: by ") and "was 5.0.0" in moved


def test_the_frozen_files_are_small() -> None:
    assert sum(file.stat().st_size for file in GOLDEN.rglob("*.json")) < 200_000
