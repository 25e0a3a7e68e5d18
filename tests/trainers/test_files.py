"""One writer: a second process is told so, and the lock of a killed one is free."""

import subprocess
import sys

import pytest

from trainers.files import one_writer


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
