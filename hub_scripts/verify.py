"""Checks that a model, on the Hub or in a folder, is whole and gives the embeddings that it was published with.

It is loaded in a process that has only torch and transformers to import (and PEFT for an adapter), as by
trust_remote_code=True: the code of the repository is run. Weights that are missing or not used are named; so are the
golden vectors (`coma push` leaves them in the model) that came out differently, and the libraries that have changed.

  coma verify org/my-coma
  coma verify org/my-coma --revision v1
  coma verify my-coma/                  # a folder that `coma push --dry-run` has prepared

A server is checked the same way, whatever its engine, if it has /v1/embeddings in the manner of OpenAI. It is sent the
golden inputs of a model, texts as `input` and everything as `messages` of a chat; where a vector differs, the model is
loaded, and what went wrong is named. Its key, if it wants one, is taken from COMA_API_KEY.

  coma verify http://localhost:8000/v1 --model plain-coma --golden my-coma
  coma verify http://localhost:8000/v1 --model plain-coma --golden org/my-coma --form messages

The exit code is 1 if anything differs, and if there are no golden vectors, so that nothing can be compared.
"""

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from hub_scripts.common.arguments import command_parser, number_within
from hub_scripts.common.terminal import one_line
from hub_scripts.serving.requests import Form


if TYPE_CHECKING:
    from hub_scripts.serving.check import ServerVerification
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["Verification", "main", "verify_model", "verify_server"]

CONFIGS = ("config.json", "adapter_config.json")
KEY = "COMA_API_KEY"


def main(argv: list[str]) -> int:
    """Runs `coma verify`; returns the exit code."""
    parser = command_parser("verify", __doc__)
    add = parser.add_argument
    add("place", metavar="MODEL", help="repository on the Hub, folder, or address of a server up to its version")
    add("--revision", help="branch, tag or commit on the Hub")
    tolerance = "largest difference, as a share of a vector's length (default: by the precision of the weights)"
    add("--tolerance", type=number_within(0, math.inf), metavar="X", help=tolerance)
    server = parser.add_argument_group("of a server")
    add = server.add_argument
    add("--model", metavar="NAME", help="the name by which the server knows the model")
    add("--golden", metavar="MODEL", help="folder or repository of the model that it should be")
    add("--form", choices=get_args(Form), help="what is sent: texts as `input`, messages of a chat (default: both)")
    add("--timeout", type=number_within(0.001, 86400), metavar="S", help="seconds for each answer (default: 120)")
    arguments = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}

    place, of_a_server = arguments.pop("place"), arguments.keys() & {"model", "golden", "form", "timeout"}
    if place.startswith(("http://", "https://")):
        if not {"model", "golden"} <= arguments.keys():
            parser.error("of a server, --model and --golden are needed: what it is called, and what it should be")
        return _print_server(place, verify_server(place, api_key=os.environ.get(KEY) or None, **arguments))
    if of_a_server:
        parser.error(f"--{sorted(of_a_server)[0]} is for a server, as in coma verify http://localhost:8000/v1 …")
    return _print_model(place, verify_model(place, **arguments))


def _print_model(name: str, found: "Verification") -> int:
    model = f"{name}{f' at {found.commit}' if found.commit else ''}"
    print(f"model     {one_line(model)} ({one_line(found.dtype)})")
    print(f"weights   {one_line('; '.join(found.weight_faults)) or 'complete'}")
    if not found.differences:
        raise ValueError(
            f"{name} loads, but has no golden vectors (coma_golden.json) to compare its embeddings with: "
            "`coma push` makes them, and with --dry-run OUT it leaves them in a folder."
        )
    for vector, difference in found.differences.items():
        verdict = "as published" if difference <= found.tolerance else f"DIFFERS, at most {found.tolerance:g}"
        print(f"vector    {one_line(vector):<26} {difference:.1e} {verdict}")
    print(f"libraries {one_line('; '.join(found.changed_libraries)) or 'as published'}")
    return 0 if found.is_intact else 1


def _print_server(url: str, found: "ServerVerification") -> int:
    from trainers.data.qa.secrets import without_password

    print(f"server    {one_line(without_password(url))}")
    width = max(map(len, found.answers))
    for name, answer in found.answers.items():
        if answer.difference is None:
            print(f"vector    {one_line(name):<{width}} NONE: {one_line(answer.cause)}")
        else:
            verdict = f"DIFFERS, at most {found.tolerance:g}" if answer.cause else "as published"
            print(f"vector    {one_line(name):<{width}} {answer.difference:.1e} {verdict}")
    for cause in dict.fromkeys(answer.cause for answer in found.answers.values() if answer.difference is not None):
        if cause:
            names = [name for name, answer in found.answers.items() if answer.cause == cause]
            print(f"cause     {one_line(cause)} ({one_line('; '.join(names))})")
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


def verify_server(
    url: str,
    *,
    model: str,
    golden: str | Path,
    form: Form = "both",
    revision: str | None = None,
    tolerance: float | None = None,
    timeout: float = 120.0,
    api_key: str | None = None,
) -> "ServerVerification":
    """
    Compares the embeddings of a server with those of a model, and names the likely cause where they differ.

    Args:
        url (`str`): address of the server, up to and with the version, as `http://localhost:8000/v1`.
        model (`str`): the name by which it knows the model.
        golden (`str` or `Path`): the model that it should be, a folder or a repository on the Hub. Its golden vectors
            are taken where it has them; where not, or to find a cause, it is loaded by the code of this package.
        form (`str`, *optional*, defaults to `"both"`): `"input"`, plain texts; `"messages"`, of a chat; or both.
        revision (`str`, *optional*): branch, tag or commit of the model on the Hub.
        tolerance (`float`, *optional*): largest difference, as a share of a vector's length; by default that of the
            precision of the golden vectors.
        timeout (`float`, *optional*, defaults to 120.0): seconds for each answer.
        api_key (`str`, *optional*): sent as a bearer token.

    Returns:
        [`~hub_scripts.serving.check.ServerVerification`]

    Raises:
        ValueError: for what is no CoMa model, and if the server refuses the address, the name or the key.
        OSError: if the server, or the Hub, does not answer.

    Example:

        >>> from hub_scripts import verify_server
        >>> found = verify_server("http://localhost:8000/v1", model="plain-coma", golden="my-coma")
        >>> print(found.is_intact, found.answers)
    """
    from hub_scripts.common.loading import load_model
    from hub_scripts.hub.upload import fetch_model
    from hub_scripts.serving.check import check_server
    from trainers.data.qa.server import ServerSettings

    settings = ServerSettings(url, model, api_key=api_key, timeout=timeout)
    commit, vectors = _find(str(golden), revision)

    def load() -> tuple["ComaForEmbedding", "ComaProcessor"]:
        return load_model(str(golden if commit is None else fetch_model(str(golden), commit)))

    return check_server(settings, vectors, load, form, tolerance)


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
