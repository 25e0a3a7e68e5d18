"""A temperature of the contrastive loss that is trained beside the model, one for all rows or one per source."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from accelerate.utils import reduce
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from trainers.data.items import content_key


__all__ = ["TrainedTemperature"]

LOWEST = 0.01  # as in CLIP, whose logit scale is clipped at 100
ALL = "all"


class TrainedTemperature(TrainerCallback, ExportableState):
    r"""
    $\tau = e^t$ with one trained $t$ for all queries or one for each source; $\tau \ge 0.01$ as in CLIP (Radford et
    al. 2021, section 2.5). It belongs to the loss and not to the model: it is trained by the same optimizer and kept
    in the `trainer_state.json` of checkpoints, but is in no model folder.

    Args:
        value (`float`):
            Where it begins.
        sources (`Iterable[str]`, *optional*):
            Gives each of them its own.
        device (`torch.device`, *optional*):
            Where the embeddings are.
    """

    def __init__(
        self, value: float, sources: Iterable[str] | None = None, device: torch.device | str | None = None
    ) -> None:
        self.per_source = sources is not None
        self.names = sorted(sources, key=content_key) if self.per_source else [ALL]
        self.keys = torch.tensor([content_key(name) for name in self.names], device=device)
        logarithm = math.log(max(value, LOWEST))
        self.logarithm = torch.nn.Parameter(torch.full((len(self.names),), logarithm, device=device))

    def __call__(self, sources: torch.LongTensor) -> torch.Tensor:
        r"""
        Temperatures of some queries or documents.

        Args:
            sources (`torch.LongTensor` of shape `(num_rows,)`):
                Hashes of their sources, from [`ComaContrastiveCollator`].

        Returns:
            `torch.Tensor` of shape `(num_rows,)`.

        Raises:
            ValueError: for a source that has no temperature.
        """
        if not self.per_source:
            return self.logarithm.exp().expand(len(sources))
        numbers = torch.searchsorted(self.keys, sources.contiguous()).clamp(max=len(self.keys) - 1)
        if (self.keys[numbers] != sources).any():
            raise ValueError(f"A row is from none of the sources with a temperature, {sorted(self.names)}.")
        return self.logarithm.exp()[numbers]

    def values(self) -> dict[str, float]:
        """What is logged: `temperature`, or `temperature/SOURCE` for every source."""
        values = self.logarithm.detach().exp().tolist()
        if not self.per_source:
            return {"temperature": values[0]}
        return {f"temperature/{name}": value for name, value in zip(self.names, values, strict=True)}

    def state(self) -> dict[str, dict]:
        """The logarithms, which JSON holds exactly."""
        values = self.logarithm.tolist()
        return {"args": {}, "attributes": {"logarithms": dict(zip(self.names, values, strict=True))}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if state.global_step == 0:
            return
        saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {}).get("logarithms", {})
        if saved.keys() != set(self.names):
            raise ValueError(
                f"The checkpoint has temperatures of {sorted(saved)}, the training of {sorted(self.names)}."
            )
        with torch.no_grad():
            self.logarithm.copy_(torch.tensor([saved[name] for name in self.names]))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        if self.logarithm.grad is not None:  # there is none where all processes had no rows
            self.logarithm.grad = reduce(self.logarithm.grad, "mean")  # as DDP does for what is in the model

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        self.logarithm.grad = None  # also after a step that was left out because of an overflow
        with torch.no_grad():
            self.logarithm.clamp_(min=math.log(LOWEST))
