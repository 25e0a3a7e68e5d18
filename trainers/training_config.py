"""Settings that both stages share. Each acts or is refused: those of `TrainingArguments`, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from transformers import TrainingArguments, integrations
from transformers.debug_utils import DebugOption
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available

from trainers.best import keep_best
from trainers.data.json_rows import parse_json
from trainers.ranges import AT_LEAST_0, BELOW_1, COUNT, FINITE, POSITIVE, WHOLE, Range, check_choices, check_ranges


__all__ = ["REFUSED", "REFUSED_OF_ACCELERATE", "RENAMED", "ComaTrainingArguments", "mapping_of"]

# Settings of TrainingArguments that have nothing to act upon here, the values that ask for nothing, and why.
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "label_smoothing_factor": ((0,), "the losses of both stages smooth no labels"),
    "remove_unused_columns": ((False,), "the collator needs every column, and no column is an argument of the model"),
    "label_names": ((None,), "the labels of stage 1 are made by the collator, stage 2 has none"),
    "train_sampling_strategy": (("random", "sequential"), "stage 1 can group rows by length, stage 2 sorts by itself"),
    "length_column_name": (("length",), "it goes with `group_by_length` of stage 1, stage 2 sorts by itself"),
    "include_num_input_tokens_seen": (("no", False), "`tokens_seen` is logged, images and dialogues included"),
    "include_for_metrics": (([],), "evaluation computes its own metrics, and keeps no predictions"),
    "batch_eval_metrics": ((False,), "evaluation computes its own metrics, batch by batch"),
    "eval_do_concat_batches": ((True,), "evaluation keeps no predictions"),
    "eval_use_gather_object": ((False,), "evaluation keeps no predictions"),
    "eval_accumulation_steps": ((None,), "evaluation keeps no predictions"),
    "average_tokens_across_devices": ((True,), "a loss is a mean over the answer tokens, or pairs, of all processes"),
    "use_liger_kernel": ((False,), "it has no kernels for CoMa, and would be left out with no more than a log line"),
    "liger_kernel_config": ((None,), "it has no kernels for CoMa"),
    "use_cache": ((False,), "stage 1 uses a cache whenever there is no gradient checkpointing, stage 2 never"),
    "parallelism_config": ((None,), "tensor, context and sequence parallelism do not know the compression tokens"),
    "restore_callback_states_from_checkpoint": ((False,), "the callbacks here restore themselves, always"),
}
REFUSED_OF_ACCELERATE: dict[str, tuple[tuple[Any, ...], str]] = {
    "dispatch_batches": ((None, False), "it cuts batches by rows, and pixels are packed over rows"),
    "split_batches": ((False,), "per_device_train_batch_size is what each process takes"),
    "even_batches": ((True,), "all processes exchange embeddings or counts in every step, so each needs a batch"),
}

FILES = ("accelerator_config", "deepspeed", "fsdp_config")  # mappings that may be the name of a file, too

# Newer versions of transformers have another name for it, warn of the old one, and go by the new one if both are set.
RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}

WITHOUT_ARGS = ("adamw_torch", "adamw_torch_fused", "adafactor", "lomo", "adalomo")

INTERVAL = Range("a number above 0: steps, or below 1 a share of all", POSITIVE.holds)
RANGES = {
    **dict.fromkeys(("num_train_epochs", "ddp_timeout", "adam_epsilon"), POSITIVE),
    **dict.fromkeys(("logging_steps", "save_steps"), INTERVAL),
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "eval_delay", "eval_steps"), AT_LEAST_0),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), BELOW_1),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), COUNT),
    **dict.fromkeys(("gradient_accumulation_steps", "save_total_limit", "dataloader_prefetch_factor"), COUNT),
    **dict.fromkeys(("seed", "data_seed"), Range("from 0 and below 2 ** 32", lambda n: WHOLE.holds(n) and n < 2**32)),
    "dataloader_num_workers": WHOLE,
    "label_smoothing_factor": FINITE,
    "neftune_noise_alpha": POSITIVE,
    "max_steps": Range("a whole number from 1, or -1 for epochs", lambda n: n == -1 or COUNT.holds(n)),
    "warmup_steps": Range(
        "a whole number of steps, or below 1 a share of all",
        lambda n: AT_LEAST_0.holds(n) and (n < 1 or n == int(n)),
    ),
    **dict.fromkeys(("max_length", "early_stopping_patience"), COUNT),
}


@dataclass
class ComaTrainingArguments(TrainingArguments):
    r"""
    `TrainingArguments` with the defaults of the official recipe, and what both stages have beside them.

    Every setting acts, or is refused with the reason as soon as it is made: numbers outside their range, words that
    are not in the list, and settings of `TrainingArguments` that have nothing to act upon here.

    Args:
        freeze_vision (`bool`, *optional*, defaults to `True`):
            Freezes the vision tower. If not, it is trained whole; with an adapter, a copy of it goes into the adapter
            (`modules_to_save`), unless the `target_modules` of the adapter are in the tower.
        train_merger (`bool`, *optional*, defaults to `False`):
            Trains the merger of the vision tower nevertheless, with an adapter likewise. Other families call it
            projector, connector or aligner, and have it beside the tower.
        max_length (`int`, *optional*):
            Limit of an input in tokens; text beyond it is cut. The processor's own limit by default.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave bad rows out and count them.
        keep_best (`str`, *optional*):
            Metric of the evaluation by which the best checkpoint is chosen, `loss` or `ndcg@10` for instance; at the
            end the model is that one. Every evaluation then leaves a checkpoint, unless `save_strategy` or
            `save_steps` say otherwise.
        early_stopping_patience (`int`, *optional*):
            Ends the training after so many evaluations in a row in which that metric got no better; without
            `keep_best` it is `loss`.
    """

    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of warm-up; below 1, a share of all steps."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator needs every column."})

    freeze_vision: bool = field(default=True, metadata={"help": "Freeze the vision tower."})
    train_merger: bool = field(default=False, metadata={"help": "Train the merger of the tower nevertheless."})
    max_length: int | None = field(default=None, metadata={"help": "Most tokens of an input; longer texts are cut."})
    on_bad_row: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "On a bad row: raise, or skip (leave out and count)."}
    )
    keep_best: str | None = field(default=None, metadata={"help": "Metric of the checkpoint that is kept as best."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without a better one after which training ends."}
    )

    refused: ClassVar[Mapping[str, tuple[tuple[Any, ...], str]]] = REFUSED

    def __post_init__(self) -> None:
        check_choices(self)
        check_ranges(self, RANGES)
        for name, (values, reason) in self.refused.items():
            if (value := getattr(self, name)) not in values:
                raise ValueError(f"{name}={value!r} cannot act here: {reason}. Leave it out.")
        if self.learning_rate == 0 and getattr(self, "temperature_learning_rate", None) is None:
            raise ValueError("learning_rate must be a number above 0, got 0: nothing would be trained.")
        if self.push_to_hub and self.hub_token is not None:
            raise ValueError(
                "hub_token would be published: it is in training_args.bin, which `Trainer` pushes. Log in instead "
                "(`hf auth login`), or set HF_TOKEN."
            )
        for name in self._VALID_DICT_FIELDS:
            setattr(self, name, mapping_of(name, getattr(self, name), file=name in FILES))
        self._check_accelerator_config()
        self._check_precision()
        for old, new in RENAMED.items():
            if hasattr(self, new) and getattr(self, new) is None:
                setattr(self, new, getattr(self, old))
        keep_best(self)
        super().__post_init__()
        self._check_what_others_take()

    def check_trainer(self, config_class: type) -> None:
        """Raises for settings on which a trainer, whose own are those of `config_class`, would not act."""

    def _check_precision(self) -> None:
        """As `TrainingArguments` does, whose error does not say which setting it is about."""
        if self.use_cpu or is_torch_bf16_gpu_available() or is_torch_xla_available():
            return
        for name in ("bf16", "bf16_full_eval"):
            if getattr(self, name):
                raise ValueError(
                    f"{name}=True needs a GPU that computes in bfloat16, and there is none here. Set {name} to false, "
                    "which computes in fp32, or use_cpu to true, which computes in bfloat16 on the CPU, slowly."
                )

    def _check_accelerator_config(self) -> None:
        config = self.accelerator_config
        values = config if isinstance(config, dict) else {} if config is None else vars(config)
        if unknown := sorted(values.keys() - {field.name for field in fields(AcceleratorConfig)}):
            raise ValueError(f"accelerator_config has settings that do not exist: {unknown}.")
        for name, (allowed, reason) in REFUSED_OF_ACCELERATE.items():
            if (value := values.get(name, allowed[0])) not in allowed:
                raise ValueError(f"accelerator_config {name}={value!r} cannot act here: {reason}. Leave it out.")

    def _check_what_others_take(self) -> None:
        for name in self.report_to:
            if not getattr(integrations, f"is_{name}_available", lambda: True)():
                raise ValueError(f"report_to={name} needs a library that is not installed: `pip install {name}`.")
        if self.optim_args and self.optim.value in WITHOUT_ARGS:
            raise ValueError(
                f"optim_args={self.optim_args!r} cannot act: {self.optim.value} takes none. Leave it out."
            )
        if self.optim_target_modules is not None and not self.optim.value.startswith(("galore", "apollo")):
            raise ValueError(f"optim_target_modules cannot act: {self.optim.value} takes none.")
        if self.torch_compile and self.torch_compile_backend == "inductor":
            modes = [None, *torch._inductor.list_mode_options()]
            if self.torch_compile_mode not in modes:
                raise ValueError(f"torch_compile_mode must be one of {modes[1:]}, got {self.torch_compile_mode!r}.")
        if DebugOption.TPU_METRICS_DEBUG in self.debug and not is_torch_xla_available():
            raise ValueError("debug=tpu_metrics_debug cannot act here: there is no TPU. Leave it out.")


def mapping_of(name: str, value: Any, file: bool = False) -> Any:
    """
    A setting that is a mapping: as it is, or from JSON, as a command line gives it.

    Args:
        name (`str`):
            Name of the setting.
        value (`Any`):
            A mapping, JSON of one, or anything else that is not a string.
        file (`bool`, *optional*, defaults to `False`):
            Whether it may also be the name of a file with JSON.

    Raises:
        ValueError: if it is a string, and not JSON of a mapping in which every key is once.
    """
    if not isinstance(value, str):
        return value
    text = Path(value).read_text(encoding="utf-8") if file and not value.lstrip().startswith("{") else value
    try:
        mapping = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{name} must be a mapping, as JSON, got {value!r}: {error}.") from error
    if not isinstance(mapping, dict):
        raise ValueError(f"{name} must be a mapping, as JSON, got {value!r}.")
    return mapping
