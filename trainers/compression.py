"""Stage 1, compression: dialogues answered from the compression tokens alone, trained with the HF `Trainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch.utils.data import DataLoader
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import EvalLoopOutput

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.callbacks import TokenSimilarity
from trainers.compression_collator import ComaCompressionCollator
from trainers.compression_evaluation import evaluate_compression
from trainers.losses import Head, answer_hits, answer_kl
from trainers.ranges import AT_LEAST_0, COUNT, POSITIVE, check_ranges
from trainers.samplers import LengthGroupedBatches
from trainers.skipped_batches import SkippingTrainer
from trainers.training_config import ComaTrainingArguments


__all__ = ["ComaCompressionCollator", "ComaCompressionConfig", "ComaCompressionTrainer"]

RANGES = {
    **dict.fromkeys(("dialogue_max_length", "max_tokens_per_batch"), COUNT),
    **dict.fromkeys(("cross_entropy_weight", "kl_weight"), AT_LEAST_0),
    "kl_temperature": POSITIVE,
}


@dataclass
class ComaCompressionConfig(ComaTrainingArguments):
    r"""
    Settings of stage 1. Where they differ from `TrainingArguments`, the defaults are the official recipe.

    Args:
        > What is trained

        freeze_vision (`bool`, *optional*, defaults to `True`):
            Freezes the vision tower.
        train_merger (`bool`, *optional*, defaults to `False`):
            Trains the merger of the vision tower nevertheless.

        > Data

        max_length (`int`, *optional*):
            Limit of an input in tokens; text beyond it is cut. The processor's own limit by default.
        dialogue_max_length (`int`, *optional*, defaults to 8192):
            Limit of a dialogue in tokens; turns beyond it are left out and counted.
        compression_instruction (`bool`, *optional*, defaults to `True`):
            Whether the processor's instruction stands before the compression tokens.
        max_tokens_per_batch (`int`, *optional*):
            Budget of a batch in tokens, padding included, beside its `per_device_train_batch_size` rows at most.
        length_column (`str`, *optional*):
            Column with the tokens of each row, as `trainers.lengths.add_lengths` makes it, for batches of similar
            length.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave bad rows out and count them.

        > Loss

        cross_entropy_weight (`float`, *optional*, defaults to 1.0):
            Weight of the cross-entropy of the answers.
        kl_weight (`float`, *optional*, defaults to 0.0):
            Weight of the divergence from the uncompressed teacher.
        kl_temperature (`float`, *optional*, defaults to 1.0):
            Temperature of both distributions in it.
    """

    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the data."})
    dialogue_max_length: int = field(default=8192, metadata={"help": "Limit of a dialogue in tokens."})
    compression_instruction: bool = field(default=True, metadata={"help": "Instruction before the tokens."})
    max_tokens_per_batch: int | None = field(default=None, metadata={"help": "Token budget of a batch."})
    length_column: str | None = field(default=None, metadata={"help": "Column with the tokens of each row."})

    cross_entropy_weight: float = field(default=1.0, metadata={"help": "Weight of the cross-entropy."})
    kl_weight: float = field(default=0.0, metadata={"help": "Weight of the KL from the uncompressed teacher."})
    kl_temperature: float = field(default=1.0, metadata={"help": "Temperature of the KL."})

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        super().__post_init__()
        if self.cross_entropy_weight == 0 and self.kl_weight == 0:
            raise ValueError("Nothing to train: cross_entropy_weight and kl_weight are both 0.")
        if self.kl_weight == 0 and self.kl_temperature != 1.0:
            raise ValueError("kl_temperature cannot act without a kl_weight. Give one, or leave it out.")
        if self.bf16_full_eval or self.fp16_full_eval:
            raise ValueError(
                "bf16_full_eval and fp16_full_eval cannot act here: stage 1 is evaluated in the precision that it is "
                "trained in. Leave them out."
            )
        if self.max_tokens_per_batch is not None and self.length_column is None:
            raise ValueError("max_tokens_per_batch needs a length_column; trainers.lengths.add_lengths makes one.")
        if self.length_column is not None and (self.dataloader_drop_last or self.train_sampling_strategy != "random"):
            raise ValueError(
                "dataloader_drop_last and train_sampling_strategy cannot act beside a length_column: batches of "
                "similar length have an order of their own, in which every row comes. Leave them out."
            )


class ComaCompressionTrainer(SkippingTrainer):
    r"""
    Trains stage 1. The model's own forward computes the cross-entropy; here are the KL from the teacher, what is
    logged, and an evaluation that tells how much the compression tokens carry.

    Args:
        model ([`ComaForEmbedding`] or `PeftModel`):
            The model.
        args ([`ComaCompressionConfig`]):
            Settings.
        processing_class ([`ComaProcessor`]):
            The processor, saved with every checkpoint.
        peft_config (`LoraConfig`, *optional*):
            Adapter to train, see `trainers.lora.lora_config`; without one, all that is not frozen is trained.
        teacher ([`ComaForEmbedding`], *optional*):
            Teacher of the KL. With an adapter it is the model itself without the adapter.
        kwargs:
            As in `Trainer`: `train_dataset`, `eval_dataset`, `data_collator`, `callbacks`, …

    Raises:
        ValueError: for a KL without a teacher, and for FSDP or ZeRO-3 without gradient checkpointing.
    """

    def __init__(
        self,
        model: ComaForEmbedding,
        args: ComaCompressionConfig,
        processing_class: ComaProcessor,
        peft_config: LoraConfig | None = None,
        teacher: ComaForEmbedding | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("data_collator") is None:
            kwargs["data_collator"] = ComaCompressionCollator(
                processing_class,
                args.max_length,
                args.dialogue_max_length,
                args.compression_instruction,
                args.on_bad_row,
            )
        super().__init__(model, args, processing_class, peft_config, **kwargs)
        if (self.is_fsdp_enabled or is_deepspeed_zero3_enabled()) and not _checkpoints(args):
            raise ValueError(
                "Set gradient_checkpointing: FSDP and ZeRO-3 free the weights of a layer after its backward pass, and "
                "only with checkpointing does a step go through each layer once."
            )
        if args.kl_weight > 0 and teacher is None and not hasattr(self.model, "disable_adapter"):
            raise ValueError("kl_weight > 0 needs a teacher: train an adapter (peft_config), or pass `teacher`.")
        if teacher is not None:
            teacher = teacher.requires_grad_(False).eval()
            # Offloaded, or spread over devices, it is where it is to be.
            if not hasattr(teacher, "hf_device_map") and not any(weight.is_meta for weight in teacher.parameters()):
                teacher = teacher.to(self.accelerator.device)
        self.teacher = teacher
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
        images = counts * len(inputs.get("image_grid_thw", ()))
        tokens = counts * (inputs["attention_mask"].sum() + inputs["dialogue_attention_mask"].sum())
        meter.add_rate("tokens_per_second", tokens)
        meter.add_rate("images_per_second", images)
        self.seen.add(images, tokens)
        return (loss, outputs) if return_outputs else loss

    def _kl(self, inputs: dict[str, Any], states: torch.Tensor, num_items: torch.Tensor | int | None) -> torch.Tensor:
        """Divergence of the answers from those of a teacher that sees the whole input."""
        adapted = self.accelerator.unwrap_model(self.model)
        with torch.no_grad():
            if self.teacher is not None:
                expected = self.teacher(**inputs, dialogue_view="full")
                teacher_head = self.teacher.get_output_embeddings()
            else:
                with adapted.disable_adapter():
                    expected = adapted(**inputs, dialogue_view="full")
                teacher_head = _without_adapter(self.coma.get_output_embeddings())
        kl = answer_kl(
            states,
            expected.answer_states,
            self.coma.get_output_embeddings(),
            teacher_head,
            self.args.kl_temperature,
            num_items,
        )
        # Of a step, the parts of all its batches and processes add up; DDP will average the gradients.
        parts = 1 if num_items is None else self.accelerator.num_processes
        of_step = 0 if self.skipped_batches.is_empty else 1
        self.meter.add("kl", kl.detach(), of_step / (self.current_gradient_accumulation_steps * parts))
        return kl * parts

    def number_of_rows(self, batch: dict[str, Any]) -> int:
        """Rows of a batch that have something to be trained on."""
        return int((batch["labels"] != -100).any(dim=1).sum())

    def get_train_dataloader(self) -> DataLoader:
        """Batches of similar length where the rows have a `length_column`, else as in `Trainer`."""
        if self.args.length_column is None:
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
        dataset, column = self.train_dataset.dataset, self.args.length_column
        if column not in getattr(dataset, "column_names", ()):
            raise ValueError(f"The train dataset has no column {column!r}; trainers.lengths.add_lengths makes one.")
        return np.asarray(dataset[column][:])

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Loss per answer token: from the compression tokens, from those of another row, and from none at all."""
        model = self._wrap_model(self.model, training=False, dataloader=dataloader).eval()
        metrics, self.token_similarity.similarity, rows = evaluate_compression(
            self.accelerator.unwrap_model(model), dataloader, self.accelerator, description
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=rows)


def _without_adapter(head: torch.nn.Module) -> Head:
    """
    Hidden states to the logits of the teacher, which has no adapter. The KL makes its logits a second time in the
    backward pass, when the adapter is back, so it is switched off at every call, and for the head alone.
    """
    adapted = [module for module in head.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        for module in adapted:
            module.enable_adapters(False)
        try:
            return head(hidden)
        finally:
            for module in adapted:
                module.enable_adapters(True)

    return logits


def _checkpoints(args: ComaTrainingArguments) -> bool:
    """Newer versions of transformers call it activation checkpointing."""
    names = ("activation_checkpointing", "gradient_checkpointing")
    return any(getattr(args, name, False) for name in names)
