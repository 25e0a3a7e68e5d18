"""What is printed is one harmless line, whatever it is made of, and ends in peace when nobody reads it."""

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from hub_scripts.common.terminal import one_line


ROOT = Path(__file__).resolve().parents[3]

PRINTS = """
import sys
import hub_scripts.create
from hub_scripts.cli import main
def command(argv):
    for number in range({lines}):
        print("é 苹果 line", number)
    if {error}:
        raise {error}
    return 0
hub_scripts.create.main = command
sys.exit(main(["create"]))
"""


@pytest.mark.slow
def test_every_letter_of_unicode() -> None:
    for place in range(sys.maxunicode + 1):
        letter, shown = chr(place), one_line(chr(place))
        assert len(shown.splitlines()) <= 1 and shown.encode()
        moves = unicodedata.bidirectional(letter) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        if moves or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp"):
            assert shown.isascii() and shown.isprintable() and shown.startswith("\\")
        elif unicodedata.category(letter) != "Cf":
            assert shown == letter


def test_texts_and_their_length() -> None:
    assert one_line("Ein Äpfel, 苹果, تفاح, 👩\u200d🌾") == "Ein Äpfel, 苹果, تفاح, 👩\u200d🌾"
    assert one_line(Path("a\x1b]0;x\x07\nb")) == r"a\x1b]0;x\x07\nb"
    assert one_line("\x1b" * 9, 4) == r"\x1b\x1b\x1b…" and one_line("abcd", 4) == "abcd"


def run(command: str, lines: int = 3, error: str = "None", **environment: str) -> subprocess.CompletedProcess:
    script = PRINTS.format(lines=lines, error=error)
    words = ["bash", "-c", f'set -o pipefail; "{sys.executable}" -c "$1" {command}', "bash", script]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, errors="backslashreplace"
    )


@pytest.mark.parametrize("environment", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("lines", [3, 100_000])
def test_nobody_need_read_to_the_end(lines: int, environment: dict[str, str]) -> None:
    done = run("| sed q", lines, **environment)
    assert (done.stdout, done.stderr) == ("é 苹果 line 0\n", "") and done.returncode in (0, 141)


def test_a_full_disk_and_no_output_at_all() -> None:
    for lines in (3, 100_000):
        done = run("> /dev/full", lines)
        assert done.returncode == 1
        assert done.stderr == "coma create: error: [Errno 28] No space left on device\n"
    done = run(">&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pipe_of_our_own_that_breaks_is_no_peaceful_end() -> None:
    done = run("", error='BrokenPipeError(32, "of our own")')
    assert done.returncode == 1 and done.stderr == "coma create: error: [Errno 32] of our own\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_an_encoding_lacks_are_no_error(encoding: str) -> None:
    done = run("", 1, 'ValueError("苹 \\ud800")', PYTHONIOENCODING=encoding)
    assert done.returncode == 1 and "line 0" in done.stdout and done.stderr.count("\n") == 1


def test_an_error_line_obeys_nobody() -> None:
    done = run("", 0, 'ValueError("a\\x1b[2J\\u202eb\\nc\\x9b")')
    assert done.stderr == "coma create: error: a\\x1b[2J\\u202eb c\\x9b\n"
    done = run("", 0, "MemoryError")
    assert (done.returncode, done.stderr) == (1, "coma create: error: the memory of this machine is not enough.\n")
