"""Checks that a model, on the Hub or in a folder, is whole and gives the embeddings that it was published with.

It is loaded in a process that has only torch and transformers to import (and PEFT for an adapter), as by
trust_remote_code=True: the code of the repository is run. Weights that are missing or not used are named; so are the
golden vectors (`coma push` leaves them in the model) that came out differently, and the libraries that have changed.

  coma verify org/my-coma
  coma verify org/my-coma --revision v1
  coma verify my-coma/                  # a folder that `coma push --dry-run` has prepared

The exit code is 1 if anything differs, and if there are no golden vectors, so that nothing can be compared.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from hub_scripts.common.arguments import command_parser
from hub_scripts.common.terminal import one_line


__all__ = ["main"]

CONFIGS = ("config.json", "adapter_config.json")


def main(argv: list[str]) -> int:
    """Runs `coma verify`; returns the exit code."""
    parser = command_parser("verify", __doc__)
    parser.add_argument("model", metavar="MODEL", help="repository on the Hub, or folder")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        metavar="X",
        help="largest difference, as a share of a vector's length (default: by the precision of the weights)",
    )
    arguments = parser.parse_args(argv)

    from hub_scripts.hub.clean_load import GOLDEN_FILE
    from hub_scripts.hub.golden import TOLERANCES, load_cleanly, weight_faults

    commit, golden = _find(arguments.model, arguments.revision)
    report = load_cleanly(arguments.model, commit, golden)
    faults = weight_faults(report)
    print(f"model     {arguments.model}{f' at {commit}' if commit else ''} ({one_line(report['dtype'])})")
    print(f"weights   {one_line('; '.join(faults)) or 'complete'}")
    if "embeddings" not in golden:
        raise ValueError(
            f"{arguments.model} loads, but has no golden vectors ({GOLDEN_FILE}) to compare its embeddings with: "
            "`coma push` makes them, and with --dry-run OUT it leaves them in a folder."
        )
    tolerance = arguments.tolerance if arguments.tolerance is not None else TOLERANCES[golden["dtype"]]
    are_same = _print_vectors(report, tolerance)
    return 0 if are_same and not faults else 1


def _tolerance(text: str) -> float:
    """A share, from 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return number


def _find(name: str, revision: str | None) -> tuple[str | None, dict[str, Any]]:
    """The commit of a repository, and the golden vectors of a model; without any, the inputs that they would be of."""
    from hub_scripts.hub.clean_load import GOLDEN_FILE
    from hub_scripts.hub.golden import input_rows, read_golden

    if Path(name).is_dir():
        if revision is not None:
            raise ValueError(f"{name} is a folder, and --revision is for models on the Hub: leave it out.")
        commit = None
        files = {file: path for file in (*CONFIGS, GOLDEN_FILE) if (path := Path(name, file)).is_file()}
    else:
        commit, files = _fetch(name, revision)
    config = next((files[file] for file in CONFIGS if file in files), None)
    if config is None:
        raise ValueError(f"{name} is no model: it has neither {' nor '.join(CONFIGS)}.")
    if config.name == "config.json":
        _check_config(name, config)
    if GOLDEN_FILE in files:
        return commit, read_golden(files[GOLDEN_FILE])
    return commit, {"adapter": config.name != "config.json", **input_rows()}


def _fetch(name: str, revision: str | None) -> tuple[str, dict[str, Path]]:
    from hub_scripts.hub.clean_load import GOLDEN_FILE
    from hub_scripts.hub.public_names import HUB_ID
    from hub_scripts.hub.upload import fetch_file

    if Path(name).exists() or not HUB_ID.fullmatch(name):
        raise ValueError(f"{name} is neither a folder nor the name of a repository, ORG/NAME.")
    files, commit = {}, revision
    for file in (*CONFIGS, GOLDEN_FILE):
        path = fetch_file(name, file, commit)
        if path is not None:
            files[file] = path
            commit = path.parent.name  # folders of the cache are named by commits: all comes from one
    return commit or "", files


def _check_config(name: str, file: Path) -> None:
    try:
        model_type = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"The config.json of {name} is damaged: {error}") from error
    if model_type != "coma":
        raise ValueError(f"{name} is a {model_type} model and no CoMa model, which `coma create` makes of one.")


def _print_vectors(report: dict[str, Any], tolerance: float) -> bool:
    """Prints what was found; returns whether all is as it was."""
    from hub_scripts.hub.golden import differences, version_changes

    intact = True
    for name, difference in differences(report).items():
        same = difference <= tolerance
        intact = intact and same
        found = "as published" if same else f"DIFFERS, at most {tolerance:g}"
        print(f"vector    {one_line(name):<26} {difference:.1e} {found}")
    changes = version_changes(report)
    print(f"libraries {one_line('; '.join(changes)) or 'as published'}")
    return intact
