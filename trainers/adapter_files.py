"""Adapter folders that PEFT and `AutoModel.from_pretrained` both read whole, and the base that they name.

transformers loads an adapter by rules of its own, by which the magnitudes of DoRA, which PEFT saves under a name
without `.weight` and restores by itself, are left out with no more than a line in the log. Under the full name both
libraries read them.
"""

import re
from pathlib import Path

from peft import PeftConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import save_file


__all__ = ["complete_adapter", "is_hub_name", "public_base"]

WEIGHTS = "adapter_model.safetensors"
MAGNITUDE = ".lora_magnitude_vector"


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
        weights = {name + ".weight" * name.endswith(MAGNITUDE): file.get_tensor(name) for name in names}
    if weights.keys() != set(names):
        save_file(weights, path, metadata=metadata)


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
