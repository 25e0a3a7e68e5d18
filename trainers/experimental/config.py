"""Settings of stage 2, with those of the joint objective and of a trained temperature."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainers.contrastive.config import ComaContrastiveConfig
from trainers.ranges import AT_LEAST_0, POSITIVE, check_ranges


__all__ = ["ExperimentalContrastiveConfig"]


@dataclass
class ExperimentalContrastiveConfig(ComaContrastiveConfig):
    r"""
    Settings of stage 2 and of its experiments, for [`ExperimentalContrastiveTrainer`].

    Args:
        temperature_learning_rate (`float`, *optional*):
            Peak learning rate of the logarithm of the temperature, which is fixed by default.
        temperature_per_source (`bool`, *optional*, defaults to `False`):
            Trains a temperature for every `source`.
        joint_weight (`float`, *optional*, defaults to 0.0):
            Weight of the loss of stage 1 on the `messages` of rows that have any, which are about the query: its mean
            over the answer tokens of the batches of all processes.
        kwargs:
            As in [`ComaContrastiveConfig`].
    """

    temperature_learning_rate: float | None = field(default=None, metadata={"help": "Trains the temperature."})
    temperature_per_source: bool = field(default=False, metadata={"help": "Trains one temperature per source."})
    joint_weight: float = field(default=0.0, metadata={"help": "Weight of the stage-1 loss on `messages`."})

    def __post_init__(self) -> None:
        check_ranges(self, {"temperature_learning_rate": POSITIVE, "joint_weight": AT_LEAST_0})
        super().__post_init__()
        if self.temperature_per_source and self.temperature_learning_rate is None:
            raise ValueError("temperature_per_source needs a temperature_learning_rate: all begin equal.")

    def check_trainer(self, config_class: type) -> None:
        """Raises for a trainer that knows none of the experiments, where one is on."""
        if self.is_experimental and not issubclass(config_class, ExperimentalContrastiveConfig):
            raise ValueError(
                "joint_weight and temperature_learning_rate cannot act here: pass these settings to an "
                "ExperimentalContrastiveTrainer."
            )

    @property
    def is_experimental(self) -> bool:
        """Whether a setting is on that only [`ExperimentalContrastiveTrainer`] knows."""
        return self.joint_weight > 0 or self.temperature_learning_rate is not None
