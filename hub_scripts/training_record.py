"""What training leaves for the model card: a list of its stages, in `coma_training.json` beside the weights."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.clean_load import library_versions


if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hub_scripts.settings import ModelArguments
    from trainers.base import ComaTrainer


__all__ = ["TRAINING_FILE", "read_training_record", "write_training_record"]

TRAINING_FILE = "coma_training.json"
# Of the hundred settings of TrainingArguments those that make a recipe; those of our own are recorded all.
RECIPE = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
    "seed",
)
ADAPTER = ("lora_r", "lora_alpha", "lora_dropout", "use_dora")


def write_training_record(
    trainer: "ComaTrainer",
    config: "TrainingArguments",
    arguments: "ModelArguments",
    earlier: list[dict[str, Any]],
) -> None:
    """
    Adds a stage to the record of the model that was trained, and saves it in the output folder.

    Args:
        trainer ([`ComaTrainer`]): after training.
        config (`TrainingArguments`): its settings.
        arguments ([`ModelArguments`]): what was trained on what.
        earlier (`list[dict]`): stages that the model had gone through before.
    """
    from transformers import TrainingArguments

    from hub_scripts.cli import coma_version

    general = {field.name for field in dataclasses.fields(TrainingArguments)}
    own = [field.name for field in dataclasses.fields(config) if field.name not in general]
    settings = config.to_dict()
    options = dataclasses.asdict(arguments)
    adapter = {name: options.pop(name) for name in ADAPTER}
    stage = {
        "stage": type(trainer).__name__.removeprefix("Coma").removesuffix("Trainer").lower(),
        "version": coma_version(),
        "model": _public(options.pop("model")),
        **{name: _public(value) for name, value in options.items() if value is not None},
        "adapter": adapter if arguments.lora_r else None,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "rows_per_step": trainer.state.train_batch_size * config.world_size * config.gradient_accumulation_steps,
        "settings": {name: settings[name] for name in (*RECIPE, *own) if settings[name] is not None},
        "last_log": _last_log(trainer.state.log_history),
        "libraries": library_versions(),
    }
    content = json.dumps([*earlier, stage], indent=2, default=str)
    Path(config.output_dir, TRAINING_FILE).write_text(content + "\n", encoding="utf-8")


def read_training_record(name_or_path: str | Path) -> list[dict[str, Any]]:
    """Stages that a model has gone through, as far as its folder or repository tells."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    path = Path(name_or_path, TRAINING_FILE)
    if not Path(name_or_path).exists():
        try:
            path = Path(hf_hub_download(str(name_or_path), TRAINING_FILE))
        except EntryNotFoundError:
            return []
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _public(value: Any) -> Any:
    """Of a path that begins at the root only its name: the rest is nobody's business."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _last_log(history: list[dict[str, float]]) -> dict[str, float]:
    """The last value of everything that was logged about quality."""
    latest: dict[str, float] = {}
    for entry in history:
        latest |= entry
    rates = ("_runtime", "_per_second", "total_flos", "epoch", "step", "learning_rate", "grad_norm")
    return {name: value for name, value in latest.items() if not name.endswith(rates)}
