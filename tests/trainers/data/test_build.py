"""A data set is made of records once, as a whole or not at all, and the reasons for bad rows stay with it."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value

from trainers.data import build
from trainers.data.build import build_dataset
from trainers.data.faults import fault
from trainers.data.rows import BadRows
from trainers.data.tables import open_records


FEATURES = Features({"n": Value("int64"), "image": Image()})
CALLS: list[int] = []


def convert(record: dict[str, Any], factor: int) -> dict[str, Any]:
    CALLS.append(record["n"])
    if record["n"] % 10 == 3:
        raise fault("n", str(record["n"]), "a number that does not end with 3")
    return {"n": factor * record["n"], "image": {"bytes": b"x" * record["n"], "path": None}}


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    CALLS.clear()
    (tmp_path / "numbers.jsonl").write_text("".join(json.dumps({"n": n}) + "\n" for n in range(30)))
    return tmp_path / "numbers.jsonl"


def make(file: Path, factor: int = 2, on_bad_row: str | BadRows = "skip", columns: list[str] | None = None) -> Dataset:
    return build_dataset(open_records(file), partial(convert, factor=factor), FEATURES, on_bad_row, columns or ["n"])


def test_it_is_made_once(numbers: Path) -> None:
    first = make(numbers)
    assert list(first["n"]) == [2 * n for n in range(30) if n % 10 != 3] and len(CALLS) == 30
    assert list(make(numbers)["n"]) == list(first["n"]) and len(CALLS) == 30
    assert list(make(numbers, factor=3)["n"])[:2] == [0, 3] and len(CALLS) == 60
    numbers.write_text('{"n": 1}\n')
    assert list(make(numbers)["n"]) == [2] and len(CALLS) == 61


def test_reasons_are_kept_and_come_back(numbers: Path) -> None:
    first, again = BadRows("skip", "a"), BadRows("skip", "b")
    make(numbers, on_bad_row=first)
    make(numbers, on_bad_row=again)
    assert len(CALLS) == 30 and first.skipped == again.skipped == 3
    expected = {n: f"column n: found {n}, expected a number that does not end with 3" for n in (3, 13, 23)}
    assert first.reasons == again.reasons == expected


def test_one_counter_for_several_sources(numbers: Path, tmp_path: Path) -> None:
    bad_rows = BadRows("skip")
    make(numbers, on_bad_row=bad_rows)
    (tmp_path / "more.jsonl").write_text('{"n": 1}\n{"n": 33}\n')
    make(tmp_path / "more.jsonl", on_bad_row=bad_rows)
    assert bad_rows.skipped == 4
    again = BadRows("skip")
    make(tmp_path / "more.jsonl", on_bad_row=again)
    assert list(again.reasons) == [1] and again.skipped == 1


def test_the_first_bad_row_raises_and_leaves_nothing(numbers: Path, fresh_cache: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^Row 3 of numbers.jsonl is bad: column n: found 3, expected a number"):
            make(numbers, on_bad_row="raise")
        assert not list(fresh_cache.iterdir())
    assert len(make(numbers)) == 27


def test_batches_are_small_in_rows_and_in_bytes(numbers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BATCH_BYTES", 100)
    lengths = [len(chunk) for chunk in make(numbers).data.column("n").chunks]
    assert sum(lengths) == 27 and lengths[0] == 14 and lengths[-1] < 6
    monkeypatch.setattr(build, "BATCH_ROWS", 5)
    assert max(len(chunk) for chunk in make(numbers, factor=4).data.column("n").chunks) == 5


def test_columns_that_no_record_has(numbers: Path, fresh_cache: Path) -> None:
    with pytest.raises(ValueError, match=r"numbers.jsonl has no columns \['m'\]; it has \['n'\]"):
        make(numbers, columns=["n", "m"])
    assert not list(fresh_cache.iterdir())
    table = numbers.with_suffix(".csv")
    table.write_text("n\n1\n")
    with pytest.raises(ValueError, match=r"numbers.csv has no columns \['m'\]"):
        make(table, columns=["m"])
    assert len(CALLS) == 30  # of a table it is known before


def test_nothing_but_bad_rows(numbers: Path) -> None:
    numbers.write_text('{"n": 3}\n{"n": 13}\n')
    with pytest.raises(ValueError, match="has no row that can be used. column n: found 3"):
        make(numbers)
    numbers.write_text("\n")
    with pytest.raises(ValueError, match="has no row that can be used. It is empty"):
        make(numbers, columns=[])


def test_the_log_names_the_first_bad_rows_only(
    numbers: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    numbers.write_text("".join(json.dumps({"n": 10 * n + 3}) + "\n" for n in range(40)) + '{"n": 1}\n')
    bad_rows = BadRows("skip")
    make(numbers, on_bad_row=bad_rows)
    named = [record.message for record in caplog.records if "is skipped: column n" in record.message]
    assert len(named) == 20 and bad_rows.skipped == 40 == len(bad_rows.reasons)
    assert sum("More rows of numbers.jsonl are skipped" in record.message for record in caplog.records) == 1
