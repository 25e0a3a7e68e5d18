"""Adapters (LoRA, DoRA): what is trained of a model, and how that is saved, checked when resumed, and merged."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from modeling_coma import ComaConfig, ComaForEmbedding
from trainers.lora_targets import mixer_projections, pattern_of
from trainers.token_rows import token_tables
from trainers.vision_side import is_part_of, merger_parts, vision_parts


__all__ = [
    "add_adapter",
    "check_adapter",
    "complete_adapter",
    "freeze_vision_of_adapter",
    "is_hub_name",
    "lora_config",
    "merge_adapter",
    "public_base",
]

MEMORY = "memory_projection"


def lora_config(model: str | ComaForEmbedding, r: int = 16, lora_alpha: int = 64, **kwargs: Any) -> LoraConfig:
    r"""
    The adapter of the official recipe: DoRA on the attention projections of the language model, rank 16, alpha 64,
    dropout 0.1, Gaussian initialisation. Where layers of the language model mix positions by linear attention or
    convolutions, the projections of these are adapted likewise. The rows of the compression tokens are trained beside
    it, and only they: the adapter file has K rows of the embedding matrix, never the matrix (and K of a per-layer
    table, where there is one). So is the projection of a memory of states, as a copy.

    Args:
        model (`str` or [`ComaForEmbedding`]):
            The model to be adapted, or the name of its folder or on the Hub.
        r (`int`, *optional*, defaults to 16):
            Rank.
        lora_alpha (`int`, *optional*, defaults to 64):
            Scale of the adapter, divided by the rank.
        kwargs:
            Any other field of `LoraConfig`, in place of those of the recipe.

    Returns:
        `LoraConfig` for `peft.get_peft_model` or the `peft_config` of a trainer.

    Raises:
        ValueError: if the language model has nothing of the kind, and `kwargs` no `target_modules`.
    """
    if isinstance(model, str | Path):
        with torch.device("meta"):  # the names of modules are asked for, not their weights
            model = ComaForEmbedding(ComaConfig.from_pretrained(model))
    ids, tables = list(model.config.compression_token_ids), token_tables(model.backbone)
    recipe = {
        "lora_dropout": 0.1,
        "use_dora": True,
        "init_lora_weights": "gaussian",
        "trainable_token_indices": {f"backbone.{table}": ids for table in tables},
    }
    if "target_modules" not in kwargs:
        recipe["target_modules"] = pattern_of(mixer_projections(model))
    if model.config.memory == "states":
        recipe["modules_to_save"] = [MEMORY]
    return LoraConfig(r=r, lora_alpha=lora_alpha, **{**recipe, **kwargs})


def add_adapter(
    model: ComaForEmbedding, peft_config: LoraConfig, freeze_vision: bool = True, train_merger: bool = False
) -> PeftModel:
    r"""
    The model with a new adapter that trains of the vision tower what the settings say.

    What LoRA does not reach is trained as a copy, which goes into the adapter and into a merged model
    (`modules_to_save`): the projection of a memory of states, the tower, or its merger. Only modules can be copied: a
    bare parameter of the backbone beside them, such as an embedding of line breaks, stays as it is.

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
        ValueError: if the adapter is to act on a frozen tower, or there is no merger to be trained.
    """
    peft_config = copy.deepcopy(peft_config)
    copies = list(peft_config.modules_to_save or [])
    parts, mergers = vision_parts(model), merger_parts(model) if freeze_vision and train_merger else []
    names = [name for name, _ in model.named_modules()]
    if MEMORY in names and not _is_adapted(peft_config, MEMORY) and not _is_copied(copies, MEMORY):
        peft_config.modules_to_save = copies = [*copies, MEMORY]
    tower = [name for name in names if is_part_of(name, parts)]
    trained = [name for name in tower if _is_adapted(peft_config, name) or _is_copied(copies, name)]
    frozen = [name for name in trained if not is_part_of(name, mergers)]
    if freeze_vision and frozen:
        raise ValueError(
            f"freeze_vision is set, and the adapter would train {len(frozen)} modules of the vision tower, first "
            f"{min(frozen)}: set freeze_vision to false, or leave them out of the adapter."
        )
    if not trained:
        wanted = mergers if freeze_vision else parts
        peft_config.modules_to_save = [*copies, *(name for name in wanted if name in names)] or None
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
    base = model.get_base_model()
    parts, weights = vision_parts(base), base.named_parameters()
    trained = {name: weight for name, weight in weights if weight.requires_grad and is_part_of(name, parts)}
    if not freeze_vision:
        kept = set(trained)
    elif train_merger:
        mergers = merger_parts(base)
        kept = {name for name in trained if is_part_of(name, mergers)}
    else:
        kept = set()
    if not kept and (train_merger or not freeze_vision):
        raise ValueError(
            "The adapter trains nothing of the vision tower, and what is trained beside it would not be saved: leave "
            "freeze_vision and train_merger as they are, or pass the model and a `peft_config` instead."
        )
    for name, weight in trained.items():
        weight.requires_grad_(name in kept)


def _is_adapted(peft_config: LoraConfig, name: str) -> bool:
    if peft_config.target_modules == "all-linear":
        return True
    return bool(check_target_module_exists(peft_config, name))


def _is_copied(copies: list[str], name: str) -> bool:
    """PEFT goes by the ends of names, be they whole words or not."""
    return name.endswith(tuple(copies))


def merge_adapter(model: PeftModel) -> ComaForEmbedding:
    """The model with the adapter and the trained rows of the compression tokens folded into its weights."""
    return model.merge_and_unload()


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
    """The name that transformers knows: PEFT saves the magnitudes of DoRA without the end of theirs."""
    return f"{name}.weight" if name.endswith(MAGNITUDE) else name


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
