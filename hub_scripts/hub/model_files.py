"""Which files belong to a model: nothing else that lies in its folder, or that a link there leads to, is published."""

import json
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import modeling_coma
from hub_scripts.hub.clean_load import GOLDEN_FILE
from hub_scripts.hub.training_record import TRAINING_FILE
from modeling_coma.sentence_transformers_coma import FILES
from trainers.files import LOSS_PICTURE


__all__ = ["MULTI_VECTOR_CODE", "SENTENCE_TRANSFORMERS_FILES", "belonging", "module_folders", "others"]

SENTENCE_TRANSFORMERS_FILES = tuple(FILES)
CODE = tuple(sorted(file.name for file in Path(modeling_coma.__file__).parent.glob("*_coma.py")))
OLDER_CODE = ("options_coma.py",)  # what the code of older folders imports
MULTI_VECTOR_CODE = "multi_vector_coma.py"  # of `coma convert --to-multi-vector`
WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors", "adapter_model.safetensors")
PATTERNS = (
    *WEIGHTS,
    *("model.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json"),
    "additional_chat_templates/*.jinja",
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *CODE,
    *OLDER_CODE,
    MULTI_VECTOR_CODE,
    *SENTENCE_TRANSFORMERS_FILES,
    *(GOLDEN_FILE, TRAINING_FILE, LOSS_PICTURE),
    *("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.txt"),
)
OF_A_MODULE = ("config.json", "model.safetensors")  # of sentence-transformers, as 1_Normalize or 2_Dense


def belonging(folder: Path, linked_weights: bool = False) -> dict[str, Path]:
    """
    The files of a model, by their names in a repository.

    Args:
        folder (`Path`): of a model, on this machine.
        linked_weights (`bool`, *optional*, defaults to `False`): whether weights may lie elsewhere, as on another
            disk, since they are read as numbers and written anew.

    Returns:
        `dict[str, Path]`: in the order of their names, without any that does not belong.

    Raises:
        ValueError: for one that belongs by its name, and is a link that leads elsewhere or no file.
    """
    modules = module_folders(folder)
    files = {}
    for name, path in _walk(folder):
        if not _belongs(name, modules):
            continue
        may_lead_out = linked_weights and _matches(name, WEIGHTS)
        if not may_lead_out:
            _must_be_inside(path, folder)
        files[name] = path
    return dict(sorted(files.items()))


def others(folder: Path, names: Collection[str]) -> list[str]:
    """What lies in a folder beside the files of these names; of a folder in which none of them lies, its name."""
    owners = {name.partition("/")[0] for name in names}
    inside = {name for name, _ in _walk(folder) if name.partition("/")[0] in owners}
    top = {f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir() if path.name not in owners}
    return sorted(top | (inside - set(names)))


def module_folders(folder: Path) -> list[str]:
    """
    Folders of further modules, which `modules.json` names, as `1_Normalize`.

    Raises:
        ValueError: for a file that is not what sentence-transformers writes, and for a folder elsewhere.
    """
    file = folder / "modules.json"
    if not (file.exists() or file.is_symlink()):
        return []
    _must_be_inside(file, folder)
    try:
        paths = [module["path"] for module in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{file} is no list of modules as sentence-transformers writes it: {error!r}") from error
    for path in paths:
        if not isinstance(path, str) or PurePosixPath(path).name != path or path.startswith("."):
            raise ValueError(f"{file} names the folder {path!r}: a module lies in a folder beside it, as 1_Normalize.")
    return [path for path in paths if path]


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a file lies in the folder, links resolved. Files of a snapshot in the Hub's cache lie in its `blobs`."""
    target, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs"
    is_cached = home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--")
    return target.is_relative_to(home) or (is_cached and target.parent == blobs.resolve())


def _must_be_inside(path: Path, folder: Path) -> None:
    if not path.is_file() or not _is_inside(path, folder):
        raise ValueError(
            f"{path} is a link that leads out of the folder, or no file, and is not published: put the file itself "
            "there, or remove it."
        )


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and paths, at the top and one folder below: more there is not in a model."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from ((f"{path.name}/{file.name}", file) for file in path.iterdir())
        else:
            yield path.name, path


def _belongs(name: str, modules: list[str]) -> bool:
    folder, _, file = name.rpartition("/")
    return _matches(name, PATTERNS) or (folder in modules and bool(folder) and file in OF_A_MODULE)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
