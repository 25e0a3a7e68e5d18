"""Loads a CoMa model for a command: from a folder or the Hub, full weights or an adapter, with nothing missing."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import snapshot_download
from transformers.utils import find_adapter_config_file, has_file

from hub_scripts.common.image_size import limit_image_pixels
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.checkpoints import check_files, load_weights


if TYPE_CHECKING:
    from peft import PeftModel


__all__ = [
    "check_folder",
    "fetch_adapter",
    "find_device",
    "is_adapter",
    "load_adapter",
    "load_model",
    "load_processor",
]

ADAPTER = "adapter_config.json"


def load_model(
    name_or_path: str, dtype: str = "auto", device: str = "auto", max_image_pixels: int | None = None
) -> tuple[ComaForEmbedding, ComaProcessor]:
    """
    Loads a model, on its device and ready to embed, and its processor.

    Args:
        name_or_path (`str`): a folder, or a name on the Hub; an adapter is loaded with its base.
        dtype (`str`, *optional*, defaults to `"auto"`): as in `from_pretrained`.
        device (`str`, *optional*, defaults to `"auto"`): by default the accelerator, if there is one.
        max_image_pixels (`int`, *optional*): images with more are refused; by default what the processor was saved
            with.

    Returns:
        `tuple[ComaForEmbedding, ComaProcessor]`

    Raises:
        ValueError: if it is another kind of model, or weights are missing or of another shape.
    """
    found_device = find_device(device)
    name_or_path = fetch_adapter(name_or_path)
    if is_adapter(name_or_path):
        from trainers.adapters import merge_adapter

        adapted, base = load_adapter(name_or_path, dtype=dtype)
        model, processor = merge_adapter(adapted), load_processor(name_or_path, base)
    else:
        check_folder(name_or_path)
        model, processor = load_weights(name_or_path, dtype), load_processor(name_or_path)
    limit_image_pixels(processor, max_image_pixels)
    return model.to(found_device).eval(), processor


def find_device(name: str = "auto") -> torch.device:
    """
    A device of this machine.

    Args:
        name (`str`, *optional*, defaults to `"auto"`): `cpu`, or an accelerator such as `cuda:1`; by default the
            accelerator, if there is one.

    Raises:
        ValueError: if there is no such device.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return accelerator or torch.device("cpu")
    known = ["cpu"]
    if accelerator is not None:
        known += [f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())]
    # Processes of torchrun call the CPU by their number 0.
    if name in (*known, "cpu:0") or (accelerator is not None and name == accelerator.type):
        return torch.device(name)
    raise ValueError(f"There is no device {name!r} on this machine, which has {', '.join(known)}.")


def check_folder(name_or_path: str) -> None:
    """
    Raises for what cannot be a model: a path where no folder is, a folder without a configuration, or with a file that
    was cut. A name on the Hub is left to `from_pretrained`.

    Raises:
        ValueError: names the file or folder.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / "config.json").exists() and not is_adapter(name_or_path):
            raise ValueError(f"{name_or_path} has no config.json: it is no folder of a model.")
        check_files(folder)
    elif folder.exists():
        raise ValueError(f"{name_or_path} is a file: give the folder of a model, or a name on the Hub.")
    elif folder.is_absolute() or name_or_path.startswith((".", "~")) or name_or_path.count("/") > 1:
        raise ValueError(f"There is no folder {name_or_path}.")


def fetch_adapter(name_or_path: str) -> str:
    """The folder of an adapter that is on the Hub; any other name is given back as it is."""
    is_name = name_or_path.count("/") == 1 and name_or_path[0] not in "./" and not Path(name_or_path).exists()
    if not is_name or find_adapter_config_file(name_or_path) is None or has_file(name_or_path, "config.json"):
        return name_or_path
    return snapshot_download(name_or_path)


def is_adapter(name_or_path: str) -> bool:
    """Whether a folder holds an adapter and no model."""
    folder = Path(name_or_path)
    return (folder / ADAPTER).exists() and not (folder / "config.json").exists()


def load_adapter(folder: str, base: str | None = None, dtype: str = "auto") -> tuple["PeftModel", str]:
    """
    Loads an adapter on its base.

    Args:
        folder (`str`): where the adapter is.
        base (`str`, *optional*): its base, if that is no longer where the adapter says.
        dtype (`str`, *optional*, defaults to `"auto"`): as in `from_pretrained`.

    Returns:
        `tuple[PeftModel, str]`: the model and the name of its base.

    Raises:
        ValueError: if there is no adapter, or its base is not there.
    """
    from peft import PeftConfig, PeftModel  # a second or two to import, and few commands need it

    from trainers.adapters import check_adapter

    if not (Path(folder) / ADAPTER).exists():
        raise ValueError(f"{folder} has no {ADAPTER}: it is no adapter folder.")
    check_files(folder)
    config = PeftConfig.from_pretrained(folder)
    named = config.base_model_name_or_path
    base = base or named
    if not base or (Path(base).is_absolute() and not Path(base).exists()):
        raise ValueError(f"The adapter {folder} names {named!r} as its base, which is not there: give --base FOLDER.")
    config.inference_mode = True
    check_folder(base)
    # Not `from_pretrained`: by the task type it picks a wrapper that passes arguments of other models' heads.
    adapted = PeftModel(load_weights(base, dtype), config)
    check_adapter(adapted, folder)
    adapted.load_adapter(folder, "default")
    return adapted.eval(), base


def load_processor(*places: str) -> ComaProcessor:
    """The processor from the first place that has one: that of an adapter goes before that of its base."""
    saved = (place for place in places if (Path(place) / "processor_config.json").exists())
    return ComaProcessor.from_pretrained(next(saved, places[-1]))
