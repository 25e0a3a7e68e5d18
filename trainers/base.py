"""The HF `Trainer` for CoMa models: what the trainers of both stages share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import CommitInfo
from peft import LoraConfig, PeftModel
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.adapters import add_adapter, check_adapter, complete_adapter, freeze_vision_of_adapter, public_base
from trainers.best import EarlyStopping, check_keep_best
from trainers.callbacks import Meter, SamplerEpoch, SeenInputs, SkippedBatches
from trainers.checkpoints import check_checkpoint, last_checkpoint, load_weights, restore_weights, whole_or_nothing
from trainers.data.rows import BadRows
from trainers.evaluation_rows import EvaluationCollator, numbered
from trainers.files import LOSS_PICTURE
from trainers.findings import Findings
from trainers.log_lines import log_in_lines
from trainers.loss_curves import draw_losses
from trainers.training_config import ComaTrainingArguments
from trainers.vision_side import freeze_vision


__all__ = ["ComaTrainer", "last_checkpoint"]

NEVER_CALLED = ("compute_metrics", "compute_loss_func", "preprocess_logits_for_metrics", "model_init")


class ComaTrainer(Trainer):
    r"""
    The HF `Trainer` for a CoMa model; base of the trainers of both stages.

    Args:
        model (`str`, [`ComaForEmbedding`] or `PeftModel`):
            The model. Its vision tower is frozen as `args` say. The name of a folder or of a model on the Hub is
            loaded in fp32, whatever it was saved in; load it yourself for another dtype.
        args (`TrainingArguments`, *optional*):
            Settings of the stage; its defaults by default.
        data_collator (`Callable`, *optional*):
            Rows to a batch; by default the collator of the stage, as `args` say.
        train_dataset (`Dataset`, `IterableDataset` or list of rows, *optional*):
            What is trained on.
        eval_dataset (`Dataset`, `IterableDataset`, list of rows, or several of them by name, *optional*):
            What is evaluated.
        processing_class ([`ComaProcessor`], *optional*):
            The processor, saved with every checkpoint; by default that of the folder that the model was loaded from.
        peft_config (`LoraConfig`, *optional*):
            Adapter to train.
        kwargs:
            `callbacks`, `optimizers` and `optimizer_cls_and_kwargs` as in `Trainer`.

    Raises:
        ValueError: for settings of another stage, for a processor that is nowhere or has another number of
            compression tokens than the model, for an adapter that is to be pushed to the Hub and whose base is not
            there, for an adapter that does not train of the vision tower what the settings say, and for arguments of
            `Trainer` that nothing here calls.
    """

    config_class: ClassVar[type[ComaTrainingArguments]] = ComaTrainingArguments
    collator_class: ClassVar[Any]  # of the stage; its `of(processor, args)` makes one
    metric_names: ClassVar[tuple[str, ...]]  # what its evaluation says of quality, the better the higher but `loss`

    def __init__(
        self,
        model: str | ComaForEmbedding | PeftModel,
        args: ComaTrainingArguments | None = None,
        data_collator: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: ComaProcessor | None = None,
        *,
        peft_config: LoraConfig | None = None,
        **kwargs: Any,
    ) -> None:
        args = self.config_class() if args is None else args
        self._check_arguments(args, train_dataset, kwargs)
        if isinstance(data_collator, ComaProcessor):  # which can be called, too, and stands there in other trainers
            raise ValueError("data_collator is a processor: pass it as processing_class.")
        model = load_weights(model, "float32") if isinstance(model, str | Path) else model
        processing_class = _processor_of(_unwrapped(model), processing_class)
        model = _prepared(model, args, peft_config)
        if args.push_to_hub and isinstance(model, PeftModel):
            public_base(model)
        if args.accelerator_config.dispatch_batches is None:  # else accelerate cuts streamed batches up: it would
            args.accelerator_config.dispatch_batches = False  # cut `pixel_values`, too, by the number of rows
        super().__init__(
            model,
            args,
            data_collator or self.collator_class.of(processing_class, args),
            train_dataset if isinstance(train_dataset, IterableDataset) else numbered(train_dataset),
            numbered(eval_dataset),
            processing_class,
            **kwargs,
        )
        self.evaluation_collator = EvaluationCollator(self.data_collator)
        self.meter, self.seen = Meter(self.accelerator), SeenInputs(self.accelerator)
        self.skipped_batches, self.findings = SkippedBatches(), Findings()
        log_in_lines(self)
        for callback in (self.meter, self.seen, SamplerEpoch(), self.skipped_batches, self.findings):
            self.add_callback(callback)

    def _check_arguments(self, args: ComaTrainingArguments, train_dataset: Any, kwargs: dict[str, Any]) -> None:
        if not isinstance(args, self.config_class):
            raise ValueError(f"args must be a {self.config_class.__name__}, got a {type(args).__name__}.")
        args.check_trainer(self.config_class)
        for name in NEVER_CALLED:
            if kwargs.get(name) is not None:
                raise ValueError(f"{name} would never be called: the loss and the metrics are those of the stage.")
        orders = {
            "train_sampling_strategy=group_by_length": args.train_sampling_strategy == "group_by_length",
            "sub_batch_size": getattr(args, "sub_batch_size", None) is not None,
        }
        for name, is_set in orders.items():
            if is_set and isinstance(train_dataset, IterableDataset):
                raise ValueError(f"{name} needs a data set whose rows are known; streamed rows come as they come.")

    @property
    def coma(self) -> ComaForEmbedding:
        """The CoMa model inside whatever wraps it."""
        return _unwrapped(self.accelerator.unwrap_model(self.model))

    @property
    def bad_rows(self) -> BadRows | None:
        """What the collator does about bad rows, and which it has left out, if it says so."""
        return getattr(self.data_collator, "bad_rows", None)

    def number_of_rows(self, batch: dict[str, Any]) -> int:
        """How many rows of a batch count."""
        raise TypeError(f"{type(self).__name__} does not say what the rows of a batch are.")

    def is_logging_step(self) -> bool:
        """Whether what is costly to measure should be measured in this step."""
        every = self.state.logging_steps
        return bool(every) and (self.state.global_step + 1) % every == 0

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """As in `Trainer`; `True` resumes from the last checkpoint that was saved to its end."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
        if resume_from_checkpoint:
            check_checkpoint(resume_from_checkpoint, engine=self.is_fsdp_enabled or self.is_deepspeed_enabled)
        check_keep_best(self, self.metric_names)
        if self.args.early_stopping_patience is not None:
            self.remove_callback(EarlyStopping)  # of a training before
            self.add_callback(EarlyStopping(self.args.early_stopping_patience))  # after those that add metrics
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def create_scheduler(self, *args, **kwargs) -> torch.optim.lr_scheduler.LRScheduler:
        """As in `Trainer`; settings that the schedule does not know are named."""
        try:
            return super().create_scheduler(*args, **kwargs)
        except TypeError as error:
            settings = f"lr_scheduler_kwargs={self.args.lr_scheduler_kwargs}"
            schedule = f"lr_scheduler_type={str(self.args.lr_scheduler_type)}"
            raise ValueError(f"{settings} are not those of {schedule}: {error}.") from error

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """As in `Trainer`, and takes in which of the batches have rows."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and self.bad_rows is not None and self.bad_rows.policy == "skip":
            has_rows = torch.tensor([self.number_of_rows(batch) > 0 for batch in batches], dtype=torch.long)
            self.skipped_batches.look_at(self.accelerator.reduce(has_rows.to(self.accelerator.device)))
        return batches, num_items

    def _get_dataloader(
        self, dataset: Any, description: str, *args, is_training: bool = False, **kwargs
    ) -> DataLoader:
        """As in `Trainer`; those of evaluation have every row, and their batches say which rows they have."""
        if is_training:
            return super()._get_dataloader(dataset, description, *args, is_training=True, **kwargs)
        collator, drop_last = self.data_collator, self.args.dataloader_drop_last
        self.data_collator, self.args.dataloader_drop_last = self.evaluation_collator, False
        try:
            return super()._get_dataloader(numbered(dataset), description, *args, **kwargs)
        finally:
            self.data_collator, self.args.dataloader_drop_last = collator, drop_last

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """As in `Trainer`; rates of training do not count the time."""
        with self.meter.paused():
            return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The loss is that of the steps that had rows; adds the means since the last log and what was counted."""
        logs = self.skipped_batches.corrected(logs)
        if "loss" in logs:
            logs = {**logs, **self.meter.flush(), **self.seen.totals, **self.left_out()}
        super().log(logs, start_time)

    def left_out(self) -> dict[str, int]:
        """Rows and turns that were left out, on all processes, if there are any."""
        if self.bad_rows is None:
            return {}
        counts = torch.tensor([self.bad_rows.skipped, self.bad_rows.cut], device=self.accelerator.device)
        skipped, cut = self.accelerator.reduce(counts).tolist()
        return {name: number for name, number in {"rows_skipped": skipped, "turns_cut": cut}.items() if number}

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError as error:  # with a sentence, but of a sort that tells of a fault in the code
            raise ValueError(error.args[0]) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Full weights are saved under the names of the published backbone, which `from_pretrained` translates back.
        `Trainer` would look for them in vain, warn, and go on with the weights it began with."""
        model = self.model if model is None else model
        if isinstance(model, ComaForEmbedding) and not self.is_fsdp_enabled:
            restore_weights(model, resume_from_checkpoint)
            return
        if isinstance(model, PeftModel) and not self.is_fsdp_enabled:
            check_adapter(model, resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not isinstance(self.model, ComaForEmbedding) or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            restore_weights(self.model, self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            draw_losses(self.state.log_history, Path(output_dir or self.args.output_dir))
        if self.args.should_save and isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
            complete_adapter(output_dir or self.args.output_dir)

    def _save_checkpoint(self, *args, **kwargs) -> None:
        with whole_or_nothing(Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")):
            super()._save_checkpoint(*args, **kwargs)

    def push_to_hub(self, *args, **kwargs) -> CommitInfo | None:
        """As in `Trainer`; an adapter is pushed only if its base is on the Hub."""
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model, PeftModel):
            public_base(model)
        return super().push_to_hub(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """`Trainer` pushes the weights of a checkpoint without the code that they are loaded by, and the curves."""
        if self.is_world_process_zero():
            for pattern in ("*.py", LOSS_PICTURE):
                for file in Path(checkpoint_folder).glob(pattern):
                    shutil.copy(file, self.args.output_dir)
        super()._push_from_checkpoint(checkpoint_folder)


def _unwrapped(model: ComaForEmbedding | PeftModel) -> ComaForEmbedding:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _processor_of(model: ComaForEmbedding, processor: ComaProcessor | None) -> ComaProcessor:
    """The processor that was given, or that of the folder of a model; it must fit the model."""
    if processor is None and not model.name_or_path:
        raise ValueError("The model was not loaded from a folder that has a processor: pass processing_class.")
    processor = processor or ComaProcessor.from_pretrained(model.name_or_path)
    if model.config.compression_token_ids != processor.compression_token_ids:
        raise ValueError(
            f"The model has {model.config.num_compression_tokens} compression tokens, the processor "
            f"{processor.num_compression_tokens}, or under other ids: load both from one folder."
        )
    return processor


def _prepared(
    model: ComaForEmbedding | PeftModel, args: ComaTrainingArguments, peft_config: LoraConfig | None
) -> ComaForEmbedding | PeftModel:
    """The model with what the settings freeze frozen, and its adapter."""
    if peft_config is not None:
        set_seed(args.seed)  # the same adapter in every run, on every process
        return add_adapter(model, peft_config, args.freeze_vision, args.train_merger)
    if isinstance(model, PeftModel):
        freeze_vision_of_adapter(model, args.freeze_vision, args.train_merger)
    elif args.freeze_vision:
        freeze_vision(model, args.train_merger)
    return model
