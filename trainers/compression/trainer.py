"""Stage 1, compression: dialogues answered from the compression tokens alone, trained with the HF `Trainer`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch.utils.data import DataLoader
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import EvalLoopOutput

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.base import ComaTrainer
from trainers.compression.collator import ComaCompressionCollator
from trainers.compression.config import ComaCompressionConfig
from trainers.compression.evaluation import evaluate_compression
from trainers.compression.loss import answer_hits, answer_kl
from trainers.compression.token_similarity import TokenSimilarity
from trainers.log_lines import shows_bars
from trainers.samplers import LengthGroupedBatches


__all__ = ["ComaCompressionTrainer"]


class ComaCompressionTrainer(ComaTrainer):
    r"""
    Trains stage 1. The model's own forward computes the cross-entropy; here are the KL from the teacher, what is
    logged, and an evaluation that tells how much the compression tokens carry.

    Args:
        model (`str`, [`ComaForEmbedding`] or `PeftModel`):
            The model, or the name of its folder or on the Hub, which is then loaded in fp32.
        args ([`ComaCompressionConfig`], *optional*):
            Settings; the defaults of the stage by default.
        data_collator (`Callable`, *optional*):
            Rows to a batch; by default a [`ComaCompressionCollator`] as `args` say. Another may add `num_images` to be
            counted.
        train_dataset, eval_dataset, kwargs:
            As in [`~trainers.base.ComaTrainer`].
        processing_class ([`ComaProcessor`], *optional*):
            The processor, saved with every checkpoint; by default that of the model's folder.
        peft_config (`LoraConfig`, *optional*):
            Adapter to train, see `trainers.adapters.lora_config`; without one, all that is not frozen is trained.
        teacher ([`ComaForEmbedding`], *optional*):
            Teacher of the KL. With an adapter it is the model itself without the adapter.

    Raises:
        ValueError: for a KL without a teacher, and for FSDP or ZeRO-3 without gradient checkpointing.

    Example:

    ```python
    from trainers import ComaCompressionConfig, ComaCompressionTrainer, load_dialogues

    args = ComaCompressionConfig("stage-1", bf16=True, per_device_train_batch_size=16)
    trainer = ComaCompressionTrainer("my-coma", args, train_dataset=load_dialogues("dialogues.jsonl"))
    trainer.train()
    ```
    """

    config_class = ComaCompressionConfig
    collator_class = ComaCompressionCollator
    metric_names = ("loss", "answer_accuracy")
    stage = "compression"  # its name in the record of a training

    def __init__(
        self,
        model: str | ComaForEmbedding | PeftModel,
        args: ComaCompressionConfig | None = None,
        data_collator: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: ComaProcessor | None = None,
        *,
        peft_config: LoraConfig | None = None,
        teacher: ComaForEmbedding | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model,
            args,
            data_collator,
            train_dataset,
            eval_dataset,
            processing_class,
            peft_config=peft_config,
            **kwargs,
        )
        args = self.args
        if (self.is_fsdp_enabled or is_deepspeed_zero3_enabled()) and not _checkpoints(args):
            raise ValueError(
                "Set gradient_checkpointing: FSDP and ZeRO-3 free the weights of a layer after its backward pass, and "
                "only with checkpointing does a step go through each layer once."
            )
        if args.kl_weight > 0 and teacher is None and not isinstance(self.model, PeftModel):
            raise ValueError("kl_weight > 0 needs a teacher: train an adapter (peft_config), or pass `teacher`.")
        if teacher is not None:
            teacher = teacher.requires_grad_(False).eval()
            # Offloaded, or spread over devices, it is where it is to be.
            if not hasattr(teacher, "hf_device_map") and not any(weight.is_meta for weight in teacher.parameters()):
                teacher = teacher.to(self.accelerator.device)
        self.teacher = teacher
        if isinstance(self.data_collator, ComaCompressionCollator):  # that of evaluation stays as it is
            self.data_collator = self.data_collator.counting_images()
        self.token_similarity = TokenSimilarity()
        self.add_callback(self.token_similarity)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Weighted sum of cross-entropy and KL over the answer tokens of the whole optimizer step."""
        num_images = inputs.pop("num_images", 0)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        args, meter = self.args, self.meter
        loss = args.cross_entropy_weight * loss
        if args.kl_weight > 0:
            loss = loss + args.kl_weight * self._kl(inputs, outputs.answer_states, num_items_in_batch)
        if self.is_logging_step():
            labels = inputs["labels"][inputs["labels"] != -100]
            hits = answer_hits(outputs.answer_states, self.coma.get_output_embeddings(), labels)
            meter.add("answer_accuracy", hits.sum(), hits.numel())
        counts = (inputs["labels"] != -100).any()  # not the batch that stands for rows left out
        images = counts * num_images
        tokens = counts * (inputs["attention_mask"].sum() + inputs["dialogue_attention_mask"].sum())
        meter.add_rate("tokens_per_second", tokens)
        meter.add_rate("images_per_second", images)
        self.seen.add(images, tokens)
        return (loss, outputs) if return_outputs else loss

    def _kl(self, inputs: dict[str, Any], states: torch.Tensor, num_items: torch.Tensor | int | None) -> torch.Tensor:
        """Divergence of the answers from those of a teacher that sees the whole input."""
        head = self.coma.get_output_embeddings()
        with torch.no_grad():
            if self.teacher is not None:
                expected = self.teacher(**inputs, dialogue_view="full")
                teacher_head = self.teacher.get_output_embeddings()
            else:
                adapted = self.accelerator.unwrap_model(self.model)
                with _without_adapter(adapted):
                    expected = adapted(**inputs, dialogue_view="full")

                def teacher_head(states: torch.Tensor) -> torch.Tensor:
                    # The KL makes these logits a second time in the backward pass, when the adapter is back.
                    with _without_adapter(head):
                        return head(states)

        kl = answer_kl(states, expected.answer_states, head, teacher_head, self.args.kl_temperature, num_items)
        # Of a step, the parts of all its batches and processes add up; DDP will average the gradients.
        parts = 1 if num_items is None else self.accelerator.num_processes
        of_step = 0 if self.skipped_batches.is_empty else 1
        self.meter.add("kl", kl.detach(), of_step / (self.current_gradient_accumulation_steps * parts))
        return kl * parts

    def number_of_rows(self, batch: dict[str, Any]) -> int:
        """Rows of a batch that have something to be trained on."""
        return int((batch["labels"] != -100).any(dim=1).sum())

    def get_train_dataloader(self) -> DataLoader:
        """Batches of similar length if `train_sampling_strategy` is `group_by_length`, else as in `Trainer`."""
        if not self.args.groups_by_length:
            return super().get_train_dataloader()
        batches = LengthGroupedBatches(
            self._lengths(),
            self._train_batch_size,
            self.args.max_tokens_per_batch,
            num_processes=self.accelerator.num_processes,
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
        )
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            in_order=self.args.dataloader_in_order,
        )
        # Every process gets as many batches as the others, but not of as many rows. (Evaluation stays as it is.)
        even_batches, self.accelerator.even_batches = self.accelerator.even_batches, False
        loader = self.accelerator.prepare(loader)
        self.accelerator.even_batches = even_batches
        return loader

    def _lengths(self) -> np.ndarray:
        dataset, column = self.train_dataset.dataset, self.args.length_column_name
        if column not in getattr(dataset, "column_names", ()):
            raise ValueError(
                f"The train dataset has no column {column!r}; trainers.compression.lengths.add_lengths makes one."
            )
        return np.asarray(dataset[column][:])

    def _get_eval_sampler(self, eval_dataset: Any) -> None:
        """Rows are evaluated in their order, also where training groups them by length."""

    def evaluation_loop(
        self, dataloader: DataLoader, description: str, *args, metric_key_prefix: str = "eval", **kwargs
    ) -> EvalLoopOutput:
        """Loss per answer token: from the compression tokens, from those of another row, and from none at all."""
        model = self._wrap_model(self.model, training=False, dataloader=dataloader).eval()
        metrics, self.token_similarity.similarity, rows = evaluate_compression(
            self.accelerator.unwrap_model(model),
            dataloader,
            self.accelerator,
            description if shows_bars(self.args) else None,
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=rows)


@contextmanager
def _without_adapter(module: torch.nn.Module) -> Iterator[None]:
    """Switches the adapter of a module off. What of it was frozen is so again afterwards, which PEFT would thaw."""
    adapted = [part for part in module.modules() if isinstance(part, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    frozen = [weight for part in adapted for weight in part.parameters() if not weight.requires_grad]
    for part in adapted:
        part.enable_adapters(False)
    try:
        yield
    finally:
        for part in adapted:
            part.enable_adapters(True)
        for weight in frozen:
            weight.requires_grad_(False)


def _checkpoints(args: ComaCompressionConfig) -> bool:
    """Newer versions of transformers call it activation checkpointing."""
    names = ("activation_checkpointing", "gradient_checkpointing")
    return any(getattr(args, name, False) for name in names)
