"""Stage 2, matching: InfoNCE over the embeddings, trained with the HF `Trainer` at any batch size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig
from torch.utils.data import Sampler
from transformers import TrainingArguments

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.base import ComaTrainer
from trainers.contrastive_collator import ComaContrastiveCollator
from trainers.contrastive_targets import BatchTargets
from trainers.gather import gather_rows
from trainers.grad_cache import cached_embeddings, plan_mini_batches
from trainers.info_nce import InfoNCEOptions, InfoNCEOutput, info_nce
from trainers.packing import PackedInputs, select_images
from trainers.samplers import SubBatchSampler


__all__ = ["ComaContrastiveCollator", "ComaContrastiveConfig", "ComaContrastiveTrainer"]


@dataclass
class ComaContrastiveConfig(TrainingArguments):
    r"""
    Settings of stage 2. Where they differ from `TrainingArguments`, the defaults are the official recipe.

    `per_device_train_batch_size`, times the processes, is the number of pairs whose documents are each other's
    negatives. Memory does not depend on it, but on `mini_batch_tokens`. Gradient accumulation averages the losses of
    several batches: it adds no negatives.

    Args:
        > What is trained

        freeze_vision (`bool`, *optional*, defaults to `True`):
            Freezes the vision tower, which then runs once per batch.
        train_merger (`bool`, *optional*, defaults to `False`):
            Trains the merger of the vision tower nevertheless.

        > Data

        max_length (`int`, *optional*):
            Limit of an input in tokens; text beyond it is cut. The processor's own limit by default.
        instructions (`dict[str, str]`, *optional*):
            Source -> instruction that is put before its queries, as a system message.
        sub_batch_size (`int`, *optional*):
            Neighbours from one source, where the rows have a `source`; 64 in the official recipe. By default rows are
            shuffled without regard to it.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave bad rows out and count them.

        > Memory

        mini_batch_tokens (`int`, *optional*, defaults to 16,384):
            Budget of a forward pass in tokens, padding included.

        > Loss

        temperature (`float`, *optional*, defaults to 0.03):
            Divides the similarities.
        bidirectional (`bool`, *optional*, defaults to `False`):
            Mean of both directions, queries to documents and documents to queries.
        false_negative_margin (`float`, *optional*):
            Leaves out negatives that are more similar than the positive by more than this.
        hardness (`float`, *optional*, defaults to 0.0):
            Emphasis on hard negatives.
        matryoshka_dims (`list[int]`, *optional*):
            Also trains the embeddings cut to these dimensions.
        same_source_negatives (`bool`, *optional*, defaults to `False`):
            Takes negatives from the row's own source only.
        own_negatives_only (`list[str]`, *optional*):
            Sources whose rows have no negatives but their own, as in classification with listed wrong labels.
    """

    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of warm-up; below 1, a share of all steps."})
    per_device_train_batch_size: int = field(default=1024, metadata={"help": "Pairs of a batch on each process."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator needs every column."})

    freeze_vision: bool = field(default=True, metadata={"help": "Freeze the vision tower."})
    train_merger: bool = field(default=False, metadata={"help": "Train the merger of the tower nevertheless."})

    max_length: int | None = field(default=None, metadata={"help": "Limit of an input in tokens."})
    instructions: dict | str | None = field(default=None, metadata={"help": "Instruction of each source."})
    sub_batch_size: int | None = field(default=None, metadata={"help": "Neighbours from one source."})
    on_bad_row: str = field(default="raise", metadata={"help": "'raise' or 'skip'."})

    mini_batch_tokens: int = field(default=16384, metadata={"help": "Tokens of a forward pass."})

    temperature: float = field(default=0.03, metadata={"help": "Temperature of the softmax."})
    bidirectional: bool = field(default=False, metadata={"help": "Both directions."})
    false_negative_margin: float | None = field(default=None, metadata={"help": "Margin of false negatives."})
    hardness: float = field(default=0.0, metadata={"help": "Emphasis on hard negatives."})
    matryoshka_dims: list[int] | None = field(default=None, metadata={"help": "Dimensions to be trained beside."})
    same_source_negatives: bool = field(default=False, metadata={"help": "Negatives of the same source only."})
    own_negatives_only: list[str] | None = field(default=None, metadata={"help": "Sources with own negatives only."})


class ComaContrastiveTrainer(ComaTrainer):
    r"""
    Trains stage 2 with a gradient cache: one code path on one process and on many.

    Args:
        model ([`ComaForEmbedding`] or `PeftModel`):
            The model.
        args ([`ComaContrastiveConfig`]):
            Settings.
        processing_class ([`ComaProcessor`]):
            The processor, saved with every checkpoint.
        peft_config (`LoraConfig`, *optional*):
            Adapter to train, see `trainers.lora.lora_config`; without one, all that is not frozen is trained.
        kwargs:
            As in `Trainer`: `train_dataset`, `data_collator`, `callbacks`, …
    """

    def __init__(
        self,
        model: ComaForEmbedding,
        args: ComaContrastiveConfig,
        processing_class: ComaProcessor,
        peft_config: LoraConfig | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("data_collator") is None:
            kwargs["data_collator"] = ComaContrastiveCollator(
                processing_class, args.max_length, args.instructions, args.own_negatives_only, args.on_bad_row
            )
        super().__init__(model, args, processing_class, peft_config, **kwargs)
        hidden_size, cuts = self.coma.config.hidden_size, args.matryoshka_dims or []
        self.options = InfoNCEOptions(
            false_negative_margin=args.false_negative_margin,
            hardness=args.hardness,
            matryoshka=dict.fromkeys({*cuts, hidden_size}, 1.0) if cuts else None,
        )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """InfoNCE of the pairs of all processes; its gradient is that of one process with all pairs."""
        embeddings = self._embed(model, inputs["inputs"])
        queries, documents = embeddings[inputs["queries"]], embeddings[inputs["documents"]]
        output = self._info_nce(queries, documents, inputs)
        for name, (total, count) in output.statistics.fractions().items():
            self.meter.add(name, total, count)
        self.meter.add_rate("pairs_per_second", len(queries))
        scale = self.accelerator.num_processes  # DDP averages gradients, the losses of the processes add up
        loss = output.loss * scale
        return (loss, {"queries": queries, "documents": documents}) if return_outputs else loss

    def _embed(self, model: torch.nn.Module, packed: PackedInputs) -> torch.Tensor:
        visual, pad = self.coma.backbone.model.visual, self.processing_class.tokenizer.pad_token_id
        frozen = packed.pixel_values is not None and not any(p.requires_grad for p in visual.parameters())
        features = self.coma.encode_images(packed.pixel_values, packed.image_grid_thw) if frozen else {}

        def embed(rows: torch.LongTensor) -> torch.Tensor:
            batch = packed.batch(rows, pad, pixels=not frozen)
            images = select_images(features, packed.images_of(rows)) if frozen else {}
            with self.compute_loss_context_manager():  # autocast, also where backward embeds again
                return model(**batch, mm_encoder_outputs=images or None).embeddings

        mini_batches = plan_mini_batches(packed.lengths, self.args.mini_batch_tokens, device=self.accelerator.device)
        return cached_embeddings(embed, mini_batches, lambda: self.accelerator.no_sync(model))

    def _info_nce(self, queries: torch.Tensor, documents: torch.Tensor, inputs: dict[str, Any]) -> InfoNCEOutput:
        """The share of this process: its queries against the documents of all, and maybe the other way round."""
        targets = BatchTargets.of(inputs, self.args.same_source_negatives)
        settings = (self.args.temperature, self.options, False, targets.num_rows)
        forward = info_nce(queries, gather_rows(documents)[0], targets.queries, *settings)
        if not self.args.bidirectional:
            return forward
        backward = info_nce(documents, gather_rows(queries)[0], targets.documents, *settings)
        return InfoNCEOutput((forward.loss + backward.loss) / 2, forward.statistics)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if self.args.sub_batch_size is None:
            return super()._get_train_sampler(train_dataset)
        sources = self.train_dataset.dataset["source"]
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return SubBatchSampler(sources, self.args.sub_batch_size, seed)
