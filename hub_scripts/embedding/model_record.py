"""Which model has made embeddings that lie on disk, and whether it is the one that goes on with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.hub.clean_load import library_versions
from hub_scripts.hub.golden import ANY_PRECISION, identity, same_embeddings
from trainers import __version__
from trainers.files import begin_folder, differences


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["begin_shards", "model_differences", "model_record"]

# A name, what may be newer, and numbers that no two machines round alike.
NOT_COMPARED = {"model", "versions", "probe"}


def model_record(name: str, coma: "tuple[ComaForEmbedding, ComaProcessor]") -> dict[str, Any]:
    """
    What is known of a model: its name, what its embeddings depend on, versions of libraries.

    Args:
        name (`str`): what the model was called by; the same model may have another name by now.
        coma (`tuple[ComaForEmbedding, ComaProcessor]`): the model.
    """
    versions = {"coma": __version__, **library_versions()}
    return {**identity(name, *coma), "dim": coma[0].config.hidden_size, "versions": versions}


def begin_shards(folder: Path, record: Mapping[str, Any], made_of: Mapping[str, Any]) -> None:
    """
    Begins a folder of embeddings, or goes on in it.

    Args:
        folder (`Path`): the folder.
        record (`Mapping[str, Any]`): the model, as [`model_record`] has it.
        made_of (`Mapping[str, Any]`): what else the folder depends on, as JSON.

    Raises:
        ValueError: for a folder that is nobody's, or that was begun with something else, which is named.
    """
    begin_folder(folder, {**record, **made_of}, compare=model_differences)


def model_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two records and matters; of models, by what they embed and not by what they are called."""
    found = differences(before, now, (before.keys() | now.keys()) - NOT_COMPARED)
    if not same_embeddings(before.get("probe"), now["probe"], ANY_PRECISION):
        found.append(f"model ({before.get('model')!r}, now {now['model']!r})")
    return found
