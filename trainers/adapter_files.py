"""Adapter folders that PEFT and `AutoModel.from_pretrained` both read whole, and the base that they name.

transformers loads an adapter by rules of its own, by which the magnitudes of DoRA, which PEFT saves under a name
without `.weight` and restores by itself, are left out with no more than a line in the log. Under the full name both
libraries read them.
"""

import re
from pathlib import Path

from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


__all__ = ["check_adapter", "complete_adapter", "is_hub_name", "public_base"]

WEIGHTS = "adapter_model.safetensors"
MAGNITUDE = ".lora_magnitude_vector"
EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")  # PEFT saves them, too, where the vocabulary has grown


def complete_adapter(folder: str | Path) -> None:
    """
    Gives the weights of a saved adapter the names by which transformers finds them, too.

    Args:
        folder (`str` or `Path`): where `PeftModel.save_pretrained` has saved.
    """
    path = Path(folder, WEIGHTS)
    if not path.exists():
        return
    with safe_open(path, "pt") as file:
        metadata, names = file.metadata(), list(file.keys())
        weights = {_full_name(name): file.get_tensor(name) for name in names}
    if weights.keys() != set(names):
        save_file(weights, path, metadata=metadata)


def check_adapter(model: PeftModel, folder: str | Path) -> None:
    """
    Raises if a saved adapter was cut, or does not fit the one that a model has, which PEFT would load nevertheless.

    Args:
        model (`PeftModel`):
            The model with its adapter.
        folder (`str` or `Path`):
            Where the other one is saved.

    Raises:
        ValueError: names the file and the first weight that is missing, or of another shape.
    """
    path = Path(folder, WEIGHTS)
    if not path.exists():
        raise ValueError(f"{folder} has no {WEIGHTS}: what is trained here is an adapter.")
    try:
        with safe_open(path, "pt") as file:
            saved = {_full_name(name): tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read: {error}. Copy or download it again.") from error
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    expected = {_full_name(name): tuple(weight.shape) for name, weight in weights.items()}
    names = expected.keys() | {name for name in saved if not name.endswith(EMBEDDINGS)}
    if other := sorted(name for name in names if saved.get(name) != expected.get(name)):
        raise ValueError(
            f"{path} does not fit the adapter: {len(other)} of {len(names)} weights are missing, unknown, or of "
            f"another shape, first {other[0]}: {saved.get(other[0])} instead of {expected.get(other[0])}."
        )


def _full_name(name: str) -> str:
    return name + ".weight" * name.endswith(MAGNITUDE)


def is_hub_name(name: str | None) -> bool:
    """Whether a model is named as on the Hub, `org/name`, and there is no folder of that name here."""
    return bool(name) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None and not Path(name).exists()


def public_base(adapter: PeftModel | PeftConfig) -> str:
    """
    Name of the base of an adapter that is to be published.

    Raises:
        ValueError: if the base is a folder of this machine, which nobody who loads the adapter has.
    """
    config = adapter.peft_config[adapter.active_adapter] if isinstance(adapter, PeftModel) else adapter
    name = config.base_model_name_or_path
    if not is_hub_name(name):
        raise ValueError(
            f"The adapter names {name!r} as its base, which is not on the Hub: nobody else could load it. Push the "
            "base first (`coma push BASE ORG/NAME`) and train on it by that name, or push the merged model."
        )
    return name
