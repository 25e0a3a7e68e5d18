"""`coma` explains itself at once, and tells an error of a person's from one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest

import hub_scripts.create
import trainers
from hub_scripts.cli import COMMANDS, main


ROOT = Path(__file__).resolve().parents[2]
TEXTS = ROOT / "README.md"

HELP_OF_ALL = """
import contextlib, io, sys
from hub_scripts.cli import COMMANDS, main
trainings = {"pretrain", "finetune"}  # their help has all settings of the HF TrainingArguments
for words in ([], *([name] for name in COMMANDS if name not in trainings)):
    text = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):
        main([*words, "--help"])
    assert f"coma {' '.join(words)}".strip() in text.getvalue(), words
print([name for name in ("torch", "transformers", "datasets", "pyarrow", "numpy") if name in sys.modules])
"""


def test_help_loads_no_library() -> None:
    done = subprocess.run([sys.executable, "-c", HELP_OF_ALL], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_command(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, what in COMMANDS.items():
        assert [name, *what.split()] in lines


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_is_its_docstring_with_examples(name: str, capsys: pytest.CaptureFixture) -> None:
    """Of the trainings, whose short help has the first line and the examples, that for all settings."""
    with pytest.raises(SystemExit):
        main([name, "--help-all" if name in ("pretrain", "finetune") else "--help"])
    text = capsys.readouterr().out
    module = sys.modules[f"hub_scripts.{name.replace('-', '_')}"]
    assert module.__doc__.strip() in text
    assert f"\n  coma {name} " in module.__doc__


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_a_page(name: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(f"usage: coma {name} ") and not lines[0] and 10 < len(lines) < 60


def test_help_says_what_must_be_given(capsys: pytest.CaptureFixture) -> None:
    for name, given in {
        "evaluate": "MODEL DATA … --output FOLDER",
        "generate-qa": "INPUTS OUT (--server URL | --local MODEL)",
        "search": "MODEL INDEX [QUERY]",
    }.items():
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert capsys.readouterr().out.startswith(f"usage: coma {name} {given} [OPTION …]\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "coma: error: the following arguments are required: COMMAND"),
        (["fintune"], "there is no command 'fintune'; did you mean finetune?"),
        (["create"], "coma create: error: the following arguments are required: BACKBONE, OUT"),
        (["search", "-k"], "argument -k: expected one argument"),
        (["embed", "--workers", "x"], "'x' is not a whole number"),
        (["evaluate", "model", "data", "--ouput", "out"], "there is no option --ouput; did you mean --output?"),
        (["mine", "m", "d", "o", "--query_text=q"], "there is no option --query_text; did you mean --query-text?"),
        (["push", "m", "o", "--zzz"], "there is no option --zzz."),
    ],
)
def test_a_wrong_command_line_is_two_lines_and_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    error, where_to_read = capsys.readouterr().err.splitlines()
    assert message in error and f"`{error.partition(':')[0]} --help`" in where_to_read


def test_a_value_may_look_like_an_option(capsys: pytest.CaptureFixture) -> None:
    words = ["push", "no-folder", "org/name", "--message=--no-option", "--tag", "--no option"]
    assert main(words) == 1 and "no-folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["push", "model", "my-coma"], "coma push: error: 'my-coma' is no name of a repository"),
        # with all libraries, which might have something to say
        pytest.param(
            ["create", "backbone", "out", f"--texts={TEXTS}"],
            "coma create: error: --texts trains",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_error_is_one_line_and_1(words: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hub_scripts.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("place", [0, 4])
def test_debug_shows_the_traceback(place: int) -> None:
    words = ["create", "backbone", "out", f"--texts={TEXTS}"]
    words.insert(place, "--debug")
    with pytest.raises(ValueError, match="--texts"):
        main(words)


def test_after_two_dashes_a_word_is_a_word() -> None:
    """A person may look for the text `--debug`."""
    assert main(["search", "model", "nothing.parquet", "--", "--debug"]) == 1


def test_errors_are_shortened_and_faults_are_not_hidden(
    coma_command: Callable, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: BaseException) -> Callable:
        def run(argv: list[str]) -> int:
            raise error

        return run

    monkeypatch.setattr(hub_scripts.create, "main", fail(OSError("one\n" + "two " * 1000)))
    code, _, error = coma_command("create")
    assert code == 1 and error.count("\n") == 1 and "one two" in error and len(error) < 800
    monkeypatch.setattr(hub_scripts.create, "main", fail(KeyboardInterrupt()))
    assert coma_command("create")[0] == 130
    monkeypatch.setattr(hub_scripts.create, "main", fail(RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        main(["create"])


def help_in(folder: Path, *start: str) -> subprocess.CompletedProcess:
    """Asks for the help of a command, in a folder that Python looks into first."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *start, "create", "--help"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


AS_MODULE = ["-m", "hub_scripts.cli"]
AS_SCRIPT = ["-c", "from hub_scripts.cli import main; raise SystemExit(main())"]


@pytest.mark.parametrize("hiding", ["trainers/__init__.py", "modeling_coma/__init__.py", "trainers.py"])
@pytest.mark.parametrize("start", [AS_MODULE, AS_SCRIPT], ids=["module", "script"])
def test_a_folder_that_hides_a_package_is_named(start: list[str], hiding: str, tmp_path: Path) -> None:
    (tmp_path / hiding).parent.mkdir(exist_ok=True)
    (tmp_path / hiding).touch()
    done = help_in(tmp_path, *start)
    place = tmp_path / hiding.removesuffix("/__init__.py")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"coma: error: {place} hides the package {place.stem} of this command: run it")


@pytest.mark.parametrize("name", ["", "trainers", "hub_scripts"])
def test_a_folder_without_modules_hides_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / name / "out").mkdir(parents=True)
    done = help_in(tmp_path, *AS_MODULE)
    assert (done.returncode, done.stderr) == (0, "") and "usage: coma create" in done.stdout


def test_version(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"coma {trainers.__version__}\n"


@pytest.mark.parametrize(("module", "extra"), [("openai", "[qa]"), ("sentence_transformers.models", "[eval]")])
def test_a_missing_library_is_named_with_the_extra_that_has_it(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fails(argv: list[str]) -> int:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    metadata = Message()
    for name in ("qa", "eval"):
        metadata["Provides-Extra"] = name
    for line in ("torch<3,>=2.6", "openai-x; extra == 'eval'", "openai<4; extra == 'qa'"):
        metadata["Requires-Dist"] = line
    metadata["Requires-Dist"] = 'sentence-transformers>=6; extra == "eval"'
    monkeypatch.setattr("importlib.metadata.metadata", lambda name: metadata)
    monkeypatch.setattr(hub_scripts.create, "main", fails)
    assert main(["create"]) == 1
    assert capsys.readouterr().err.endswith(f"No module named {module!r}: pip install 'coma-embedding{extra}'\n")
