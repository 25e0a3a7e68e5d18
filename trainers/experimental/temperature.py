"""The temperature of the contrastive loss: a constant, or trained beside the model, one for all or one per source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from trainers.data.items import content_key
from trainers.distributed import average_gradients


__all__ = ["Temperature", "TrainedTemperature"]

LOWEST = 0.01  # as in CLIP, whose logit scale is clipped at 100
ALL = "all"


class Temperature(torch.nn.Module):
    r"""
    $\tau = e^t$ with one trained $t$ for all queries or one for each source; $\tau \ge 0.01$ as in CLIP (Radford et
    al. 2021, section 2.5). It belongs to the loss and not to the model: it is trained by the same optimizer and saved
    in checkpoints, but is in no model folder.

    Args:
        value (`float`):
            Where it begins.
        sources (`Sequence[str]`, *optional*):
            Gives each of them its own.
        trained (`bool`, *optional*, defaults to `False`):
            Whether it receives a gradient.
    """

    def __init__(self, value: float, sources: Sequence[str] | None = None, trained: bool = False) -> None:
        super().__init__()
        if not value > 0:
            raise ValueError(f"The temperature must be positive, got {value}.")
        self.names = [ALL] if sources is None else sorted(sources, key=content_key)
        self.per_source, self.trained = sources is not None, trained
        self.logarithm = torch.nn.Parameter(torch.full((len(self.names),), math.log(value)), requires_grad=trained)
        self.register_buffer("keys", torch.tensor([content_key(name) for name in self.names]))

    def forward(self, sources: torch.LongTensor) -> torch.Tensor:
        r"""
        Temperatures of some queries or documents. Their gradient is the mean of those of all processes.

        Args:
            sources (`torch.LongTensor` of shape `(num_rows,)`):
                Hashes of their sources, from [`ComaContrastiveCollator`].

        Returns:
            `torch.Tensor` of shape `(num_rows,)`.

        Raises:
            ValueError: for a source that has no temperature.
        """
        if self.trained and torch.is_grad_enabled():
            with torch.no_grad():
                self.logarithm.clamp_(min=math.log(LOWEST))
        places = torch.zeros_like(sources)
        if self.per_source:
            places = torch.searchsorted(self.keys, sources).clamp(max=len(self.keys) - 1)
            if (self.keys[places] != sources).any():
                raise ValueError(f"A row is from none of the sources with a temperature, {sorted(self.names)}.")
        return average_gradients(self.logarithm).exp()[places]

    def values(self) -> dict[str, float]:
        """What is logged: `temperature`, or `temperature/SOURCE` for every source."""
        values = self.logarithm.detach().exp().tolist()
        return {
            f"temperature/{n}" if self.per_source else "temperature": v
            for n, v in zip(self.names, values, strict=True)
        }


class TrainedTemperature(TrainerCallback, ExportableState):
    """
    Lets a temperature take part in a training: clears its gradient after every step, as `Trainer` does for its model
    and for nothing else, and keeps its value in the `trainer_state.json` of checkpoints.

    Args:
        temperature ([`Temperature`]):
            What is trained.
    """

    def __init__(self, temperature: Temperature) -> None:
        self.temperature = temperature

    def state(self) -> dict[str, dict]:
        """The logarithms, which JSON holds exactly."""
        values = self.temperature.logarithm.tolist()
        return {"args": {}, "attributes": {"logarithms": dict(zip(self.temperature.names, values, strict=True))}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            return
        saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {}).get("logarithms", {})
        names = self.temperature.names
        if saved.keys() != set(names):
            raise ValueError(f"The checkpoint has temperatures of {sorted(saved)}, the training of {sorted(names)}.")
        with torch.no_grad():
            self.temperature.logarithm.copy_(torch.tensor([saved[name] for name in names]))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.temperature.zero_grad()  # also after a step that was left out because of an overflow
