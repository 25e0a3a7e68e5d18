"""Finished runs as lines of a file that is committed, so that several machines on several days complete one map."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.world_study.arms import Arm, compared_with


COMMITTED = Path(__file__).with_name("results.jsonl")


def read_results(file: Path, study: str) -> list[dict[str, Any]]:
    """
    The runs of one study: of one recipe of the backbone and one way to train both stages.

    Raises:
        ValueError: for a line that is no run, or a run that is there twice.
    """
    found: dict[tuple[str, str, str, int], dict[str, Any]] = {}
    lines = file.read_text().splitlines() if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            key = (row["study"], row["weights"], row["arm"], row["seed"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}, line {number} is not a run: {line[:80]!r}. Take it out.") from error
        if key in found:
            raise ValueError(f"{file}, line {number}: the run {key} is there already. Take one of them out.")
        found[key] = row
    return [row for row in found.values() if row["study"] == study]


def append_result(file: Path, row: dict[str, Any]) -> None:
    """One line at a time, whole, also where two processes write."""
    line = json.dumps(row, separators=(",", ":")) + "\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def missing(rows: list[dict[str, Any]], arms: list[Arm], seeds: list[int], weights: str = "") -> list[tuple[Arm, int]]:
    """
    Runs of a plan that are not there, seed by seed within the order of the arms. What the runs with some `weights` of
    the backbone are compared with has to be there with the same weights, if they are given.
    """
    planned = list(itertools.product(arms, seeds))
    done = {(row["arm"], row["seed"]) for row in rows}
    found = {(arm, seed) for arm, seed in planned if (arm.key, seed) not in done}
    if weights:
        done = {(row["arm"], row["seed"]) for row in rows if row["weights"] == weights}
        runs = [(arm, seed) for arm, seed in planned if (arm.key, seed) in done] + list(found)
        others = {(other, seed) for arm, seed in runs for other in compared_with(arm)}
        found |= {(other, seed) for other, seed in others if (other.key, seed) not in done}
    return [one for one in planned if one in found]
