"""Checkpoints that are whole: which is the last one, can its files be read, none half-written; and their weights."""

from __future__ import annotations

import errno
import json
import shutil
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from modeling_coma import ComaForEmbedding


__all__ = [
    "check_checkpoint",
    "check_files",
    "last_checkpoint",
    "load_weights",
    "restore_weights",
    "whole_or_nothing",
]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CONFIGURATIONS = {
    *("config.json", "generation_config.json", "adapter_config.json", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"),
}


def last_checkpoint(output_dir: str | Path) -> str:
    """
    The last complete checkpoint in a folder. One whose saving was interrupted lacks the file that is written last.

    Raises:
        ValueError: if there is none.
    """
    states = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")
    numbers = {state.parent.name.rpartition("-")[2]: state.parent for state in states}
    checkpoints = {int(number): folder for number, folder in numbers.items() if number.isdecimal()}
    if not checkpoints:
        raise ValueError(f"There is no complete checkpoint in {output_dir} to resume from.")
    return str(checkpoints[max(checkpoints)])


def check_checkpoint(folder: str | Path, engine: bool = False) -> None:
    """
    Raises if training cannot go on from a checkpoint, before anything has been loaded.

    Args:
        folder (`str` or `Path`):
            The checkpoint.
        engine (`bool`, *optional*, defaults to `False`):
            Whether DeepSpeed or FSDP has written its optimizer, under names of its own.

    Raises:
        ValueError: names the file that is missing or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder with a checkpoint to resume from.")
    needed = (TRAINER_STATE_NAME,) if engine else (TRAINER_STATE_NAME, OPTIMIZER_NAME, SCHEDULER_NAME)
    for name in needed:
        if not (folder / name).exists():
            raise ValueError(
                f"{folder} has no {name}, without which training cannot go on as it was (`save_only_model` and an "
                "interrupted save leave none): resume from another checkpoint, or train on from its weights."
            )
    check_files(folder)
    for file in _files(folder):
        if file.suffix in (".pt", ".pth") or file.name in (TRAINER_STATE_NAME, TRAINING_ARGS_NAME):
            _check_file(file)


def check_files(folder: str | Path) -> None:
    """
    Raises for the first file of a model or adapter that was cut or is not what its name says.

    Args:
        folder (`str` or `Path`):
            Where weights (`.safetensors`) and configurations may be.

    Raises:
        ValueError: names the file.
    """
    for file in _files(folder):
        if file.name in CONFIGURATIONS or file.suffix == ".safetensors":
            _check_file(file)


def load_weights(name_or_path: str | Path, dtype: str | torch.dtype = "auto") -> ComaForEmbedding:
    """
    Loads a CoMa model whose weights are all there and all its own.

    Args:
        name_or_path (`str` or `Path`):
            A folder, or a name on the Hub.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`):
            As in `from_pretrained`.

    Raises:
        ValueError: if it is another kind of model or an adapter, or if weights are missing, left over, cut, or of
            another shape.
    """
    folder = Path(name_or_path)
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise ValueError(
            f"{folder} is an adapter, no model: load it upon its base, `PeftModel.from_pretrained(base, folder, "
            "is_trainable=True)`."
        )
    config = AutoConfig.from_pretrained(name_or_path)
    if config.model_type != "coma":
        hint = f"make one of it by `coma create {name_or_path} OUT`"
        raise ValueError(f"{name_or_path} is a {config.model_type} model and no CoMa model: {hint}.")
    try:
        # Weights of another shape are reported like the others that do not fit, instead of a table and no name.
        options = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = ComaForEmbedding.from_pretrained(name_or_path, **options)
    except SafetensorError as error:
        raise ValueError(f"The weights of {name_or_path} cannot be read: {error}") from error
    wrong = {name: sorted(report[name]) for name in ("missing_keys", "mismatched_keys", "unexpected_keys")}
    if any(wrong.values()):
        raise ValueError(f"The weights of {name_or_path} do not fit its configuration: {wrong}")
    return model


def restore_weights(model: ComaForEmbedding, folder: str | Path) -> None:
    """
    Gives a model the weights of a checkpoint.

    Raises:
        ValueError: if the checkpoint is of another model, or its weights do not fit its own configuration.
    """
    saved = load_weights(folder, model.dtype).state_dict()
    own_shapes, saved_shapes = (
        {name: weight.shape for name, weight in weights.items()} for weights in (model.state_dict(), saved)
    )
    if other := sorted({name for name, _ in own_shapes.items() ^ saved_shapes.items()}):
        raise ValueError(
            f"The weights in {folder} are not of the model that is trained: {len(other)}, first {other[0]}."
        )
    model.load_state_dict(saved)


def _files(folder: str | Path) -> list[Path]:
    return sorted(file for file in Path(folder).iterdir() if file.is_file())


def _check_file(file: Path) -> None:
    """Reads of a file what shows that it is whole: JSON, the header of weights, the end of what torch saves."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                pass
        elif file.suffix == ".json":
            _check_json(file)
        elif not zipfile.is_zipfile(file):
            raise ValueError("it is not what torch saves, or was cut")
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}. Copy or download it again.") from error


def _check_json(file: Path) -> None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON and of UTF-8
        raise ValueError(f"it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"it is JSON of a {type(content).__name__}, not of an object")


class whole_or_nothing(AbstractContextManager):
    """
    Removes a folder again if its files cannot all be written, because the disk is full for instance.

    Args:
        folder (`str` or `Path`):
            What is written within.
        name (`str` or `Path`, *optional*):
            What it is going to be called, for the error.

    Raises:
        OSError: names the folder.
    """

    def __init__(self, folder: str | Path, name: str | Path | None = None) -> None:
        self.folder, self.name = folder, folder if name is None else name

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        # Of a file that could not be written, safetensors and tokenizers (a bare `Exception`) say the "os error", and
        # torch that its archive is not as long as it should be.
        is_os = isinstance(error, OSError) and error.errno in NO_SPACE
        is_rust = kind in (SafetensorError, Exception) and "os error" in str(error)
        is_torch = kind is RuntimeError and "inline_container" in str(error)
        if is_os or is_rust or is_torch:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise OSError(f"{self.name} could not be written, and nothing was left of it: {error}") from error
