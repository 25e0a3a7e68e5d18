"""Files are whole or not there; a folder goes on with what it was begun with; a second writer is told so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainers.files import begin_folder, differences, one_writer, read_record, whole_file, whole_folder, write_record


HOLD = """
import sys
from trainers.files import one_writer
with one_writer(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_and_a_killed_one_lets_go(tmp_path):
    place = tmp_path / "deep" / "out.parquet"
    command = [sys.executable, "-c", HOLD, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=r"Another process is writing .*out\.parquet"), one_writer(place):
            pass
        other.kill()
    with one_writer(place):
        pass


def test_it_is_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyError), one_writer(tmp_path / "out"):
        raise KeyError
    with one_writer(tmp_path / "out"):
        pass


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    write_record(tmp_path / "new" / "file.json", {"a": "é\ud800"})
    with pytest.raises(KeyError), whole_file(tmp_path / "new" / "file.json") as file:
        file.write_text("half of it")
        raise KeyError
    assert read_record(tmp_path / "new" / "file.json", "record") == {"a": "é\ud800"}
    with pytest.raises(OSError, match=r"file.json/under cannot be written: .*go on by the same command"):
        write_record(tmp_path / "new" / "file.json" / "under", {})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.json"]


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    place = tmp_path / "new" / "out"
    (tmp_path / "new" / ".out.writing").mkdir(parents=True)
    (tmp_path / "new" / ".out.writing" / "old").touch()  # of a process that was killed
    with pytest.raises(KeyError), whole_folder(place) as folder:
        (folder / "a").touch()
        raise KeyError
    assert not list((tmp_path / "new").iterdir())
    with whole_folder(place) as folder:
        (folder / "b").touch()
        assert not place.exists()
    assert [path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*")] == [
        "out",
        "out/b",
    ]
    with pytest.raises(OSError, match="out cannot be written: .*not empty"), whole_folder(place) as folder:
        (folder / "c").touch()
    assert [path.name for path in place.iterdir()] == ["b"] and len(list(place.parent.iterdir())) == 1


@pytest.mark.parametrize("content", ["{", "[]", "null", "[" * 9000, "\udcff"])
def test_a_damaged_record_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"file\.json is there already and is no record of mine"):
        read_record(tmp_path / "file.json", "record of mine")


def test_long_values_show_where_they_differ() -> None:
    folder = "/data" * 40
    (line,) = differences({"inputs": f"{folder}/a.csv"}, {"inputs": f"{folder}/b.csv"})
    assert line.startswith("inputs ('/data/data") and "a.csv', now '" in line and line.endswith("b.csv')")
    assert len(line) < len(folder)


def test_a_folder_goes_on_with_what_it_was_begun_with(tmp_path: Path) -> None:
    begin_folder(tmp_path / "parts", {"rows": (1, 2), "dtype": "float32"})
    (tmp_path / "parts" / "0.npy").touch()
    begin_folder(tmp_path / "parts", {"dtype": "float32", "rows": [1, 2]})
    with pytest.raises(ValueError, match=r"begun with another dtype \('float32', now None\); rows \(\[1, 2\], "):
        begin_folder(tmp_path / "parts", {"rows": 3})
    begin_folder(tmp_path / "parts", {"rows": 3}, compare=lambda before, now: differences(before, now, ["model"]))
    assert json.loads((tmp_path / "parts" / "begun_with.json").read_text())["rows"] == [1, 2]
    (tmp_path / "file").touch()
    for other in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="is there already, and not from this command"):
            begin_folder(other, {})
    (tmp_path / "mine.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="was begun with another a"):
        begin_folder(tmp_path, {"a": 2}, record="mine.json")
