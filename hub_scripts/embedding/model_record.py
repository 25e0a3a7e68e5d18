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


__all__ = ["begin_shards"]

# A name, what may be newer, and numbers that no two machines round alike.
NOT_COMPARED = {"model", "versions", "probe"}


def begin_shards(
    folder: Path, name: str, coma: "tuple[ComaForEmbedding, ComaProcessor]", made_of: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Begins a folder of embeddings, or goes on in it.

    Args:
        folder (`Path`): the folder.
        name (`str`): what the model was called by; the same model may have another name by now.
        coma (`tuple[ComaForEmbedding, ComaProcessor]`): the model.
        made_of (`Mapping[str, Any]`): what else the folder depends on, as JSON.

    Returns:
        `dict`: what is known of the model: its name, what its embeddings depend on, versions of libraries.

    Raises:
        ValueError: for a folder that is nobody's, or that was begun with something else, which is named.
    """
    versions = {"coma": __version__, **library_versions()}
    record = {**identity(name, *coma), "dim": coma[0].config.hidden_size, "versions": versions}
    begin_folder(folder, {**record, **made_of}, compare=_differences)
    return record


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found = differences(before, now, (before.keys() | now.keys()) - NOT_COMPARED)
    if not same_embeddings(before.get("probe"), now["probe"], ANY_PRECISION):
        found.append(f"model ({before.get('model')!r}, now {now['model']!r})")
    return found
