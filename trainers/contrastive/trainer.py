"""The trainer of stage 2: InfoNCE over the embeddings, with the HF `Trainer`, at any batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch.utils.data import Sampler
from transformers.trainer_utils import EvalLoopOutput

from modeling_coma import ComaForEmbedding, ComaOutput, ComaProcessor
from modeling_coma.backbone_coma import position_inputs
from trainers.base import ComaTrainer
from trainers.contrastive.collator import ComaContrastiveCollator
from trainers.contrastive.config import ComaContrastiveConfig
from trainers.contrastive.evaluation import EvaluationBlocks
from trainers.contrastive.grad_cache import cached_embeddings, plan_mini_batches
from trainers.contrastive.image_features import encode_visuals, select_visuals
from trainers.contrastive.loss import InfoNCEOutput
from trainers.contrastive.objective import ContrastiveObjective, Search
from trainers.contrastive.packing import PackedInputs
from trainers.contrastive.sources import UnseenSources, check_sources, every_source
from trainers.contrastive.targets import PairIds
from trainers.distributed import gather_rows, gather_together
from trainers.evaluation_rows import RowsOnce
from trainers.samplers import SubBatchSampler
from trainers.vision_side import vision_is_frozen


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
        ValueError: for sources that are wanted where the rows have none, or others, and for a budget of late
            interaction of more states than the model has.
    """

    config_class = ComaContrastiveConfig
    collator_class = ComaContrastiveCollator
    metric_names = ("loss", "in_batch_accuracy")
    stage = "contrastive"  # its name in the record of a training

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
        if not self.answers_dialogues:  # DDP would wait for a gradient that nothing gives
            getattr(self.coma, "memory_projection", torch.nn.Identity()).requires_grad_(False)
        check_sources(self.train_dataset, args)
        self.unseen_sources = UnseenSources(self.train_dataset, args, self.accelerator)
        self.add_callback(self.unseen_sources)
        self._evaluation: tuple[RowsOnce, EvaluationBlocks] | None = None
        self.objective = ContrastiveObjective(args, self.coma.config)

    @property
    def answers_dialogues(self) -> bool:
        """Whether dialogues are answered beside the pairs, which trains the projection of a memory of states."""
        return False

    def temperature(self, sources: torch.LongTensor) -> torch.Tensor:
        """What divides the similarities of rows with these sources (hashes), `(num_rows,)`."""
        return torch.full(sources.shape, self.args.temperature, device=sources.device)

    def temperatures(self) -> dict[str, float]:
        """What is logged of the temperature."""
        return {"temperature": self.args.temperature}

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
        output = self._loss_of_batch(queries, documents, PairIds.of(inputs))
        if model.training:
            self._count(output, len(queries), inputs)
        # DDP averages gradients, the losses of the processes add up; of a step only batches with rows count.
        loss = output.loss * self.accelerator.num_processes * self.skipped_batches.weight
        return (loss, {"queries": queries[:, 0], "documents": documents[:, 0]}) if return_outputs else loss

    def _count(self, output: InfoNCEOutput, pairs: int, inputs: dict[str, Any]) -> None:
        """What is logged of a batch beside its loss."""
        for name, (total, count) in output.fractions().items():
            self.meter.add(name, total, count)
        self.meter.add_rate("pairs_per_second", pairs)
        packed, counts = inputs["inputs"], pairs > 0  # without pairs its input stands for rows left out
        seen = int(packed.images_per_row.sum() + packed.videos_per_row.sum())
        self.seen.add(counts * seen, counts * len(packed.input_ids))
        self.unseen_sources.remove(inputs["sources"])

    def _embed(self, model: torch.nn.Module, packed: PackedInputs) -> torch.Tensor:
        """`(num_inputs, 1 + num_states, hidden_size)`: of each its embedding, and the states of late interaction."""
        pad, budget = self.processing_class.tokenizer.pad_token_id, self.args.mini_batch_tokens
        frozen = vision_is_frozen(self.coma)
        features = encode_visuals(self.coma, packed, budget) if frozen else {}
        names = position_inputs(self.coma.backbone) if frozen else None

        def embed(rows: torch.LongTensor) -> torch.Tensor:
            batch, seen = packed.batch(rows, pad, names), select_visuals(features, packed, rows)
            with self.compute_loss_context_manager():  # autocast, also where backward embeds again
                return self._vectors(model(**batch, mm_encoder_outputs=seen or None))

        mini_batches = plan_mini_batches(packed.lengths, budget)
        return cached_embeddings(embed, mini_batches, lambda: self.accelerator.no_sync(model))

    def _vectors(self, output: ComaOutput) -> torch.Tensor:
        states = output.compression_states[:, : self.objective.num_states]
        return torch.cat([output.embeddings[:, None], states], dim=1)

    def _loss_of_batch(self, queries: torch.Tensor, documents: torch.Tensor, ids: PairIds) -> InfoNCEOutput:
        """The share of this process: its queries against the documents of all, and maybe the other way round."""
        ids, own_rows = ids.gathered()
        if self.args.bidirectional:
            all_queries, all_documents = (gathered.rows for gathered in gather_together(queries, documents))
        else:
            all_queries, all_documents = None, gather_rows(documents)[0]
        if self.model.training:
            self.meter.add("num_documents", len(all_documents) * len(queries), len(queries))
        output = self._summed_loss(queries, all_documents, all_queries, ids, own_rows)
        if self.model.training and self.args.matryoshka_dims:
            vector = output.parts.get("vector", output).loss.detach()
            self.meter.add("loss_per_dimension", vector / self.objective.num_dims, len(queries))
        return output._replace(loss=output.loss / max(1, len(ids.rows)))

    def _summed_loss(
        self,
        own_queries: torch.Tensor,
        documents: torch.Tensor,
        queries: torch.Tensor | None,
        ids: PairIds,
        own_rows: slice,
    ) -> InfoNCEOutput:
        """The loss of some queries among all documents; given all queries, also of their documents among those."""
        targets, temperature = ids.targets(self.args.same_source_negatives), self.temperature(ids.sources)
        searches = [Search(own_queries, documents, targets.for_queries(own_rows), temperature[own_rows])]
        if queries is not None:
            own = ids.documents_of(own_rows)
            of_documents, temperature = targets.transposed().for_queries(own), temperature[ids.owners[own]]
            searches.append(Search(documents[own], queries, of_documents, temperature))
        return self.objective(searches)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the temperature to what is logged of training."""
        super().log({**logs, **self.temperatures()} if "loss" in logs else logs, start_time)

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
            queries, documents = gather_together(embeddings[inputs["queries"]], embeddings[inputs["documents"]])
            ids, chosen = PairIds.of(inputs).gathered()[0].select(new.nonzero()[:, 0])
            blocks.add(queries.rows[new], documents.rows[chosen], ids, numbers[new])
        return None, None, None

    def _loss_of_block(
        self, queries: torch.Tensor, documents: torch.Tensor, ids: PairIds, own_rows: slice
    ) -> InfoNCEOutput:
        """The summed loss of some rows of a block of an evaluation."""
        all_queries = queries if self.args.bidirectional else None
        with torch.no_grad():
            return self._summed_loss(queries[own_rows], documents, all_queries, ids, own_rows)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """As in `Trainer`, with the loss among as many rows as in training, and its statistics."""
        size = self.args.train_batch_size * self.accelerator.num_processes
        once, blocks = self._evaluation = RowsOnce(), EvaluationBlocks(size, self._loss_of_block)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        self._evaluation = None
        once.check()
        metrics = blocks.means()
        if self.args.matryoshka_dims:
            metrics["loss_per_dimension"] = metrics.get("loss/vector", metrics["loss"]) / self.objective.num_dims
        if once.skipped:
            metrics["rows_skipped"] = len(once.skipped)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output._replace(num_samples=blocks.num_rows)

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
