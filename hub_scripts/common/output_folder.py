"""The folder that a training writes: its own from the first file to the last, and of nobody else.

What a training was begun with is written into the folder: `_begun_with.json`, a name that is not pushed to the Hub. By
it a training is resumed only with what it was begun with, and never takes the place of another one. Settings that are
not given when it is resumed are those of its beginning; those that are given must be the same. What may change: how
much is trained (`max_steps`, `num_train_epochs`; the learning rate then follows the schedule of the new length),
`on_bad_row`, and all that does not change the weights (logging, saving, evaluation, memory, engines).
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.data_digest import data_digest, digest_of_files


if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hub_scripts.common.training import ModelArguments
    from trainers.base import ComaTrainer


__all__ = ["Beginning", "output_folder", "save_whole", "settings_of_beginning"]

BEGUN, TEMPORARY = "_begun_with.json", ".saving"
WORK = ("checkpoint-*/trainer_state.json", "*.safetensors", "base")
WEIGHTS = ("*.safetensors", "*.bin", "config.json", "adapter_config.json")
# May lie in a folder that a training is to have: nothing that it writes has such a name.
HARMLESS_FILES = (".*", "*.log", "*.out", "*.err", "*.yaml", "*.yml", "runs", "logs")
# Of the settings of TrainingArguments, those that the weights depend on; of our own, all but a few.
MATTER = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "max_grad_norm"),
    *("optim", "optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_drop_last"),
    *("train_sampling_strategy", "length_column_name"),
    *("bf16", "fp16", "seed", "data_seed", "neftune_noise_alpha"),
)
OF_THE_BASE = {"num_compression_tokens", "min_pixels", "max_pixels", "dtype"}
DO_NOT_MATTER = {"model", "data", "eval_data", "image_root", "cache_pixels", "on_bad_row", "mini_batch_tokens"}


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What a training is begun with, and where; `write` leaves it there, on the main process."""

    folder: Path
    record: dict[str, Any]
    is_main: bool

    def write(self) -> None:
        """Makes the folder the training's own. What goes on keeps the record of its beginning."""
        known = folder_record(self.folder)
        if self.is_main and (known is None or _differences(known, self.record)):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / BEGUN).write_text(json.dumps(self.record, indent=2) + "\n", encoding="utf-8")


@contextmanager
def output_folder(command: str, arguments: "ModelArguments", config: "TrainingArguments") -> Iterator[Beginning]:
    """
    Holds the output folder of a training, for this process and those that were started with it.

    Args:
        command (`str`): what trains.
        arguments ([`ModelArguments`]): model and data.
        config (`TrainingArguments`): settings, with the output folder and what is resumed.

    Yields:
        [`Beginning`]: to be written before anything else is.

    Raises:
        ValueError: if another process writes there, if something is there already, or if what is there was begun with
            something else than what is to be resumed.
    """
    from trainers.files import one_writer

    is_main = config.process_index == 0
    begun = Beginning(Path(config.output_dir), _record(command, arguments, config) if is_main else {}, is_main)
    if not is_main:
        yield begun
        return
    if begun.folder.resolve() == Path(arguments.model).resolve():
        raise ValueError(f"--output_dir {begun.folder} is the model itself: give another folder.")
    if begun.folder.exists() and not begun.folder.is_dir():
        raise ValueError(f"--output_dir {begun.folder} is a file: give another folder.")
    with one_writer(begun.folder.resolve()):
        _check(begun, config.resume_from_checkpoint)
        yield begun


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


def _check(begun: Beginning, resume: str | None) -> None:
    folder, record = begun.folder, folder_record(begun.folder)
    elsewhere = resume is not None and resume != "true" and Path(resume).resolve().parent != folder.resolve()
    if elsewhere and (theirs := folder_record(Path(resume).resolve().parent)) is not None:
        # With another output folder, settings and data may be others: they are asked for.
        if theirs["model"] != begun.record["model"]:
            raise ValueError(f"{resume} is a checkpoint of a training of another model than {_name(begun)}.")
    work = sorted(path for pattern in WORK for path in folder.glob(pattern))
    if record is None:
        if found := _foreign(folder):
            raise ValueError(
                f"{folder} is there already, with {found} and no record of a training, and nothing is overwritten: "
                "give another --output_dir. (--resume_from_checkpoint FOLDER/checkpoint-N takes a checkpoint there.)"
            )
    elif work and (other := _differences(*(_of_work(known, work) for known in (record, begun.record)))):
        raise ValueError(f"{folder} was begun with another {'; '.join(other)}: give another --output_dir.")
    elif (resume is None or elsewhere) and any(path.name != "base" for path in work):
        raise ValueError(
            f"{folder} has a training with these settings already: --resume_from_checkpoint true goes on with it; "
            "for a new one give another --output_dir."
        )


def _of_work(record: dict[str, Any], work: list[Path]) -> dict[str, Any]:
    """Of a record what the files of a training depend on: before the first weights that is only what made `base`."""
    if any(path.name != "base" for path in work):
        return record
    settings = {name: value for name, value in record.get("settings", {}).items() if name in OF_THE_BASE}
    return {**record, "data": None, "num_processes": None, "settings": settings}


def settings_of_beginning(folder: str | Path) -> dict[str, Any]:
    """The settings that the training of a folder was begun with; none if it has no record."""
    return (folder_record(Path(folder)) or {}).get("settings", {})


def folder_record(folder: Path) -> dict[str, Any] | None:
    """What a training was begun with, if a folder says so."""
    path = folder / BEGUN
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): give another --output_dir.") from error


def _name(begun: Beginning) -> str:
    return begun.record["model"]["name"]


def _foreign(folder: Path) -> str:
    """The first name in a folder that a training cannot lie beside."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return next((name for name in names if not any(fnmatch(name, harmless) for harmless in HARMLESS_FILES)), "")


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What differs, with both values where they are short. What only one knows, another version has added."""
    found = [name for name in ("command", "data", "num_processes") if theirs.get(name) != ours.get(name)]
    if theirs.get("model", {}).get("digest") != ours["model"]["digest"]:
        found.insert(0, f"model ({theirs.get('model', {}).get('name')})")
    ours, theirs = ours["settings"], theirs.get("settings", {})
    settings = [name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]]
    return found + sorted(f"{name} ({theirs[name]!r}, now {ours[name]!r})"[:100] for name in settings)


def _record(command: str, arguments: "ModelArguments", config: "TrainingArguments") -> dict[str, Any]:
    from transformers import TrainingArguments

    general = {field.name for field in dataclasses.fields(TrainingArguments)} - set(MATTER)
    settings = {**config.to_dict(), **dataclasses.asdict(arguments)}
    left_out = general | DO_NOT_MATTER
    record = {
        "command": command,
        "model": {"name": Path(arguments.model).name, "digest": _digest_of_model(arguments.model)},
        "data": data_digest(arguments.data) or Path(arguments.data).name,
        "num_processes": config.world_size,
        "settings": {name: value for name, value in sorted(settings.items()) if name not in left_out},
    }
    return _plain(record)


def _digest_of_model(name: str) -> str:
    """Of a folder its weights, whatever it is called; of a model on the Hub its commit."""
    from transformers import AutoConfig

    if Path(name).exists():
        files = sorted(file for pattern in WEIGHTS for file in Path(name).glob(pattern))
        return digest_of_files(files) if files else ""
    config = AutoConfig.from_pretrained(name)
    return f"{name}@{getattr(config, '_commit_hash', None)}"


def save_whole(trainer: "ComaTrainer") -> None:
    """
    Saves what was trained in the output folder: all of it, or on an error nothing. On all processes.

    Args:
        trainer ([`ComaTrainer`]): after training.

    Raises:
        OSError: if it cannot be written.
    """
    from transformers.trainer import TRAINER_STATE_NAME

    from trainers.checkpoints import whole_or_nothing

    folder = Path(trainer.args.output_dir)
    temporary = folder / TEMPORARY
    with whole_or_nothing(temporary):
        trainer.save_model(str(temporary), _internal_call=True)  # whether it is pushed is decided by the caller
        if trainer.args.should_save:
            trainer.state.save_to_json(str(temporary / TRAINER_STATE_NAME))
        trainer.accelerator.wait_for_everyone()
        if trainer.args.should_save:
            for path in temporary.iterdir():
                if path.is_dir():
                    shutil.rmtree(folder / path.name, ignore_errors=True)
                path.replace(folder / path.name)
            temporary.rmdir()
