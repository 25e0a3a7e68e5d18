"""Checks that a model, on the Hub or in a folder, is whole and gives the embeddings that it was published with.

It is loaded in a process that has only torch and transformers to import (and PEFT for an adapter), as by
trust_remote_code=True: the code of the repository is run. Weights that are missing or not used are named; so are the
golden vectors (`coma push` leaves them in the model) that came out differently, and the libraries that have changed.

  coma verify org/my-coma
  coma verify org/my-coma --revision v1
  coma verify my-coma/                  # a folder that `coma push --dry-run` has prepared

The exit code is 1 if anything differs.
"""

from typing import Any

from hub_scripts.arguments import command_parser


__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Runs `coma verify`; returns the exit code."""
    parser = command_parser("verify", __doc__)
    parser.add_argument("model", metavar="MODEL", help="repository on the Hub, or folder")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest difference, as a share of a vector's length (default: by the precision of the weights)",
    )
    arguments = parser.parse_args(argv)

    from hub_scripts.golden import TOLERANCES, load_cleanly

    report = load_cleanly(arguments.model, arguments.revision)
    tolerance = arguments.tolerance if arguments.tolerance is not None else TOLERANCES[report["golden"]["dtype"]]
    intact = _print(arguments.model, report, tolerance)
    return 0 if intact else 1


def _print(model: str, report: dict[str, Any], tolerance: float) -> bool:
    """Prints what was found; returns whether all is as it was."""
    from hub_scripts.golden import differences, version_changes, weight_faults

    faults, intact = weight_faults(report), True
    print(f"model     {model}{' at ' + report['revision'] if 'revision' in report else ''} ({report['dtype']})")
    print(f"weights   {'; '.join(faults) or 'complete'}")
    for name, difference in differences(report):
        same = difference <= tolerance
        intact = intact and same
        print(f"vector    {name:<26} {difference:.1e} {'as published' if same else f'DIFFERS, at most {tolerance:g}'}")
    changes = version_changes(report)
    print(f"libraries {'; '.join(changes) or 'as published'}")
    return intact and not faults
