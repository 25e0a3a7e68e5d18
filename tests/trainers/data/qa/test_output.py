"""Whatever was being written when a process ended, what is left is whole rows, and the next one is the next."""

import json
import multiprocessing
import os
import resource
from pathlib import Path
from typing import IO

import pytest

from trainers.data.qa.output import QAFiles, QAOutput, WrittenRow


SETTINGS = {"model": "m", "turns": (3, 5)}


def written(number: int) -> WrittenRow:
    good = number % 3 != 1
    row = {"id": f"é{number}", "messages": ["…" * 10]} if good else {"id": f"é{number}", "reason": "x", "detail": "y"}
    return WrittenRow(good, row, {"id": f"é{number}", "calls": number})


def write(out: Path, numbers: range) -> None:
    with QAOutput(out, SETTINGS) as output:
        for number in numbers:
            output.write(written(number))


def ids(out: Path) -> list[str]:
    with QAOutput(out, SETTINGS) as output:
        return [row.row["id"] for row in output.written()]


def test_rows_in_order_in_two_files(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.jsonl"
    write(out, range(3))
    write(out, range(3, 6))
    assert ids(out) == [f"é{number}" for number in range(6)]
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["é0", "é2", "é3", "é5"]
    failed = [json.loads(line) for line in QAFiles.of(out).failed.read_text().splitlines()]
    assert failed == [{"id": f"é{number}", "reason": "x", "detail": "y"} for number in (1, 4)]
    with QAOutput(out, SETTINGS) as output:
        assert [row.stats["calls"] for row in output.written()] == list(range(6))


@pytest.mark.parametrize("last", [2, 1])  # a good row and a failed one
def test_killed_at_any_byte(tmp_path: Path, last: int) -> None:
    """The last row is two lines, of statistics and of the row: the process may end at any byte of either."""
    out = tmp_path / "out.jsonl"
    write(out, range(last))
    files = QAFiles.of(out)
    before = [file.read_bytes() for file in files]
    write(out, range(last, last + 1))
    after = [file.read_bytes() for file in files]
    target = 0 if written(last).good else 1
    stats, row = (after[file][len(before[file]) :] for file in (2, target))
    for length in range(len(stats) + len(row)):
        contents = [*before[:2], before[2] + stats[:length]]
        contents[target] += row[: max(0, length - len(stats))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        assert ids(out) == [f"é{number}" for number in range(last)], length
        assert [file.read_bytes() for file in files] == before, length
    write(out, range(last, last + 1))
    assert [file.read_bytes() for file in files] == after


def test_statistics_are_on_disk_before_their_row(tmp_path: Path) -> None:
    """As the test above takes for granted."""
    out, order = tmp_path / "out.jsonl", []
    with QAOutput(out, SETTINGS) as output:
        for name, file in zip(QAFiles._fields, list(output._open), strict=True):
            output._open[QAFiles._fields.index(name)] = Recorder(name, file, order)
        output.write(written(0))
        output.write(written(1))
    assert order == ["stats", "stats!", "rows", "rows!", "stats", "stats!", "failed", "failed!"]


class Recorder:
    def __init__(self, name: str, file: IO[bytes], order: list[str]) -> None:
        self.name, self.file, self.order = name, file, order
        self.close = file.close

    def write(self, line: bytes) -> None:
        self.order.append(self.name)
        self.file.write(line)

    def flush(self) -> None:
        self.order.append(f"{self.name}!")
        self.file.flush()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "out.jsonl", range(2))
    with pytest.raises(ValueError, match=r"begun with other settings: model was 'm' and is now 'n'\. Keep them"):
        QAOutput(tmp_path / "out.jsonl", {**SETTINGS, "model": "n"}).__enter__()
    with pytest.raises(ValueError, match="more was None and is now 1"):
        QAOutput(tmp_path / "out.jsonl", {**SETTINGS, "more": 1}).__enter__()
    assert len(ids(tmp_path / "out.jsonl")) == 2


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="was not written by this"):
        QAOutput(tmp_path / "out.jsonl", SETTINGS).__enter__()
    assert (tmp_path / "out.jsonl").read_text() == "mine"


@pytest.mark.parametrize("name", QAFiles._fields)
def test_no_file_of_somebody_else_is_appended_to(tmp_path: Path, name: str) -> None:
    file = getattr(QAFiles.of(tmp_path / "out.jsonl"), name)
    for make in (lambda: file.write_text("mine"), lambda: file.symlink_to("gone")):
        make()
        with pytest.raises(ValueError, match="was not written by this"):
            QAOutput(tmp_path / "out.jsonl", SETTINGS).__enter__()
        file.unlink()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 10_000, b"\xff", b""])
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "out.jsonl", range(2))
    (tmp_path / "out.jsonl.settings.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"out\.jsonl\.settings\.json is damaged"):
        QAOutput(tmp_path / "out.jsonl", SETTINGS).__enter__()


def test_names_that_are_not_utf8_come_back(tmp_path: Path) -> None:
    row = WrittenRow(False, {"id": "\udcff.png", "reason": "é"}, {"id": "\udcff.png"})
    with QAOutput(tmp_path / "out.jsonl", SETTINGS) as output:
        output.write(row)
        assert [written.row for written in output.written()] == [row.row]


@pytest.mark.parametrize("most", [300, 1000])
def test_a_full_disk_is_said_and_the_rows_go_on(tmp_path: Path, most: int) -> None:
    """In a copy of this process, whose files may not grow beyond a limit."""
    out = tmp_path / "out.jsonl"

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        try:
            write(out, range(100))
        except OSError as error:
            os._exit(7 if "cannot be written: File too large. Mend that" in str(error) else 8)
        os._exit(9)

    process = multiprocessing.get_context("fork").Process(target=fill)
    process.start()
    process.join(30)
    assert process.exitcode == 7
    done = len(ids(out))
    assert 0 < done < 100
    write(out, range(done, 100))
    assert ids(out) == [f"é{number}" for number in range(100)]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with QAOutput(tmp_path / "out.jsonl", SETTINGS):
        with pytest.raises(ValueError, match="Another process is writing"):
            QAOutput(tmp_path / "out.jsonl", SETTINGS).__enter__()
    assert ids(tmp_path / "out.jsonl") == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows", '{"id": "é0"}\n{"id": "é9"}\n', "Line 3 of .*stats.jsonl is about 'é2', but its row is {'id': 'é9'}"),
        ("rows", '{"id": "é0"}\n', "Line 3 of .* its row is None"),
        ("stats", '{"id": "é0", "good": true}\n', "has more rows than"),
        ("rows", '{"id": "é0"}\nx\n', "Line 2 of .*out.jsonl is not JSON"),
        ("rows", '{"id": "é0"}\n3\n', "Line 2 of .*out.jsonl is not an object"),
        ("rows", '{"id": "é0"}\n' + "[" * 10_000 + "\n", "Line 2 of .*out.jsonl is not JSON"),
        ("stats", "{}\n", "Line 1 of .*stats.jsonl does not say"),
        ("stats", '{"id": "é0", "good": "yes"}\n', "Line 1 of .*stats.jsonl does not say"),
        ("rows", "{}\n", "Line 1 of .*stats.jsonl is about 'é0', but its row is {}"),
    ],
)
def test_files_that_somebody_has_changed_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    out = tmp_path / "out.jsonl"
    write(out, range(4))
    getattr(QAFiles.of(out), name).write_text(content)
    with pytest.raises(ValueError, match=message):
        ids(out)


def test_a_retry_takes_the_place_of_all_files_or_of_none(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    write(out, range(4))
    with QAOutput(out, SETTINGS) as output:
        with output.retry() as new:
            for number in range(4):
                row = written(number)
                new.write(row if row.good else WrittenRow(True, {"id": row.row["id"]}, row.stats))
        assert not all(row.good for row in output.written())
        (out.with_name("out.jsonl.retry") / "complete").touch()
        (out.with_name("out.jsonl.retry") / "out.jsonl").replace(out)  # … and here the process ends
    assert ids(out) == [f"é{number}" for number in range(4)]
    assert not QAFiles.of(out).failed.read_text() and not (tmp_path / "out.jsonl.retry").exists()
    write(out, range(4, 5))
    assert len(ids(out)) == 5
