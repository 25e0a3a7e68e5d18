"""What training leaves for the model card: a list of its stages, in `coma_training.json` beside the weights.

It is written with every checkpoint and at the end, so that what is merged or published of either knows how it came
about. A stage says what the model, the data and the trainer were, not what was typed. An empty list says that nothing
has been trained; a folder without the file does not say.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from hub_scripts.common.data_digest import data_digest
from hub_scripts.common.image_size import image_size
from hub_scripts.common.settings import EMOJI, ModelAndData
from hub_scripts.hub.clean_load import library_versions
from hub_scripts.hub.public_names import public_name, public_record
from trainers import __version__


if TYPE_CHECKING:
    from trainers.base import ComaTrainer


__all__ = ["TRAINING_FILE", "TrainingRecord", "describe_stage", "read_training_record", "write_stages"]

TRAINING_FILE = "coma_training.json"
LAYOUT = 2  # of a stage in the record. The first, which had no number, kept settings that did not act as well.
# Of the hundred settings of TrainingArguments those that make a recipe; of our own, all that acted.
RECIPE = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "train_sampling_strategy", "seed"),
)
ALWAYS = ("seed", "freeze_vision")  # which say something when they are 0 or false as well
WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")
WITH_COLUMNS = ("messages", "pairs", "webdataset")
ADAPTER = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "use_dora": "use_dora"}
NO_QUALITY = ("_runtime", "_per_second", "total_flos", "epoch", "step", "learning_rate", "grad_norm")

logger = logging.get_logger(__name__)


class TrainingRecord(TrainerCallback):
    """
    Writes the record of a training beside its checkpoints; [`TrainingRecord.write`] does so at the end.

    Args:
        trainer ([`ComaTrainer`]): before training, with its data: at the end the files may be others.
        arguments ([`ModelAndData`]): what is trained on what.
        earlier (`list[dict]`): stages that the model had gone through before.
    """

    def __init__(self, trainer: "ComaTrainer", arguments: ModelAndData, earlier: list[dict[str, Any]] | None) -> None:
        self.trainer, self.earlier = trainer, earlier or []
        self.source = _describe_source(trainer, arguments) if trainer.args.should_save else {}
        self.rows_skipped = 0

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        """A checkpoint has been saved: its record goes there."""
        self._count()
        folder = Path(self.trainer.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.trainer.state.global_step}")
        if self.trainer.args.should_save and folder.is_dir():
            self.write(folder, is_finished=False)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Rows are counted while all processes are there."""
        self._count()

    def write(self, folder: str | Path, is_finished: bool = True) -> None:
        """
        Writes all stages, on one process.

        Args:
            folder (`str` or `Path`): where the weights are.
            is_finished (`bool`, *optional*, defaults to `True`): whether they are those at the end of training.
        """
        stage = describe_stage(self.trainer, self.source, is_finished)
        if self.rows_skipped:
            stage["rows_skipped"] = self.rows_skipped
        write_stages(Path(folder), [*self.earlier, stage])

    def _count(self) -> None:
        """Rows that were left out since training began or was resumed, on all processes, every time they came up."""
        self.rows_skipped = self.trainer.left_out().get("rows_skipped", 0)


def write_stages(folder: Path, stages: list[dict[str, Any]]) -> None:
    """
    Writes the record of a model.

    Args:
        folder (`Path`): where its weights are.
        stages (`list[dict]`): what it has gone through; none, if nothing has been trained.
    """
    content = json.dumps(public_record(stages), indent=2, default=str, ensure_ascii=False)
    (folder / TRAINING_FILE).write_text(content + "\n", encoding="utf-8")


def read_training_record(name_or_path: str | Path) -> list[dict[str, Any]] | None:
    """
    Stages that a model has gone through, as far as its folder or repository tells.

    Args:
        name_or_path (`str` or `Path`): of the model.

    Returns:
        `list[dict]`, empty if nothing has been trained; `None` if there is no record.

    Raises:
        ValueError: for a record that cannot be read.
    """
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    name, path = str(name_or_path), Path(name_or_path, TRAINING_FILE)
    if not Path(name_or_path).exists():
        try:
            path = Path(hf_hub_download(name, TRAINING_FILE))
        except RemoteEntryNotFoundError:
            return None
        except LocalEntryNotFoundError:  # the Hub does not say whether there is one
            if try_to_load_from_cache(name, TRAINING_FILE) is _CACHED_NO_EXIST:
                return None
            logger.warning(f"{TRAINING_FILE} of {name} cannot be fetched: the card will not know its earlier stages.")
            return [{"stage": "unknown", "model": name}]
    return _read(path) if path.exists() else None


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no record of a training: {error}. Remove it, or restore it.") from error
    if not isinstance(stages, list) or not all(isinstance(stage, dict) and "stage" in stage for stage in stages):
        raise ValueError(f"{path} is no record of a training, which is a list of stages. Remove it, or restore it.")
    return stages


def describe_stage(trainer: "ComaTrainer", source: Mapping[str, Any], is_finished: bool) -> dict[str, Any]:
    """
    A stage as far as it has come.

    Args:
        trainer ([`ComaTrainer`]): during training, or after it.
        source (`Mapping`): what stands at its head: `model` and `data`.
        is_finished (`bool`): whether the weights are those at the end, which may be the best that there were.

    Returns:
        `dict` for JSON.
    """
    state, config, processor = trainer.state, trainer.args, trainer.processing_class
    stage = {
        "stage": trainer.stage,
        "layout": LAYOUT,
        "version": __version__,
        **source,
        "num_compression_tokens": trainer.coma.config.num_compression_tokens,
        "pixels": image_size(processor),
        "max_length": config.max_length if config.max_length is not None else processor.max_length,
        "dtype": str(trainer.coma.dtype).removeprefix("torch."),
        "mixed_precision": trainer.accelerator.mixed_precision,
        "processes": trainer.accelerator.num_processes,
        "adapter": _describe_adapter(trainer),
        "steps": state.global_step,
        "epochs": state.epoch,
        "rows_per_step": trainer.get_total_train_batch_size(config),
        "settings": _describe_settings(trainer),
        "last_log": _last_log(state.log_history, state.global_step, bool(config.resume_from_checkpoint)),
        "libraries": library_versions(),
    }
    if is_finished and config.load_best_model_at_end and state.best_global_step:
        stage["weights_of_step"] = state.best_global_step
    return {name: value for name, value in stage.items() if value is not None or name in ("adapter", "epochs")}


def _describe_source(trainer: "ComaTrainer", arguments: ModelAndData) -> dict[str, Any]:
    """What is trained on what, and how tables were read, as far as that is not as usual."""
    source: dict[str, Any] = {
        "model": public_name(arguments.model),
        "model_revision": getattr(trainer.coma.config, "_commit_hash", None),
    }
    # Made for this training in the output folder, it is known by the backbone that it was made of.
    if Path(arguments.model).absolute() == Path(trainer.args.output_dir, "base").absolute():
        source["model"] = public_name(trainer.coma.config.backbone_config._name_or_path) or "base"
    for name, dataset in (("data", trainer.train_dataset), ("eval_data", trainer.eval_dataset)):
        if (typed := getattr(arguments, name)) is not None:
            source |= {name: public_name(typed), f"{name}_digest": data_digest(typed)}
            # Rows that can be used, without those that were left out when they were read; none of a stream.
            source[f"{name}_rows"] = len(dataset) if hasattr(dataset, "__len__") else None
    if arguments.data == EMOJI:
        source["turns"] = getattr(arguments, "turns", None)
    else:
        source["data_format"] = arguments.data_format
        if arguments.data_format == "mmeb":
            source |= {"mmeb_split": arguments.mmeb_split, "mmeb_sets": arguments.mmeb_sets}
        if arguments.data_format in WITH_COLUMNS:
            columns = {field.name: field.default for field in dataclasses.fields(arguments.columns)}
            names = {column: getattr(arguments, column) for column in columns}
            source |= {column: name for column, name in names.items() if name != columns[column]}
    return {name: value for name, value in source.items() if value is not None}


def _describe_adapter(trainer: "ComaTrainer") -> dict[str, Any] | None:
    """What the adapter is, if one was trained; of the model, since a trainer can be given any."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not getattr(model, "peft_config", None):
        return None
    config = model.peft_config[model.active_adapter]
    adapter = {name: getattr(config, attribute) for name, attribute in ADAPTER.items() if hasattr(config, attribute)}
    modules = config.target_modules
    return adapter | {"target_modules": modules if isinstance(modules, str) else sorted(modules or ())}


def _describe_settings(trainer: "ComaTrainer") -> dict[str, Any]:
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
        "train_sampling_strategy": values["train_sampling_strategy"] != "random",
        "warmup_steps": str(values["lr_scheduler_type"]) not in WITHOUT_WARMUP,
        "max_length": False,  # the limit that held, be it the processor's, stands by itself
        "on_bad_row": False,  # counted, if there were any
    }
    settings = {name: values[name] for name in (*RECIPE, *own) if name in on and needs.get(name, True)}
    if "compression_instruction" in values or "joint_weight" in on:  # the lines that stood there, if they did
        collator = getattr(trainer.data_collator, "dialogues", None) or trainer.data_collator
        processor = trainer.processing_class
        lines = {"with images": processor.image_instruction, "without": processor.text_instruction}
        has_lines = getattr(collator, "options", {}).get("compression_instruction")
        settings["compression_instruction"] = lines if has_lines else None
    return settings


def _last_log(history: list[dict[str, float]], steps: int, is_resumed: bool) -> dict[str, float]:
    """The last value of everything that was logged about quality; of an earlier step, with its number."""
    latest: dict[str, tuple[int, float]] = {}
    for entry in history:
        latest |= {name: (entry.get("step", steps), value) for name, value in entry.items()}
    # Of a training that was resumed, `Trainer` divides the losses since then by the steps since the beginning.
    left_out = (*NO_QUALITY, "train_loss") if is_resumed else NO_QUALITY
    return {
        f"{name} (step {step})" if step != steps else name: value
        for name, (step, value) in latest.items()
        if not name.endswith(left_out)
    }
