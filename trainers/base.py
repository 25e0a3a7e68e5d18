"""What both stages share: a model prepared for training, rows that know their number, and what is logged."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from huggingface_hub import CommitInfo
from peft import LoraConfig, PeftModel
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.adapters import (
    add_adapter,
    check_adapter,
    complete_adapter,
    freeze_vision,
    freeze_vision_of_adapter,
    public_base,
)
from trainers.callbacks import SamplerEpoch, SeenInputs
from trainers.checkpoints import check_checkpoint, last_checkpoint, whole_or_nothing
from trainers.data.rows import NumberedRows


__all__ = ["ComaTrainer", "Meter", "last_checkpoint"]

NEVER_CALLED = {"compute_metrics", "compute_loss_func", "preprocess_logits_for_metrics", "model_init"}
NEED_ROWS = ("length_column", "sub_batch_size")


class Meter(TrainerCallback):
    """Sums of what happened since the last log, on this process; `flush` gives the means over all processes."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._rates: set[str] = set()
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._started = time.perf_counter()

    def add(self, name: str, total: torch.Tensor | float, count: torch.Tensor | float) -> None:
        """Adds to the sum and to the count whose quotient is logged as `name`. Nothing waits for the device."""
        device = self.accelerator.device
        pair = torch.stack([torch.as_tensor(n, dtype=torch.float32, device=device) for n in (total, count)])
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def add_rate(self, name: str, total: torch.Tensor | float) -> None:
        """Adds to what is logged per second as `name`."""
        self._rates.add(name)
        self.add(name, total, 0.0)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._started = time.perf_counter()  # what was before the training does not count for the rates

    def flush(self) -> dict[str, float]:
        """Means and rates since the last flush, but no mean of nothing. Every process must have the same names."""
        seconds, names = time.perf_counter() - self._started, sorted(self._sums)
        sums = self.accelerator.reduce(torch.stack([self._sums[name] for name in names])).tolist() if names else []
        self._clear()
        divisors = [seconds if name in self._rates else count for name, (_, count) in zip(names, sums, strict=True)]
        totals = (total for total, _ in sums)
        return {name: total / by for name, total, by in zip(names, totals, divisors, strict=True) if by}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A time that does not count for the rates."""
        began = time.perf_counter()
        yield
        self._started += time.perf_counter() - began


class ComaTrainer(Trainer):
    r"""
    The HF `Trainer` for a CoMa model; base of the trainers of both stages.

    Args:
        model ([`ComaForEmbedding`] or `PeftModel`):
            The model. Its vision tower is frozen as `args` say.
        args (`TrainingArguments`):
            Settings with `freeze_vision` and `train_merger`.
        processing_class ([`ComaProcessor`]):
            The processor, saved with every checkpoint.
        peft_config (`LoraConfig`, *optional*):
            Adapter to train.
        kwargs:
            As in `Trainer`.

    Raises:
        ValueError: for a processor with another number of compression tokens than the model, for an adapter that is to
            be pushed to the Hub and whose base is not there, for an adapter that does not train of the vision tower
            what the settings say, and for arguments of `Trainer` that nothing here calls.
    """

    def __init__(
        self,
        model: ComaForEmbedding | PeftModel,
        args: TrainingArguments,
        processing_class: ComaProcessor,
        peft_config: LoraConfig | None = None,
        **kwargs: Any,
    ) -> None:
        coma = model.get_base_model() if isinstance(model, PeftModel) else model
        if coma.config.compression_token_ids != processing_class.compression_token_ids:
            raise ValueError(
                f"The model has {coma.config.num_compression_tokens} compression tokens, the processor "
                f"{processing_class.num_compression_tokens}, or under other ids: load both from one folder."
            )
        _check_arguments(args, kwargs)
        model = _trained(model, args, peft_config)
        if args.push_to_hub and isinstance(model, PeftModel):
            public_base(model)
        for name in ("train_dataset", "eval_dataset"):
            kwargs[name] = _numbered(kwargs.get(name))
        if args.accelerator_config.dispatch_batches is None:  # else accelerate cuts streamed batches up: it would
            args.accelerator_config.dispatch_batches = False  # cut `pixel_values`, too, by the number of rows
        super().__init__(model, args, processing_class=processing_class, **kwargs)
        self.meter, self.seen = Meter(self.accelerator), SeenInputs(self.accelerator)
        self.add_callback(self.meter)
        self.add_callback(self.seen)
        self.add_callback(SamplerEpoch())

    @property
    def coma(self) -> ComaForEmbedding:
        """The CoMa model inside whatever wraps it."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if isinstance(model, PeftModel) else model

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Full weights are saved under the names of the published backbone, which `from_pretrained` translates back.
        `Trainer` would look for them in vain, warn, and go on with the weights it began with."""
        model = self.model if model is None else model
        if isinstance(model, PeftModel) and not self.is_fsdp_enabled:
            check_adapter(model, resume_from_checkpoint)
        if not isinstance(model, ComaForEmbedding) or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            _load_weights(model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if not isinstance(self.model, ComaForEmbedding) or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            _load_weights(self.model, self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save and isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
            complete_adapter(output_dir or self.args.output_dir)

    def _save_checkpoint(self, *args, **kwargs) -> None:
        with whole_or_nothing(Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")):
            super()._save_checkpoint(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError as error:  # with a sentence, but of a sort that tells of a fault in the code
            raise ValueError(error.args[0]) from error

    def create_scheduler(self, *args, **kwargs) -> torch.optim.lr_scheduler.LRScheduler:
        """As in `Trainer`; settings that the schedule does not know are named."""
        try:
            return super().create_scheduler(*args, **kwargs)
        except TypeError as error:
            settings = f"lr_scheduler_kwargs={self.args.lr_scheduler_kwargs}"
            schedule = f"lr_scheduler_type={str(self.args.lr_scheduler_type)}"
            raise ValueError(f"{settings} are not those of {schedule}: {error}.") from error

    def push_to_hub(self, *args, **kwargs) -> CommitInfo | None:
        """As in `Trainer`; an adapter is pushed only if its base is on the Hub."""
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model, PeftModel):
            public_base(model)
        return super().push_to_hub(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """`Trainer` pushes the weights of a checkpoint without the code that they are loaded by."""
        if self.is_world_process_zero():
            for code in Path(checkpoint_folder).glob("*.py"):
                shutil.copy(code, self.args.output_dir)
        super()._push_from_checkpoint(checkpoint_folder)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """As in `Trainer`; `True` resumes from the last checkpoint that was saved to its end."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
        if resume_from_checkpoint:
            check_checkpoint(resume_from_checkpoint, engine=self.is_fsdp_enabled or self.is_deepspeed_enabled)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def get_eval_dataloader(self, *args, **kwargs) -> DataLoader:
        """As in `Trainer`, with every row: `dataloader_drop_last` is for training."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(*args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def is_logging_step(self) -> bool:
        """Whether what is costly to measure should be measured in this step."""
        every = self.state.logging_steps
        return bool(every) and (self.state.global_step + 1) % every == 0

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """As in `Trainer`; rates of training do not count the time."""
        with self.meter.paused():
            return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to the training loss the means since the last log, and counts since the beginning."""
        if "loss" in logs:
            logs = {**logs, **self.meter.flush(), **self.seen.totals, **self._bad_rows()}
        super().log(logs, start_time)

    def _bad_rows(self) -> dict[str, int]:
        """Rows and turns that were left out, on all processes, if there are any."""
        bad_rows = getattr(self.data_collator, "bad_rows", None)
        if bad_rows is None:
            return {}
        counts = torch.tensor([bad_rows.skipped, bad_rows.cut], device=self.accelerator.device)
        skipped, cut = self.accelerator.reduce(counts).tolist()
        return {name: n for name, n in (("rows_skipped", skipped), ("turns_cut", cut)) if n}


def _check_arguments(args: TrainingArguments, kwargs: dict[str, Any]) -> None:
    for name in NEVER_CALLED & kwargs.keys():
        if kwargs[name] is not None:
            raise ValueError(f"{name} would never be called: the loss and the metrics are those of the stage.")
    if isinstance(kwargs.get("train_dataset"), IterableDataset):
        for name in NEED_ROWS:
            if getattr(args, name, None) is not None:
                raise ValueError(f"{name} needs a data set whose rows are known; streamed rows come as they come.")


def _trained(
    model: ComaForEmbedding | PeftModel, args: TrainingArguments, peft_config: LoraConfig | None
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


def _load_weights(model: ComaForEmbedding, folder: str) -> None:
    options = {"dtype": model.dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    saved, report = ComaForEmbedding.from_pretrained(folder, **options)
    problems = ("missing_keys", "mismatched_keys", "unexpected_keys")
    if wrong := {name: sorted(report[name]) for name in problems if report[name]}:
        raise ValueError(f"The weights in {folder} do not fit its configuration: {wrong}")
    ours, theirs = model.state_dict(), saved.state_dict()
    if other := sorted(name for name in ours.keys() | theirs.keys() if _shape(ours, name) != _shape(theirs, name)):
        raise ValueError(
            f"The weights in {folder} are not of the model that is trained: {len(other)}, first {other[0]}."
        )
    model.load_state_dict(theirs)


def _shape(weights: dict[str, torch.Tensor], name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None


def _numbered(dataset: Any) -> Any:
    if isinstance(dataset, dict):
        return {name: _numbered(part) for name, part in dataset.items()}
    if dataset is None or isinstance(dataset, IterableDataset | NumberedRows):
        return dataset
    return NumberedRows(dataset)
