"""Prepares a model for the Hub: writes to a folder what will be sent, and proves that the folder loads anywhere."""

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.loading import is_adapter, load_adapter, load_model, load_processor
from hub_scripts.hub.card import write_model_card
from hub_scripts.hub.golden import check_clean_load, write_golden
from hub_scripts.hub.model_files import (
    MULTI_VECTOR_CODE,
    SENTENCE_TRANSFORMERS_FILES,
    belonging,
    module_folders,
    others,
)
from hub_scripts.hub.public_names import HUB_ID, public_name
from hub_scripts.hub.training_record import read_training_record, write_stages
from hub_scripts.hub.upload import fetch_model
from hub_scripts.merge import merge_model
from trainers.checkpoints import whole_or_nothing
from trainers.files import LOSS_PICTURE


if TYPE_CHECKING:
    from peft import PeftModel

    from modeling_coma import ComaProcessor


__all__ = ["prepare_model"]

# Of a saved folder, what may name files of this machine. (The base of an adapter has been checked to be on the Hub.)
CONFIGS = ("config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json")
NAMES_A_FILE = re.compile(r"(.*_)?(name_or_path|files?)")
KEPT = (*SENTENCE_TRANSFORMERS_FILES, MULTI_VECTOR_CODE, LOSS_PICTURE, "LICENSE", "NOTICE")


def prepare_model(
    name: str,
    folder: Path,
    repo_id: str,
    adapter: bool = False,
    base: str | None = None,
    max_shard_size: str = "5GB",
    **card: Any,
) -> list[str]:
    """
    Writes what is to be published, and proves that it loads.

    Args:
        name (`str`): folder of a model or an adapter, or the name of a model on the Hub.
        folder (`Path`): an empty folder, to write to.
        repo_id (`str`): what it will be called on the Hub.
        adapter (`bool`, *optional*, defaults to `False`): whether an adapter stays one. Else it is merged.
        base (`str`, *optional*): base of an adapter, if it is not where, or what, the adapter says.
        max_shard_size (`str`, *optional*, defaults to `"5GB"`): of a file of weights.
        card: passed to [`write_model_card`].

    Returns:
        `list[str]`: names of what lies in the folder of the model and is left out.

    Raises:
        ValueError: if the folder does not load without this package, or embeds differently, and for a link in the
            folder of the model that leads out of it.
        OSError: if it cannot be written, because the disk is full for instance.
    """
    source = Path(name)
    if not source.exists() and HUB_ID.fullmatch(name):
        source = fetch_model(name)
    if not source.is_dir():
        raise ValueError(f"{name} is neither a folder nor a model on the Hub.")
    files = belonging(source, linked_weights=True)  # before anything is read through a link that leads out
    with whole_or_nothing(folder, folder.parent):
        if adapter:
            model, processor, card["adapter_of"] = _save_adapter(str(source), folder, base)
        else:
            model, processor = _load_whole(str(source), base)
            model.save_pretrained(folder, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
        _hide_paths(folder)
        _copy_companions(source, files, folder)
        write_model_card(folder, model.get_base_model() if adapter else model, processor, repo_id, **card)
        write_golden(folder, model, processor, adapter)
    check_clean_load(folder, offline=not adapter)
    return others(source, files)


def _load_whole(name: str, base: str | None) -> tuple[Any, "ComaProcessor"]:
    if not is_adapter(name):
        return load_model(name, device="cpu")
    merged = merge_model(name, base=base)
    return merged.model, merged.processor


def _save_adapter(name: str, folder: Path, base: str | None) -> tuple["PeftModel", "ComaProcessor", str]:
    from peft import PeftConfig

    from trainers.adapters import complete_adapter, public_base

    if not Path(name, "adapter_config.json").exists():
        raise ValueError(f"{name} has no adapter_config.json: it is no adapter, to be published without --adapter.")
    local = PeftConfig.from_pretrained(name).base_model_name_or_path
    # What the adapter was trained on, if it is still there: the published base must be the same.
    adapted, trained_on = load_adapter(name, local if local and Path(local).exists() else base)
    published = adapted.peft_config[adapted.active_adapter]
    published.base_model_name_or_path = base or local
    published_base = public_base(published)
    adapted.save_pretrained(folder)
    complete_adapter(folder)
    return adapted, load_processor(name, trained_on), published_base


def _copy_companions(source: Path, files: dict[str, Path], folder: Path) -> None:
    """
    The files of sentence-transformers, which may hold somebody's prompts, and of the modules that they name; a
    licence; and what training left for the card: its curves, and its record without paths.
    """
    modules = module_folders(source)
    for name, path in files.items():
        if name.partition("/")[0] in modules or name.startswith(KEPT):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)
    if (stages := read_training_record(source)) is not None:
        write_stages(folder, stages)


def _hide_paths(folder: Path) -> None:
    """Where on this machine a model was made is nobody's business: of paths in its JSON files, the name stays."""
    for file in (folder / name for name in CONFIGS):
        if file.exists():
            content = json.loads(file.read_text(encoding="utf-8"))
            if (public := _without_paths(content)) != content:
                file.write_text(json.dumps(public, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_paths(value: Any, is_name: bool = False) -> Any:
    """Settings in which all that is said of a file, in lists and in objects as well, is a name."""
    if isinstance(value, dict):
        return {
            name: _without_paths(part, is_name or NAMES_A_FILE.fullmatch(name) is not None)
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [_without_paths(part, is_name) for part in value]
    return public_name(value) if is_name and value and isinstance(value, str) else value
