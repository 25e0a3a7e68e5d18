"""What the core does not need and may lose: the joint objective and trained temperatures, for stage 2."""

from trainers._lazy import lazy


_MODULES = {
    "ExperimentalContrastiveConfig": "config",
    "ExperimentalContrastiveTrainer": "trainer",
    "JointContrastiveCollator": "joint",
    "TrainedTemperature": "temperature",
}
__all__ = [
    "ExperimentalContrastiveConfig",
    "ExperimentalContrastiveTrainer",
    "JointContrastiveCollator",
    "TrainedTemperature",
]
__getattr__, __dir__ = lazy(__name__, _MODULES)
