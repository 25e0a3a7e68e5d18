"""The folder that a training writes: its own from the first file to the last, and of nobody else.

What a training was begun with is written into the folder: `_begun_with.json`, a name that is not pushed to the Hub. By
it a training is resumed only with what it was begun with, and never takes the place of another one. Settings that are
not given when it is resumed are those of its beginning; those that are given must be the same. What may change: how
much is trained (`max_steps`, `num_train_epochs`; the learning rate then follows the schedule of the new length),
`on_bad_row`, and all that does not change the weights (logging, saving, evaluation, memory, engines).
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.data_digest import data_digest, digest_of_files
from trainers.files import differences, one_writer, read_record, write_record


if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hub_scripts.common.settings import ModelAndData


__all__ = ["output_folder", "settings_of_beginning"]

BEGUN = "_begun_with.json"
WEIGHTS_OF_TRAINING = ("checkpoint-*/trainer_state.json", "*.safetensors")
WEIGHTS_OF_MODEL = ("*.safetensors", "*.bin", "config.json", "adapter_config.json")
# May lie in a folder that a training is to have: nothing that it writes has such a name.
HARMLESS_FILES = (".*", "*.log", "*.out", "*.err", "*.yaml", "*.yml", "runs", "logs")
# Of the settings of TrainingArguments, those that the weights depend on; of our own, all but a few.
MATTER = {
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "max_grad_norm"),
    *("optim", "optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_drop_last"),
    *("train_sampling_strategy", "length_column_name"),
    *("bf16", "fp16", "seed", "data_seed", "neftune_noise_alpha"),
}
OF_THE_BASE = {"num_compression_tokens", "min_pixels", "max_pixels", "dtype"}
DO_NOT_MATTER = {"model", "data", "image_root", "cache_pixels", "on_bad_row", "mini_batch_tokens"}
DO_NOT_MATTER |= {"keep_best", "early_stopping_patience", "max_image_pixels"}


@contextmanager
def output_folder(
    command: str, arguments: "ModelAndData", config: "TrainingArguments"
) -> Iterator[Callable[[], None]]:
    """
    Holds the output folder of a training, for this process and those that were started with it.

    Args:
        command (`str`): what trains.
        arguments ([`ModelAndData`]): model and data.
        config (`TrainingArguments`): settings, with the output folder and what is resumed.

    Yields:
        `Callable`: to be called before anything is written; it writes what the training is begun with.

    Raises:
        ValueError: if another process writes there, if something is there already, or if what is there was begun with
            something else than what is to be resumed.
    """
    if config.process_index != 0:
        yield lambda: None
        return
    folder, record = Path(config.output_dir), _record(command, arguments, config)
    if folder.resolve() == Path(arguments.model).resolve():
        raise ValueError(f"--output_dir {folder} is the model itself: give another folder.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file: give another folder.")
    with one_writer(folder.resolve()):
        is_trained = any(file for pattern in WEIGHTS_OF_TRAINING for file in folder.glob(pattern))
        _check(folder, record, config.resume_from_checkpoint, is_trained)
        # What goes on keeps the record of its beginning.
        yield (lambda: None) if is_trained else partial(write_record, folder / BEGUN, record)


def settings_of_beginning(folder: str | Path) -> dict[str, Any]:
    """The settings that the training of a folder was begun with; none if it has no record."""
    return (_read(Path(folder)) or {}).get("settings", {})


def _read(folder: Path) -> dict[str, Any] | None:
    """What a training was begun with, if a folder says so."""
    path = folder / BEGUN
    if not path.exists():
        return None
    try:
        record = read_record(path, "record of a training")
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: give another --output_dir. {error}") from error
    settings = record.get("settings", {})
    column = settings.pop("length_column", None)
    if column is not None:  # as version 0.1 called it
        settings.update(train_sampling_strategy="group_by_length", length_column_name=column)
    return record


def _check(folder: Path, record: dict[str, Any], resume: str | None, is_trained: bool) -> None:
    before = _read(folder)
    goes_on = resume is not None and (resume == "true" or Path(resume).resolve().parent == folder.resolve())
    if resume is not None and not goes_on:
        # With another output folder, settings and data may be others: they are asked for.
        other = _read(Path(resume).resolve().parent)
        if other is not None and other.get("model") != record["model"]:
            raise ValueError(
                f"{resume} is a checkpoint of a training of another model than {record['model']['name']}."
            )
    if before is None:
        if file := _foreign_file(folder):
            raise ValueError(
                f"{folder} is there already, with {file} and no record of a training, and nothing is overwritten: "
                "give another --output_dir. (--resume_from_checkpoint FOLDER/checkpoint-N takes a checkpoint there.)"
            )
        return
    depends = is_trained or (folder / "base").exists()
    if depends and (differing := _differences(before, record, is_trained)):
        raise ValueError(f"{folder} was begun with another {'; '.join(differing)}: give another --output_dir.")
    if is_trained and not goes_on:
        raise ValueError(
            f"{folder} has a training with these settings already: --resume_from_checkpoint true goes on with it; "
            "for a new one give another --output_dir."
        )


def _foreign_file(folder: Path) -> str:
    """The first name in a folder that a training cannot lie beside."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return next((name for name in names if not any(fnmatch(name, harmless) for harmless in HARMLESS_FILES)), "")


def _differences(before: dict[str, Any], now: dict[str, Any], is_trained: bool) -> list[str]:
    """What differs of that which the files of a training depend on: before the first weights, that is `base` alone."""
    differing = []
    if before.get("model", {}).get("digest") != now["model"]["digest"]:
        differing.append(f"model ({before.get('model', {}).get('name')})")
    names = ("command", "data", "num_processes") if is_trained else ("command",)
    differing += [name for name in names if before.get(name) != now.get(name)]
    before, now = before.get("settings", {}), now["settings"]
    known = before.keys() & now.keys()  # what only one of them knows, another version has added
    return differing + differences(before, now, known if is_trained else known & OF_THE_BASE)


def _record(command: str, arguments: "ModelAndData", config: "TrainingArguments") -> dict[str, Any]:
    """What a training is begun with, as JSON gives it back."""
    from transformers import TrainingArguments

    general = {field.name for field in dataclasses.fields(TrainingArguments)}
    left_out = (general - MATTER) | DO_NOT_MATTER
    settings = {**config.to_dict(), **dataclasses.asdict(arguments)}
    left_out |= {name for name in settings if name.startswith("eval_")}
    record = {
        "command": command,
        "model": {"name": Path(arguments.model).name, "digest": _digest_of_model(arguments.model)},
        "data": data_digest(arguments.data) or Path(arguments.data).name,
        "num_processes": config.world_size,
        "settings": {name: value for name, value in sorted(settings.items()) if name not in left_out},
    }
    return json.loads(json.dumps(record, default=str))


def _digest_of_model(name: str) -> str:
    """Of a folder its weights, whatever it is called; of a model on the Hub its commit."""
    from transformers import AutoConfig

    if Path(name).exists():
        files = sorted(file for pattern in WEIGHTS_OF_MODEL for file in Path(name).glob(pattern))
        return digest_of_files(files) if files else ""
    config = AutoConfig.from_pretrained(name)
    return f"{name}@{getattr(config, '_commit_hash', None)}"
