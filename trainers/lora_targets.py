"""What an adapter adapts: the projections of the layers of a language model that mix positions."""

import re

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from modeling_coma import ComaForEmbedding


__all__ = ["mixer_projections", "pattern_of"]


def mixer_projections(model: ComaForEmbedding) -> list[str]:
    """
    Names of the linear layers of attention, linear attention and convolutions in the language model: no MLPs, experts
    or routers.

    A module that mixes positions keeps its columns of the cache under its `layer_idx`. Decoder layers may have one,
    too, and hold the MLP: they are passed over. What has a `layer_idx` inside of another mixer picks positions for it
    or smooths its keys; no gradient has to reach it, so that it is left as it is.

    Raises:
        ValueError: if there is none.
    """
    decoder = model.backbone.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    mixers = [
        name
        for name, module in decoder.named_modules(prefix=prefix)
        if hasattr(module, "layer_idx") and not isinstance(module, GradientCheckpointingLayer)
    ]
    found = [
        name
        for name, module in decoder.named_modules(prefix=prefix)
        if isinstance(getattr(module, "base_layer", module), nn.Linear)  # which PEFT has wrapped, perhaps
        and "base_layer" not in name
        and not re.search(r"\.lora_\w+\.", name)
        and sum(name.startswith(f"{mixer}.") for mixer in mixers) == 1
    ]
    if not found:
        raise ValueError(f"{prefix}, a {type(decoder).__name__}, has no linear layers to adapt: pass target_modules.")
    return found


def pattern_of(names: list[str]) -> str:
    r"""One regular expression for names that differ in numbers and ends: `layers\.\d+\.self_attn\.(q_proj|k_proj)`."""
    ends: dict[str, dict[str, None]] = {}
    for name in names:
        parent, _, end = re.sub(r"\.\d+(?=\.)", r".\\d+", name).replace(".", r"\.").rpartition(r"\.")
        ends.setdefault(parent, {})[end] = None
    return "|".join(rf"{parent}\.({'|'.join(leaves)})" for parent, leaves in ends.items())
