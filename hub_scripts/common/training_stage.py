"""One stage of training as the record has it: from the model, the data and the trainer, not from what was typed."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.data_digest import data_digest
from hub_scripts.hub.clean_load import library_versions
from hub_scripts.hub.public_names import public_name


if TYPE_CHECKING:
    from hub_scripts.common.training import ModelArguments
    from trainers.base import ComaTrainer


__all__ = ["LAYOUT", "describe_source", "describe_stage"]

LAYOUT = 2  # of a stage in the record. The first, which had no number, kept settings that did not act as well.
# Of the hundred settings of TrainingArguments those that make a recipe; of our own, all that acted.
RECIPE = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
)
ALWAYS = ("seed", "freeze_vision")  # which say something when they are 0 or false as well
WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")
WITH_COLUMNS = ("messages", "pairs", "webdataset")
SETTINGS_OF_DATA = {"mmeb": ("mmeb_split", "mmeb_sets")}


def describe_source(trainer: "ComaTrainer", arguments: "ModelArguments") -> dict[str, Any]:
    """
    What is trained on what. Read at the beginning: at the end the files may be others.

    Args:
        trainer ([`ComaTrainer`]): before training.
        arguments ([`ModelArguments`]): names of model and data.

    Returns:
        `dict`: what stands at the head of a stage.
    """
    from hub_scripts.common.training import EMOJI

    source: dict[str, Any] = {"model": _model_name(trainer, arguments)}
    commit = getattr(trainer.coma.config, "_commit_hash", None)
    source |= {"model_revision": commit} if commit else {}
    for name, dataset in (("data", trainer.train_dataset), ("eval_data", trainer.eval_dataset)):
        typed = getattr(arguments, name, None)
        if typed is not None:
            digest, rows = data_digest(typed), _rows(dataset)
            source |= {name: public_name(typed), **({f"{name}_digest": digest} if digest else {})}
            source |= {f"{name}_rows": rows} if rows is not None else {}
    if arguments.data == EMOJI:
        return source | ({"turns": arguments.turns} if hasattr(arguments, "turns") else {})
    return source | _reading(arguments)


def describe_stage(trainer: "ComaTrainer", source: Mapping[str, Any], is_finished: bool) -> dict[str, Any]:
    """
    A stage as far as it has come.

    Args:
        trainer ([`ComaTrainer`]): during training, or after it.
        source (`Mapping`): see [`describe_source`].
        is_finished (`bool`): whether the weights are those at the end, which may be the best that there were.

    Returns:
        `dict` for JSON.
    """
    from hub_scripts.cli import coma_version

    state, config, processor = trainer.state, trainer.args, trainer.processing_class
    size = processor.image_processor.size
    adapter = _adapter(trainer)
    stage = {
        "stage": trainer.stage,
        "layout": LAYOUT,
        "version": coma_version(),
        **source,
        "num_compression_tokens": trainer.coma.config.num_compression_tokens,
        "pixels": [size["shortest_edge"], size["longest_edge"]],
        "max_length": config.max_length if config.max_length is not None else processor.max_length,
        "dtype": str(trainer.coma.dtype).removeprefix("torch."),
        "mixed_precision": trainer.accelerator.mixed_precision,
        "processes": trainer.accelerator.num_processes,
        "adapter": adapter,
        "steps": state.global_step,
        "epochs": state.epoch,
        "rows_per_step": trainer.get_total_train_batch_size(config),
        "settings": _settings(trainer),
        "last_log": _last_log(state.log_history, state.global_step, bool(config.resume_from_checkpoint)),
        "libraries": library_versions(),
    }
    if is_finished and config.load_best_model_at_end and state.best_global_step:
        stage["weights_of_step"] = state.best_global_step
    return {name: value for name, value in stage.items() if value is not None or name in ("adapter", "epochs")}


def _model_name(trainer: "ComaTrainer", arguments: "ModelArguments") -> str:
    """Its name or, if it was made for this training in the output folder, that of the backbone it was made of."""
    made_here = Path(trainer.args.output_dir, "base").absolute()
    if Path(arguments.model).absolute() == made_here:
        return public_name(trainer.coma.config.backbone_config._name_or_path) or "base"
    return public_name(arguments.model)


def _rows(dataset: Any) -> int | None:
    """Rows that can be used, without those that were left out when they were read; none of a stream."""
    return len(dataset) if hasattr(dataset, "__len__") else None


def _reading(arguments: "ModelArguments") -> dict[str, Any]:
    """How tables were read, as far as it is not as usual."""
    from trainers.data.dialogues import DialogueColumns
    from trainers.data.pairs import PairColumns

    data_format = getattr(arguments, "data_format", None)
    reading = {"data_format": data_format}
    reading |= {name: getattr(arguments, name) for name in SETTINGS_OF_DATA.get(data_format, ())}
    if data_format in WITH_COLUMNS:
        columns = PairColumns if isinstance(arguments, PairColumns) else DialogueColumns
        for field in dataclasses.fields(columns):
            name = getattr(arguments, field.name, field.default)
            reading |= {field.name: name} if name != field.default else {}
    return {name: value for name, value in reading.items() if value is not None}


def _adapter(trainer: "ComaTrainer") -> dict[str, Any] | None:
    """What the adapter is, if one was trained; of the model, since a trainer can be given any."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    configs = getattr(model, "peft_config", None)
    if not configs:
        return None
    config = configs[model.active_adapter]
    names = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "use_dora": "use_dora"}
    found = {ours: getattr(config, theirs) for ours, theirs in names.items() if hasattr(config, theirs)}
    modules = config.target_modules
    found["target_modules"] = modules if isinstance(modules, str) else sorted(modules or ())
    return found


def _settings(trainer: "ComaTrainer") -> dict[str, Any]:
    """The recipe: settings that acted. What is off, or needs what is off, is not listed."""
    from transformers import TrainingArguments

    config = trainer.args
    general = {field.name for field in dataclasses.fields(TrainingArguments)}
    own = [field.name for field in dataclasses.fields(config) if field.name not in general]
    values = {name: value for name, value in config.to_dict().items() if name in (*RECIPE, *own)}
    values["per_device_train_batch_size"] = trainer.state.train_batch_size or config.per_device_train_batch_size
    on = {name for name, value in values.items() if name in ALWAYS or value not in (None, False, 0, "", [], {})}
    needs = {
        "kl_temperature": "kl_weight" in on,
        "train_merger": bool(values.get("freeze_vision")),  # else it is trained with the tower
        "warmup_steps": str(values["lr_scheduler_type"]) not in WITHOUT_WARMUP,
        "max_length": False,  # the limit that held, be it the processor's, stands by itself
        "on_bad_row": False,  # counted, if there were any
    }
    settings = {name: values[name] for name in (*RECIPE, *own) if name in on and needs.get(name, True)}
    if "compression_instruction" in values or "joint_weight" in on:
        settings["compression_instruction"] = _instruction(trainer)
    return settings


def _instruction(trainer: "ComaTrainer") -> dict[str, str] | None:
    """The lines that stood before the compression tokens in dialogues, if they stood there."""
    collator = trainer.data_collator
    collator = getattr(collator, "dialogues", None) or collator  # of the joint objective
    if not getattr(collator, "options", {}).get("compression_instruction"):
        return None
    processor = trainer.processing_class
    return {"with images": processor.image_instruction, "without": processor.text_instruction}


def _last_log(history: list[dict[str, float]], steps: int, is_resumed: bool) -> dict[str, float]:
    """The last value of everything that was logged about quality; of an earlier step, with its number."""
    latest: dict[str, tuple[int, float]] = {}
    for entry in history:
        latest |= {name: (entry.get("step", steps), value) for name, value in entry.items()}
    others = ("_runtime", "_per_second", "total_flos", "epoch", "step", "learning_rate", "grad_norm")
    # Of a training that was resumed, `Trainer` divides the losses since then by the steps since the beginning.
    others += ("train_loss",) if is_resumed else ()
    return {
        f"{name} (step {step})" if step != steps else name: value
        for name, (step, value) in latest.items()
        if not name.endswith(others)
    }
