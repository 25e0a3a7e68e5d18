"""What `coma verify` and `coma push` say of what is, and is not, on the Hub: not there, gated, out of reach."""

import json
import shutil

import huggingface_hub.constants
import pytest

import hub_scripts.hub.golden
from hub_scripts.cli import main
from hub_scripts.common.folders import save_model
from hub_scripts.hub.golden import GOLDEN_FILE
from hub_scripts.hub.training_record import TRAINING_FILE, read_training_record
from hub_scripts.hub.upload import _in_a_line, upload
from hub_scripts.push import publish_model
from hub_scripts.verify import verify_model
from tests.clean_process import load_here


REPO = "org/my-coma"


@pytest.fixture
def said(capsys):
    """`said("verify", …)`: exit code, output, and the one line of an error."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, error = capsys.readouterr()
        lines = [line for line in error.splitlines() if line.startswith("coma ")]
        assert "Traceback" not in error and len(lines) <= 1
        return code, out, lines[0] if lines else ""

    return run


def gated(hub):
    for method in ("GET", "HEAD"):
        hub.fail(method, "/", status=403, message="ask first", times=99, headers={"X-Error-Code": "GatedRepo"})


def down(hub):
    for method in ("GET", "HEAD"):
        hub.fail(method, "/", status=503, times=99, headers={"Retry-After": "0"})


def busy(hub):
    hub.fail("HEAD", "/", status=429, times=99, headers={"Retry-After": "0"})


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (None, "there is no such repository or revision, or it is private"),
        (gated, "who wants to load it must ask for access on its page"),
        pytest.param(down, "the Hub has a fault of its own", marks=pytest.mark.slow),
        pytest.param(busy, "the Hub asks to be asked less often", marks=pytest.mark.slow),
    ],
)
def test_why_a_model_is_not_to_be_had(hub, folder, said, break_it, words) -> None:
    if break_it is not None:
        upload(folder, REPO, "the first")
        break_it(hub)
    code, out, error = said("verify", REPO)
    assert (code, out) == (1, "") and f"{REPO}: {words}" in error and "does not load" not in error
    code, out, error = said("push", REPO, "org/copy", "--dry-run", folder.parent / "out")
    assert (code, out) == (1, "") and f"{REPO}: {words}" in error


@pytest.mark.slow
def test_no_hub_can_be_reached(hub, said, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    code, _, error = said("verify", REPO)
    assert code == 1 and "broke or never came about" in error and "refused" in error
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    code, _, error = said("verify", REPO)
    assert code == 1 and f"{REPO}: HF_HUB_OFFLINE is set" in error


def test_a_revision_that_is_not_there(hub, folder, said) -> None:
    upload(folder, REPO, "the first")
    code, _, error = said("verify", REPO, "--revision", "v9")
    assert code == 1 and "there is no such repository or revision" in error and "v9" in error


@pytest.mark.slow
def test_from_repository_to_repository(hub, make_coma, tmp_path, said) -> None:
    """A model on the Hub is pushed on, prompts and record with it; it is listed before it is sent."""
    save_model(*make_coma(), tmp_path / "a")
    prompts = tmp_path / "a" / "config_sentence_transformers.json"
    prompts.write_text(json.dumps({**json.loads(prompts.read_text()), "prompts": {"query": "Find: "}}))
    (tmp_path / "a" / TRAINING_FILE).write_text('[{"stage": "compression", "data": "../alice/d.jsonl"}]')
    upload(tmp_path / "a", REPO, "the first")
    code, out, error = said("verify", REPO)
    commit = hub.repos[REPO].branches["main"]
    assert code == 1 and f"{REPO} loads, but has no golden vectors" in error and commit in out

    hub.fail("POST", "/commit/", status=403)
    code, out, error = said("push", REPO, "org/copy")
    assert code == 1 and "your token may not do this" in error
    assert GOLDEN_FILE in out and "MB  in " in out, "what was to be sent is not listed when sending fails"
    code, out, error = said("push", REPO, "org/copy")
    assert code == 0, error
    assert out.index(GOLDEN_FILE) < out.index("pushed")
    files = hub.repos["org/copy"].files()
    assert b'"Find: "' in files[prompts.name].content and b'"d.jsonl"' in files[TRAINING_FILE].content
    listed = {line.split()[2] for line in out.splitlines() if " MB  " in line and "files" not in line}
    assert listed == files.keys() - {".gitattributes"}
    assert said("verify", "org/copy")[0] == 0


def test_from_python(hub, make_coma, tmp_path, capsys, monkeypatch) -> None:
    """Published by a call, checked by a call; whoever looks at the files beforehand can stop it."""
    save_model(*make_coma(), tmp_path / "mine")

    def stop(published):
        raise ValueError(f"not {len(published.files)} files")

    # The process that `load_cleanly` starts is shown by what goes from repository to repository, and by a dry run.
    monkeypatch.setattr(hub_scripts.hub.golden, "load_cleanly", load_here)
    with pytest.raises(ValueError, match=r"not \d+ files"):
        publish_model(tmp_path / "mine", REPO, before_upload=stop)
    assert not hub.repos
    published = publish_model(tmp_path / "mine", REPO, license="mit", tag="v1", private=True, message="the first")
    repo = hub.repos[REPO]
    assert published.commit.oid == repo.tags["v1"] and repo.commits[published.commit.oid].title == "the first"
    sizes = {name: len(blob.content) for name, blob in repo.files().items() if name != ".gitattributes"}
    assert published.files == sizes and repo.private and not published.left_out
    found = verify_model(REPO, revision="v1")
    assert found.is_intact and found.commit == published.commit.oid
    assert not capsys.readouterr().out


def test_earlier_stages_that_cannot_be_fetched_are_not_taken_for_none(hub, folder, monkeypatch) -> None:
    """Without the record a model on the Hub was not trained; without the Hub, nobody knows."""
    upload(folder, REPO, "the first")
    assert read_training_record(REPO) is None
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert read_training_record(REPO) is None, "that it was not there is known"
    assert read_training_record("org/other") == [{"stage": "unknown", "model": "org/other"}]


def test_only_what_belongs_is_uploaded(hub, folder, tmp_path) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0")
    for name in ("notes.json", ".env", "1_x/passwd"):
        copy = shutil.copytree(folder, tmp_path / name.replace("/", "-"))
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("mine")
        with pytest.raises(ValueError, match="has files that belong to no model"):
            upload(copy, REPO, "the first")
    for name in ("README.md", "model.safetensors"):
        copy = shutil.copytree(folder, tmp_path / f"with {name}")
        (copy / name).unlink(missing_ok=True)
        (copy / name).symlink_to(tmp_path / "passwd")
        with pytest.raises(ValueError, match="is a link that leads out of the folder"):
            upload(copy, REPO, "the first")
    (folder / "plot.png").symlink_to(tmp_path / "passwd")
    with pytest.raises(ValueError, match="belong to no model, and is not published: plot.png"):
        upload(folder, REPO, "the first")
    assert not hub.repos


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Data processing error:\n  CAS client error: https://a:b@host/x?token=abc"), "broke or never"),
        (PermissionError("CAS: not authorised"), "your token may not do this"),
        (TimeoutError(), "(TimeoutError)"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (OSError(28, "No space left on device", "/cache/blob"), "No space left on device: /cache/blob"),
    ],
)
def test_errors_of_the_storage_and_of_this_machine(error, words) -> None:
    """Xet raises what Python has, without numbers and over several lines."""
    with pytest.raises(OSError) as found, _in_a_line(REPO, "https://hub"):
        raise error
    line = str(found.value)
    assert line.startswith(f"{REPO}: ") and words in line and "\n" not in line and "token=abc" not in line
