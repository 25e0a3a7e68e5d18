"""Over two thousand malformed inputs, drawn by seeded generators (`tests/malformed`), go through whatever reads them.

Whoever draws an input knows what is in it. So there is an answer to compare with that does not come from the code that
is tested: an error that names the place in a sentence, or exactly the rows that were not touched. Nothing may be
altered, swallowed or made up, no other error may leave, and nothing may take long.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.malformed.cases import Case, fault_of
from tests.malformed.files import index_cases, long_cases, setting_cases
from tests.malformed.images import image_cases
from tests.malformed.inputs import dialogue_cases, input_cases
from tests.malformed.replies import reply_cases
from tests.malformed.shards import shard_cases
from tests.malformed.tables import TABLES, message_cases, table_cases


pytestmark = pytest.mark.slow

NUMBERS = {"csv": 300, "tsv": 80, "jsonl": 240, "json": 160, "parquet": 160, "messages": 100, "images": 300}
NUMBERS |= {
    "inputs": 260,
    "dialogues": 150,
    "shards": 120,
    "settings": 180,
    "indexes": 240,
    "replies": 260,
    "long": 40,
}


def cases_of(kind: str, folder: Path, processor: Any) -> Iterator[Case]:
    number, draw = NUMBERS[kind], random.Random(kind)
    if kind in TABLES:
        return table_cases(kind, number, draw, folder)
    if kind in ("inputs", "dialogues"):
        return (input_cases if kind == "inputs" else dialogue_cases)(number, draw, processor)
    if kind == "images":
        return image_cases(number, draw, folder, processor)
    if kind == "replies":
        return reply_cases(number, draw)
    in_files = {"messages": message_cases, "shards": shard_cases, "settings": setting_cases, "indexes": index_cases}
    return (in_files | {"long": long_cases})[kind](number, draw, folder)


@pytest.mark.parametrize("kind", NUMBERS)
def test_malformed_inputs(kind: str, make_coma: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "files"
    folder.mkdir()
    number, faults = 0, []
    for case in cases_of(kind, folder, make_coma("qwen2_5_vl", 4)[1]):
        number += 1
        if fault := fault_of(case):
            faults.append(f"{case.name}: {fault}")
    assert number >= NUMBERS[kind]
    assert not faults, f"{len(faults)} of {number}:\n" + "\n".join(faults[:20])


def test_there_are_over_two_thousand() -> None:
    assert sum(NUMBERS.values()) > 2000
