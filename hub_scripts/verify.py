"""Checks that a model, on the Hub or in a folder, is whole and gives the embeddings that it was published with.

It is loaded in a process that has only torch and transformers to import (and PEFT for an adapter), as by
trust_remote_code=True: the code of the repository is run. Weights that are missing or not used are named; so are the
golden vectors (`coma push` leaves them in the model) that came out differently, and the libraries that have changed.

  coma verify org/my-coma
  coma verify org/my-coma --revision v1
  coma verify my-coma/                  # a folder that `coma push --dry-run` has prepared

The exit code is 1 if anything differs, and if there are no golden vectors, so that nothing can be compared.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from hub_scripts.common.arguments import command_parser, number_within
from hub_scripts.common.terminal import one_line


__all__ = ["Verification", "main", "verify_model"]

CONFIGS = ("config.json", "adapter_config.json")


def main(argv: list[str]) -> int:
    """Runs `coma verify`; returns the exit code."""
    parser = command_parser("verify", __doc__)
    parser.add_argument("model", metavar="MODEL", help="repository on the Hub, or folder")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--tolerance",
        type=number_within(0, math.inf),
        metavar="X",
        help="largest difference, as a share of a vector's length (default: by the precision of the weights)",
    )
    arguments = parser.parse_args(argv)

    found = verify_model(**vars(arguments))
    model = f"{arguments.model}{f' at {found.commit}' if found.commit else ''}"
    print(f"model     {one_line(model)} ({one_line(found.dtype)})")
    print(f"weights   {one_line('; '.join(found.weight_faults)) or 'complete'}")
    if not found.differences:
        raise ValueError(
            f"{arguments.model} loads, but has no golden vectors (coma_golden.json) to compare its embeddings with: "
            "`coma push` makes them, and with --dry-run OUT it leaves them in a folder."
        )
    for name, difference in found.differences.items():
        verdict = "as published" if difference <= found.tolerance else f"DIFFERS, at most {found.tolerance:g}"
        print(f"vector    {one_line(name):<26} {difference:.1e} {verdict}")
    print(f"libraries {one_line('; '.join(found.changed_libraries)) or 'as published'}")
    return 0 if found.is_intact else 1


class Verification(NamedTuple):
    """
    What [`verify_model`] has found.

    Args:
        commit (`str`, *optional*): of a repository.
        dtype (`str`): precision of the weights.
        weight_faults (`list[str]`): what is wrong with the weights, a sentence each.
        differences (`dict[str, float]`): by name of the golden vector, how far the embedding is from it, as a share of
            its length; empty if the model has no golden vectors, so that nothing can be compared.
        tolerance (`float`): how far it may be.
        changed_libraries (`list[str]`): libraries that are not what the golden vectors were made with.
    """

    commit: str | None
    dtype: str
    weight_faults: list[str]
    differences: dict[str, float]
    tolerance: float
    changed_libraries: list[str]

    @property
    def is_intact(self) -> bool:
        """Whether the weights are complete and all embeddings are as they were published."""
        are_same = all(difference <= self.tolerance for difference in self.differences.values())
        return are_same and bool(self.differences) and not self.weight_faults


def verify_model(model: str | Path, revision: str | None = None, tolerance: float | None = None) -> Verification:
    """
    Loads a model in a process that has only torch and transformers, and compares it with its golden vectors.

    Args:
        model (`str` or `Path`): repository on the Hub, or folder. Its code is run.
        revision (`str`, *optional*): branch, tag or commit on the Hub.
        tolerance (`float`, *optional*): largest difference, as a share of a vector's length; by default that of the
            precision of the weights, see [`hub_scripts.hub.golden.TOLERANCES`].

    Returns:
        [`Verification`]

    Raises:
        ValueError: for what is no CoMa model, does not load, or has golden vectors that are damaged.
        OSError: if the Hub does not give it, with the reason and what can be done.

    Example:

        >>> from hub_scripts.verify import verify_model
        >>> found = verify_model("org/my-coma", revision="v1")
        >>> print(found.is_intact, found.differences, found.changed_libraries)
    """
    from hub_scripts.hub.golden import TOLERANCES, differences, load_cleanly, version_changes, weight_faults

    commit, golden = _find(str(model), revision)
    report = load_cleanly(str(model), commit, golden)
    is_golden = "embeddings" in golden
    return Verification(
        commit=commit,
        dtype=report["dtype"],
        weight_faults=weight_faults(report),
        differences=differences(report) if is_golden else {},
        tolerance=TOLERANCES.get(golden.get("dtype"), 0.0) if tolerance is None else tolerance,
        changed_libraries=version_changes(report) if is_golden else [],
    )


def _find(name: str, revision: str | None) -> tuple[str | None, dict[str, Any]]:
    """The commit of a repository, and the golden vectors of a model; without any, the inputs that they would be of."""
    from hub_scripts.hub.clean_load import GOLDEN_FILE
    from hub_scripts.hub.golden import input_rows, read_golden
    from hub_scripts.hub.public_names import HUB_ID
    from hub_scripts.hub.upload import fetch_model

    folder, commit = Path(name), None
    if not folder.is_dir():
        if folder.exists() or not HUB_ID.fullmatch(name):
            raise ValueError(f"{name} is neither a folder nor the name of a repository, ORG/NAME.")
        folder = fetch_model(name, revision, [*CONFIGS, GOLDEN_FILE])
        commit = folder.name  # folders of the cache are named by commits
    elif revision is not None:
        raise ValueError(f"{name} is a folder, and --revision is for models on the Hub: leave it out.")
    is_file = {file: (folder / file).is_file() for file in (*CONFIGS, GOLDEN_FILE)}
    if not any(is_file[file] for file in CONFIGS):
        raise ValueError(f"{name} is no model: it has neither {' nor '.join(CONFIGS)}.")
    if is_file["config.json"]:
        _check_config(name, folder / "config.json")
    if is_file[GOLDEN_FILE]:
        return commit, read_golden(folder / GOLDEN_FILE)
    return commit, {"adapter": not is_file["config.json"], **input_rows()}


def _check_config(name: str, file: Path) -> None:
    try:
        model_type = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"The config.json of {name} is damaged: {error}") from error
    if model_type != "coma":
        raise ValueError(f"{name} is a {model_type} model and no CoMa model, which `coma create` makes of one.")
