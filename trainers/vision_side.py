"""The vision side of a model: all of the backbone but its language model. What of it is a merger, what is frozen."""

from torch import nn
from transformers import PreTrainedModel

from modeling_coma import ComaForEmbedding, backbone_coma


__all__ = ["freeze_vision", "is_part_of", "merger_parts", "vision_is_frozen", "vision_parts"]

BACKBONE = "backbone.model"


def vision_parts(model: ComaForEmbedding) -> list[str]:
    """Names of the parts of the vision side: towers, what projects their features, embeddings such as a line break."""
    return [f"{BACKBONE}.{name}" for name in backbone_coma.vision_parts(model.backbone)]


def merger_parts(model: ComaForEmbedding) -> list[str]:
    """
    Names of what feeds the features of the vision towers to the language model: all of the vision side that is no
    tower, which is a model with a configuration of its own; where there are only towers, the `merger` in them.

    Raises:
        ValueError: if there is nothing of the kind.
    """
    parts, modules = vision_parts(model), dict(model.named_modules())
    towers = [name for name in parts if name in modules and isinstance(_original(modules[name]), PreTrainedModel)]
    mergers = [name for name in parts if name not in towers]
    if not any(name in modules for name in mergers):
        mergers += [f"{name}.merger" for name in towers if hasattr(_original(modules[name]), "merger")]
    if not any(is_part_of(name, mergers) for name, _ in model.named_parameters()):
        raise ValueError(
            "train_merger is set, and the vision side of this backbone has no merger, outside of its towers or in "
            f"them ({', '.join(parts)}): leave train_merger as it is, or set freeze_vision to false."
        )
    return mergers


def is_part_of(name: str, parts: list[str]) -> bool:
    """Whether a module or a parameter is one of these parts, or in one of them."""
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


def freeze_vision(model: ComaForEmbedding, train_merger: bool = False) -> None:
    """
    Freezes the vision side (paper, section 4.1), all of it or all but the merger that feeds the language model.

    Raises:
        ValueError: if the merger is to be trained and there is none.
    """
    parts, mergers = vision_parts(model), merger_parts(model) if train_merger else []
    for name, weight in model.named_parameters():
        if is_part_of(name, parts):
            weight.requires_grad_(is_part_of(name, mergers))


def vision_is_frozen(model: ComaForEmbedding) -> bool:
    """Whether nothing of the vision side requires gradients: its features are then the same however they are used."""
    return not any(weight.requires_grad for weight in backbone_coma.vision_parameters(model.backbone))


def _original(module: nn.Module) -> nn.Module:
    """The module itself where PEFT has wrapped it to train a copy."""
    return getattr(module, "original_module", module)
