"""What is trained: adapters on the language model and the compression tokens, or more where asked."""

from __future__ import annotations

import copy
from typing import Any

from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import check_target_module_exists

from modeling_coma import ComaForEmbedding


__all__ = ["add_adapter", "freeze_vision", "freeze_vision_of_adapter", "lora_config", "merge_adapter"]


def lora_config(model: ComaForEmbedding, r: int = 16, lora_alpha: int = 64, **kwargs: Any) -> LoraConfig:
    r"""
    The adapter of the official recipe: DoRA on the attention projections of the language model, rank 16, alpha 64,
    dropout 0.1, Gaussian initialisation. The rows of the compression tokens are trained beside it, and only they: the
    adapter file has K rows of the embedding matrix, never the matrix.

    Args:
        model ([`ComaForEmbedding`]):
            The model to be adapted.
        r (`int`, *optional*, defaults to 16):
            Rank.
        lora_alpha (`int`, *optional*, defaults to 64):
            Scale of the adapter, divided by the rank.
        kwargs:
            Any other field of `LoraConfig`, in place of those of the recipe.

    Returns:
        `LoraConfig` for `peft.get_peft_model` or the `peft_config` of a trainer.
    """
    recipe = {
        "lora_dropout": 0.1,
        "use_dora": True,
        "init_lora_weights": "gaussian",
        "target_modules": r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)",
        "trainable_token_indices": {"embed_tokens": list(model.config.compression_token_ids)},
    }
    return LoraConfig(r=r, lora_alpha=lora_alpha, **{**recipe, **kwargs})


def freeze_vision(model: ComaForEmbedding, train_merger: bool = False) -> None:
    """Freezes the vision tower (paper, section 4.1), all of it or all but the merger that feeds the language model."""
    visual = model.backbone.model.visual
    visual.requires_grad_(False)
    visual.merger.requires_grad_(train_merger)


def add_adapter(
    model: ComaForEmbedding, peft_config: LoraConfig, freeze_vision: bool = True, train_merger: bool = False
) -> PeftModel:
    r"""
    The model with a new adapter that trains of the vision tower what the settings say.

    What LoRA does not reach is trained as a copy, which goes into the adapter and into a merged model
    (`modules_to_save`): the tower, or its merger.

    Args:
        model ([`ComaForEmbedding`]):
            The model to be adapted.
        peft_config (`LoraConfig`):
            The adapter, of any `task_type`: there are no heads for it to act upon.
        freeze_vision (`bool`, *optional*, defaults to `True`):
            Whether the vision tower stays as it is.
        train_merger (`bool`, *optional*, defaults to `False`):
            Whether its merger is trained nevertheless.

    Returns:
        `PeftModel`

    Raises:
        ValueError: if the adapter is to act on a frozen tower.
    """
    peft_config = copy.deepcopy(peft_config)
    copies = list(peft_config.modules_to_save or [])
    adapted = [name for name in _names_in_tower(model) if _is_adapted(peft_config, name)]
    copied = [name for name in _names_in_tower(model) if any(f".{name}".endswith(f".{end}") for end in copies)]
    frozen = {name for name in adapted + copied if not (train_merger and _is_in_merger(name))}
    if freeze_vision and frozen:
        raise ValueError(
            f"freeze_vision is set, and the adapter would train {len(frozen)} modules of the vision tower, first "
            f"{min(frozen)}: set freeze_vision to false, or leave them out of the adapter."
        )
    if not freeze_vision and not adapted + copied:
        peft_config.modules_to_save = [*copies, "visual"]
    elif freeze_vision and train_merger and not adapted + copied:
        peft_config.modules_to_save = [*copies, "visual.merger"]
    # Not `get_peft_model`: by the task type it picks a wrapper that passes arguments of other models' heads.
    peft_config.base_model_name_or_path = model.name_or_path
    return PeftModel(model, peft_config)


def freeze_vision_of_adapter(model: PeftModel, freeze_vision: bool = True, train_merger: bool = False) -> None:
    """
    Freezes the vision tower of a model that has an adapter already, or finds that the adapter trains it.

    Raises:
        ValueError: if the tower or its merger are to be trained and the adapter has nothing of them: what is trained
            beside an adapter is not saved.
    """
    tower = model.get_base_model().backbone.model.visual
    trained = {name: weight for name, weight in tower.named_parameters() if weight.requires_grad}
    part = {name: weight for name, weight in trained.items() if not freeze_vision or name.startswith("merger.")}
    if (train_merger or not freeze_vision) and not part:
        raise ValueError(
            "The adapter trains nothing of the vision tower, and what is trained beside it would not be saved: leave "
            "freeze_vision and train_merger as they are, or pass the model and a `peft_config` instead."
        )
    for name, weight in trained.items():
        weight.requires_grad_(name in part and (train_merger or not freeze_vision))


def _names_in_tower(model: ComaForEmbedding) -> list[str]:
    tower = model.backbone.model.visual
    return ["backbone.model.visual", *(f"backbone.model.visual.{name}" for name, _ in tower.named_modules() if name)]


def _is_in_merger(name: str) -> bool:
    return name.startswith("backbone.model.visual.merger")


def _is_adapted(peft_config: LoraConfig, name: str) -> bool:
    if peft_config.target_modules == "all-linear":
        return True
    return bool(check_target_module_exists(peft_config, name))


def merge_adapter(model: PeftModel) -> ComaForEmbedding:
    """The model with the adapter and the trained rows of the compression tokens folded into its weights."""
    return model.merge_and_unload()
