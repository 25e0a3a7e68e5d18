"""Which model has made embeddings that lie on disk, and whether another record means the same model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hub_scripts.cli import coma_version
from hub_scripts.hub.clean_load import library_versions
from hub_scripts.hub.golden import ANY_PRECISION, identity, same_embeddings
from trainers.files import differences


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["model_differences", "model_record"]

# A name, what may be newer, and numbers that no two machines round alike.
NOT_COMPARED = {"model", "versions", "probe"}


def model_record(name: str, model: "ComaForEmbedding", processor: "ComaProcessor") -> dict[str, Any]:
    """What embeddings depend on of a model and its settings, the name it was called by, and versions of libraries."""
    versions = {"coma": coma_version(), **library_versions()}
    return {**identity(name, model, processor), "dim": model.config.hidden_size, "versions": versions}


def model_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two records with those of models; the same model may have another name by now."""
    found = differences(before, now, (before.keys() | now.keys()) - NOT_COMPARED)
    if not same_embeddings(before.get("probe"), now["probe"], ANY_PRECISION):
        found.append(f"model ({before.get('model')!r}, now {now['model']!r})")
    return found
