"""What may be lost is known to nobody: the core imports no experiment."""

from collections.abc import Callable
from pathlib import Path

import pytest

import trainers.experimental
from trainers.contrastive import ComaContrastiveTrainer
from trainers.experimental import ExperimentalContrastiveConfig


ROOT = Path(trainers.experimental.__file__).parent


def test_the_core_knows_no_experiment() -> None:
    core = [path for path in ROOT.parent.rglob("*.py") if ROOT not in path.parents]
    assert len(core) > 30
    assert not [path for path in core if "trainers.experimental" in path.read_text(encoding="utf-8")]


def test_it_says_whether_it_is_asked_for() -> None:
    assert not ExperimentalContrastiveConfig(use_cpu=True).is_experimental
    assert ExperimentalContrastiveConfig(use_cpu=True, joint_weight=0.1).is_experimental
    assert ExperimentalContrastiveConfig(use_cpu=True, temperature_learning_rate=0.1).is_experimental


@pytest.mark.parametrize("setting", ["joint_weight", "temperature_learning_rate"])
def test_its_settings_act_or_are_refused(
    setting: str, make_coma: Callable, contrastive_rows: Callable, tmp_path: Path
) -> None:
    model, processor = make_coma()
    data = {"train_dataset": contrastive_rows("text", 2), "processing_class": processor}
    args = ExperimentalContrastiveConfig(tmp_path, use_cpu=True, report_to="none", **{setting: 0.1})
    with pytest.raises(ValueError, match="cannot act here: pass these settings to an ExperimentalContrastiveTrainer"):
        ComaContrastiveTrainer(model, args, **data)
    ComaContrastiveTrainer(model, ExperimentalContrastiveConfig(tmp_path, use_cpu=True, report_to="none"), **data)
