"""The trainer of stage 2 with its experiments: dialogues beside pairs (joint objective), trained temperatures."""

from __future__ import annotations

from typing import Any

import torch

from trainers.contrastive.sources import every_source
from trainers.contrastive.trainer import ComaContrastiveTrainer
from trainers.experimental.config import ExperimentalContrastiveConfig
from trainers.experimental.joint import JointContrastiveCollator, PackedDialogues
from trainers.experimental.temperature import TrainedTemperature


__all__ = ["ExperimentalContrastiveTrainer"]


class ExperimentalContrastiveTrainer(ComaContrastiveTrainer):
    r"""
    Trains stage 2 as [`ComaContrastiveTrainer`] does, with a `joint_weight` the loss of stage 1 beside it, and with a
    `temperature_learning_rate` the temperature, too.

    Args:
        args, kwargs:
            As in [`ComaContrastiveTrainer`], with an [`ExperimentalContrastiveConfig`].

    Raises:
        ValueError: for rows without a source where temperatures are per source, and for a trained temperature where
            the engine (DeepSpeed, FSDP) keeps track of the parameters of the model only.
    """

    config_class = ExperimentalContrastiveConfig
    collator_class = JointContrastiveCollator

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trained_temperature: TrainedTemperature | None = None
        if self.args.temperature_learning_rate is None:
            return
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ValueError(
                "A temperature can be trained on one process or with DDP; fix it under DeepSpeed and FSDP."
            )
        sources = None
        if self.args.temperature_per_source:
            sources = set(every_source(self.train_dataset, "temperature_per_source"))
        self.trained_temperature = TrainedTemperature(self.args.temperature, sources, self.accelerator.device)
        self.add_callback(self.trained_temperature)

    @property
    def answers_dialogues(self) -> bool:
        """Whether the loss of stage 1 is beside that of stage 2."""
        return self.args.joint_weight > 0

    def temperature(self, sources: torch.LongTensor) -> torch.Tensor:
        """What divides the similarities of rows with these sources (hashes), `(num_rows,)`."""
        if self.trained_temperature is None:
            return super().temperature(sources)
        return self.trained_temperature(sources)

    def temperatures(self) -> dict[str, float]:
        """What is logged of the temperature."""
        return super().temperatures() if self.trained_temperature is None else self.trained_temperature.values()

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of `Trainer`, with the temperature where it is trained."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if self.trained_temperature is not None and is_new:
            learning_rate = self.args.temperature_learning_rate
            parameters = [self.trained_temperature.logarithm]
            optimizer.add_param_group({"params": parameters, "lr": learning_rate, "weight_decay": 0.0})
        return optimizer

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Where there is a `joint_weight`, the dialogues go first: it is the second backward that synchronises."""
        if self.args.joint_weight == 0:
            return super().training_step(model, inputs, num_items_in_batch)
        inputs = self._prepare_inputs(inputs)
        answer_loss = self._train_answers(model.train(), inputs.pop("dialogues", None))
        return super().training_step(model, inputs, num_items_in_batch) + answer_loss

    def _train_answers(self, model: torch.nn.Module, dialogues: PackedDialogues | None) -> torch.Tensor:
        """Forward and backward of the weighted loss of stage 1, one mini-batch at a time."""
        own = 0 if dialogues is None else dialogues.num_answer_tokens
        tokens = self.accelerator.reduce(torch.tensor(own, device=self.accelerator.device))
        scale = self.args.joint_weight * self.skipped_batches.weight * self.accelerator.num_processes
        scale /= self.current_gradient_accumulation_steps
        total = torch.zeros((), device=self.accelerator.device)
        if dialogues is not None:
            pad = self.processing_class.tokenizer.pad_token_id
            # Past the wrapper of DDP, which would wait for processes with fewer mini-batches or none. The gradients
            # stay here until the next backward through it.
            model = self.accelerator.unwrap_model(model)
            for batch in dialogues.mini_batches(self.args.mini_batch_tokens, pad):
                with self.compute_loss_context_manager():
                    loss = scale * model(**batch, num_items_in_batch=tokens).loss
                self.accelerator.backward(loss)
                total += loss.detach()
        self.meter.add("answer_loss", total * tokens / scale, own)
        return total
