"""The temperature of the contrastive loss: a constant, or trained beside the model, one for all or one per source."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainers.contrastive_collator import content_key
from trainers.gather import average_gradients


__all__ = ["Temperature", "ZeroGradients"]

FILE = "temperature.json"  # in checkpoints, beside the state of the optimizer to which it belongs
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

    def save(self, folder: str | Path) -> None:
        """Writes the trained logarithms, which a JSON number holds exactly."""
        logarithms = dict(zip(self.names, self.logarithm.tolist(), strict=True))
        Path(folder, FILE).write_text(json.dumps({"logarithm_of_temperature": logarithms}, indent=2) + "\n")

    def load(self, folder: str | Path) -> None:
        """Reads what [`~Temperature.save`] has written."""
        if not Path(folder, FILE).exists():
            raise ValueError(
                f"{folder} has no {FILE}: its temperature was not trained, or the checkpoint is not whole."
            )
        logarithms = json.loads(Path(folder, FILE).read_text())["logarithm_of_temperature"]
        if logarithms.keys() != set(self.names):
            raise ValueError(
                f"{folder} has temperatures of {sorted(logarithms)}, the data are of {sorted(self.names)}."
            )
        with torch.no_grad():
            self.logarithm.copy_(torch.tensor([logarithms[name] for name in self.names]))


class ZeroGradients(TrainerCallback):
    """Clears the gradients of a module after every step, as `Trainer` does for those of its model and of no other."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """After a step, also one that was left out because of an overflow."""
        self.module.zero_grad()
