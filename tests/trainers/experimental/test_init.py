"""What may be lost is known to nobody: the core imports no experiment."""

from pathlib import Path

import trainers.experimental
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
