"""Stage 2, matching: InfoNCE over the embeddings, trained with the HF `Trainer` at any batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch.utils.data import Sampler
from transformers.trainer_utils import EvalLoopOutput

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.base import ComaTrainer
from trainers.contrastive.collator import ComaContrastiveCollator
from trainers.contrastive.config import ComaContrastiveConfig
from trainers.contrastive.evaluation import EvaluationBlocks
from trainers.contrastive.grad_cache import cached_embeddings, plan_mini_batches
from trainers.contrastive.loss import InfoNCEOptions, InfoNCEOutput, info_nce
from trainers.contrastive.packing import PackedInputs, encode_images, select_images
from trainers.contrastive.sources import UnseenSources, check_sources, every_source
from trainers.contrastive.targets import Index, PairIds
from trainers.distributed import gather_rows
from trainers.evaluation_rows import RowsOnce
from trainers.experimental.joint import PackedDialogues
from trainers.experimental.temperature import Temperature, TrainedTemperature
from trainers.samplers import SubBatchSampler


__all__ = ["ComaContrastiveTrainer"]


class ComaContrastiveTrainer(ComaTrainer):
    r"""
    Trains stage 2 with a gradient cache: one code path on one process and on many.

    `eval_loss` is among as many rows as a training batch has on all processes (`eval_num_documents` says among how
    many documents, `num_documents` says it of training), whatever `per_device_eval_batch_size` is: see
    [`EvaluationBlocks`].

    Args:
        model (`str`, [`ComaForEmbedding`] or `PeftModel`):
            The model, or the name of its folder or on the Hub, which is then loaded in fp32.
        args ([`ComaContrastiveConfig`], *optional*):
            Settings; the defaults of the stage by default.
        data_collator (`Callable`, *optional*):
            Rows to a batch; by default a [`ComaContrastiveCollator`] as `args` say.
        train_dataset, eval_dataset, kwargs:
            As in [`~trainers.base.ComaTrainer`].
        processing_class ([`ComaProcessor`], *optional*):
            The processor, saved with every checkpoint; by default that of the model's folder.
        peft_config (`LoraConfig`, *optional*):
            Adapter to train, see `trainers.adapters.lora_config`; without one, all that is not frozen is trained.

    Raises:
        ValueError: for sources that are wanted where the rows have none, or others, and for a trained temperature
            where the engine (DeepSpeed, FSDP) keeps track of the parameters of the model only.
    """

    config_class = ComaContrastiveConfig
    collator_class = ComaContrastiveCollator

    def __init__(
        self,
        model: str | ComaForEmbedding | PeftModel,
        args: ComaContrastiveConfig | None = None,
        data_collator: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: ComaProcessor | None = None,
        *,
        peft_config: LoraConfig | None = None,
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
        check_sources(self.train_dataset, args)
        self.unseen_sources = UnseenSources(self.train_dataset, args, self.accelerator)
        self.add_callback(self.unseen_sources)
        self._evaluation: tuple[RowsOnce, EvaluationBlocks] | None = None
        trained = args.temperature_learning_rate is not None
        if trained and (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            raise ValueError(
                "A temperature can be trained on one process or with DDP; fix it under DeepSpeed and FSDP."
            )
        wanted = args.temperature_per_source
        sources = set(every_source(self.train_dataset, "temperature_per_source")) if wanted else None
        self.temperature = Temperature(args.temperature, sources, trained).to(self.accelerator.device)
        if trained:
            self.add_callback(TrainedTemperature(self.temperature))
        self.options = _options(args, self.coma.config.hidden_size)

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Where there is a `joint_weight`, the dialogues go first: it is the second backward that synchronises."""
        inputs = self._prepare_inputs(inputs)
        answers = self._answer(model.train(), inputs.pop("dialogues", None)) if self.args.joint_weight > 0 else 0.0
        return super().training_step(model, inputs, num_items_in_batch) + answers

    def _answer(self, model: torch.nn.Module, dialogues: PackedDialogues | None) -> torch.Tensor:
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
        if model.training:
            self._count(output, len(queries), inputs)
        # DDP averages gradients, the losses of the processes add up; of a step only batches with rows count.
        loss = output.loss * self.accelerator.num_processes * self.skipped_batches.weight
        return (loss, {"queries": queries, "documents": documents}) if return_outputs else loss

    def _count(self, output: InfoNCEOutput, pairs: int, inputs: dict[str, Any]) -> None:
        """What is logged of a batch beside its loss."""
        for name, (total, count) in output.statistics.fractions().items():
            self.meter.add(name, total, count)
        self.meter.add_rate("pairs_per_second", pairs)
        packed, counts = inputs["inputs"], pairs > 0  # without pairs its input stands for rows left out
        self.seen.add(counts * int(packed.images_per_row.sum()), counts * len(packed.input_ids))
        self.unseen_sources.remove(inputs["sources"])

    def _embed(self, model: torch.nn.Module, packed: PackedInputs) -> torch.Tensor:
        visual, pad = self.coma.backbone.model.visual, self.processing_class.tokenizer.pad_token_id
        frozen = packed.pixel_values is not None and not any(p.requires_grad for p in visual.parameters())
        patches = self.args.mini_batch_tokens * self.processing_class.image_processor.merge_size**2
        features = encode_images(self.coma, packed, patches) if frozen else {}

        def embed(rows: torch.LongTensor) -> torch.Tensor:
            batch = packed.batch(rows, pad, pixels=not frozen)
            images = select_images(features, packed.images_of(rows)) if frozen else {}
            with self.compute_loss_context_manager():  # autocast, also where backward embeds again
                return model(**batch, mm_encoder_outputs=images or None).embeddings

        mini_batches = plan_mini_batches(packed.lengths, self.args.mini_batch_tokens, device=self.accelerator.device)
        return cached_embeddings(embed, mini_batches, lambda: self.accelerator.no_sync(model))

    def _info_nce(self, queries: torch.Tensor, documents: torch.Tensor, inputs: dict[str, Any]) -> InfoNCEOutput:
        """The share of this process: its queries against the documents of all, and maybe the other way round."""
        ids, rows, places = PairIds.of(inputs).gathered()
        all_documents = gather_rows(documents)[0]
        all_queries = gather_rows(queries)[0] if self.args.bidirectional else None
        if self.model.training:
            self.meter.add("num_documents", len(all_documents) * len(queries), len(queries))
        return self._share((queries, all_queries), (documents, all_documents), ids, rows, places)

    def _share(
        self,
        queries: tuple[torch.Tensor, torch.Tensor | None],
        documents: tuple[torch.Tensor, torch.Tensor],
        ids: PairIds,
        own_rows: Index,
        own_documents: Index,
    ) -> InfoNCEOutput:
        """InfoNCE of some rows among all rows, of which `ids` tells; embeddings are (own, all)."""
        targets = ids.targets(self.args.same_source_negatives, own_rows, own_documents)
        num_rows = max(1, targets.num_rows)
        temperature = self.temperature(ids.sources[own_rows])
        forward = info_nce(queries[0], documents[1], targets.queries, temperature, self.options, False, num_rows)
        if not self.args.bidirectional:
            return forward
        temperature = self.temperature(ids.sources[ids.owners[own_documents]])
        backward = info_nce(documents[0], queries[1], targets.documents, temperature, self.options, False, num_rows)
        return InfoNCEOutput((forward.loss + backward.loss) / 2, forward.statistics)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the temperature to what is logged of training."""
        super().log({**logs, **self.temperature.values()} if "loss" in logs else logs, start_time)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of `Trainer`, with the temperature where it is trained."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if self.temperature.trained and created:
            group = {"lr": self.args.temperature_learning_rate, "weight_decay": 0.0}
            optimizer.add_param_group({"params": list(self.temperature.parameters()), **group})
        return optimizer

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, None, None]:
        """Evaluation: embeds a batch, and has the loss computed where a block is full."""
        once, blocks = self._evaluation
        with torch.no_grad():
            inputs = self._prepare_inputs(inputs)
            embeddings = self._embed(model, inputs["inputs"])
            new, _ = once.add(inputs["rows"], inputs["skipped"])
            numbers, _ = gather_rows(inputs["rows"])
            queries, _ = gather_rows(embeddings[inputs["queries"]])
            documents, _ = gather_rows(embeddings[inputs["documents"]])
            ids, chosen = PairIds.of(inputs).gathered()[0].select(new.nonzero()[:, 0])
            blocks.add(queries[new], documents[chosen], ids, numbers[new])
        return None, None, None

    def _loss_of_block(
        self, queries: torch.Tensor, documents: torch.Tensor, ids: PairIds, rows: torch.Tensor, own: torch.Tensor
    ) -> InfoNCEOutput:
        with torch.no_grad():
            output = self._share((queries[rows], queries), (documents[own], documents), ids, rows, own)
        return InfoNCEOutput(output.loss * len(queries) / len(rows), output.statistics)  # a mean of the own rows

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """As in `Trainer`, with the loss among as many rows as in training, and its statistics."""
        size = self.args.train_batch_size * self.accelerator.num_processes
        once, blocks = self._evaluation = RowsOnce(), EvaluationBlocks(size, self._loss_of_block)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        self._evaluation = None
        once.check()
        found = blocks.means() | ({"rows_skipped": len(once.skipped)} if once.skipped else {})
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output._replace(num_samples=blocks.rows)

    def number_of_rows(self, batch: dict[str, Any]) -> int:
        """Pairs of a batch."""
        return len(batch["queries"])

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        args = self.args
        if args.sub_batch_size is None:
            return super()._get_train_sampler(train_dataset)
        seed = args.seed if args.data_seed is None else args.data_seed
        sources = every_source(self.train_dataset, "sub_batch_size")
        return SubBatchSampler(sources, args.sub_batch_size, seed, args.source_caps, args.source_weights)


def _options(args: ComaContrastiveConfig, hidden_size: int) -> InfoNCEOptions:
    cuts = args.matryoshka_dims or []
    return InfoNCEOptions(
        false_negative_margin=args.false_negative_margin,
        hardness=args.hardness,
        matryoshka=dict.fromkeys({*cuts, hidden_size}, 1.0) if cuts else None,
    )
