"""What `coma push` prepares is complete and was proven to load; what would not load is not published."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

import hub_scripts.hub.publish
from hub_scripts.hub.golden import GOLDEN_FILE, differences, write_golden
from hub_scripts.push import publish_model
from trainers.files import LOSS_PICTURE
from trainers.loss_curves import draw_losses


@pytest.fixture
def source(coma_folder: Path, tmp_path: Path) -> Path:
    """A model with a prompt of somebody's own, and a record of its training."""
    folder = shutil.copytree(coma_folder, tmp_path / "source")
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    settings["prompts"]["query"] = "Find: "
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    draw_losses([{"step": step, "loss": 1 / step} for step in (1, 2)], folder)
    return folder


@pytest.mark.slow
def test_a_dry_run_leaves_a_complete_folder(source: Path, coma_command: Callable, tmp_path: Path) -> None:
    """It has been loaded where nothing of ours can be imported, or it would not be there."""
    out = tmp_path / "out"
    code, said, error = coma_command(
        "push", source, "org/my-coma", "--dry-run", out, "--max-shard-size", "300KB", "--license", "apache-2.0"
    )
    assert code == 0, error
    assert "prepared and checked, not sent" in said
    names = {path.name for path in out.rglob("*")}
    assert {path.name for path in source.rglob("*")} - {"model.safetensors"} <= names
    assert (out / LOSS_PICTURE).read_bytes() == (source / LOSS_PICTURE).read_bytes()
    assert f"![Loss of the last stage over its steps]({LOSS_PICTURE})" in (out / "README.md").read_text()
    assert len(list(out.glob("model-*.safetensors"))) > 1 and GOLDEN_FILE in names
    prompts = json.loads((out / "config_sentence_transformers.json").read_text())["prompts"]
    assert prompts == {"query": "Find: ", "document": ""}
    assert "license: apache-2.0" in (out / "README.md").read_text()
    assert str(tmp_path) not in (out / "config.json").read_text(), "the card of where it lay"
    model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    golden = json.loads((out / GOLDEN_FILE).read_text())
    write_golden(tmp_path, model.eval(), processor)
    again = json.loads((tmp_path / GOLDEN_FILE).read_text())
    assert again["embeddings"] == golden["embeddings"] and len(golden["names"]) == 4
    assert len({tuple(row) for row in golden["embeddings"]}) == 4


@pytest.mark.slow
def test_what_does_not_load_is_not_published(
    source: Path, coma_command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that imports what only we have: it works here, and nowhere else."""

    def need_us(folder: Path, *model: object) -> None:
        write_golden(folder, *model)
        code = (folder / "modeling_coma.py").read_text()
        (folder / "modeling_coma.py").write_text(f"import trainers.compression.loss\n{code}")

    monkeypatch.setattr(hub_scripts.hub.publish, "write_golden", need_us)
    code, _, error = coma_command("push", source, "org/my-coma", "--dry-run", tmp_path / "out")
    assert code == 1 and "does not load in a process without coma-embedding" in error and "trainers" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_embeds_differently_is_not_published(
    source: Path, coma_command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that change on the way, here those that one layer multiplies images with."""

    def spoil(folder: Path, *model: object) -> None:
        write_golden(folder, *model)
        weights = load_file(folder / "model.safetensors")
        name = next(name for name in weights if "merger" in name and weights[name].dim() == 2)
        weights[name] *= 1.01
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(hub_scripts.hub.publish, "write_golden", spoil)
    code, _, error = coma_command("push", source, "org/my-coma", "--dry-run", tmp_path / "out")
    assert code == 1 and "other embeddings of an image by" in error and "a text with" not in error
    assert "of a text" not in error and not (tmp_path / "out").exists()


def test_a_pull_request_has_no_tag(source: Path, coma_command: Callable) -> None:
    with pytest.raises(SystemExit):
        coma_command("push", source, "org/my-coma", "--create-pr", "--tag", "v1")


def test_a_repository_has_an_owner(source: Path, coma_command: Callable) -> None:
    code, _, error = coma_command("push", source, "my-coma")
    assert code == 1 and "give ORG/NAME" in error


def test_an_adapter_needs_a_base_on_the_hub(source: Path, coma_command: Callable, tmp_path: Path) -> None:
    from peft import get_peft_model

    from modeling_coma import ComaForEmbedding
    from trainers.adapters import lora_config

    model = ComaForEmbedding.from_pretrained(source)
    get_peft_model(model, lora_config(model, r=2)).save_pretrained(tmp_path / "adapter")
    code, _, error = coma_command("push", tmp_path / "adapter", "org/a", "--adapter", "--dry-run", tmp_path / "out")
    assert code == 1 and "is not on the Hub" in error and not (tmp_path / "out").exists()


@pytest.mark.usefixtures("without_process")
def test_from_python_it_prints_nothing(source: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """What will be sent is told beforehand, to whoever wants to know; and whoever raises then keeps it."""
    (source / "notes.txt").write_text("mine")
    told = []
    published = publish_model(source, "org/my-coma", dry_run=tmp_path / "out", before_upload=told.append)
    assert told == [published] and published.commit is None and published.left_out == ["notes.txt"]
    assert published.files == {
        file.relative_to(tmp_path / "out").as_posix(): file.stat().st_size
        for file in (tmp_path / "out").rglob("*")
        if file.is_file()
    }
    assert not capsys.readouterr().out


@pytest.mark.usefixtures("without_process")
def test_an_adapter_upon_a_base_in_half_precision_is_published_merged(source: Path, tmp_path: Path) -> None:
    """Merged, it embeds here as it does where it is loaded: what is not a weight keeps its precision."""
    from peft import get_peft_model

    from modeling_coma import ComaForEmbedding
    from trainers.adapters import lora_config

    ComaForEmbedding.from_pretrained(source, dtype="bfloat16").save_pretrained(source)
    model = ComaForEmbedding.from_pretrained(source)
    adapted = get_peft_model(model, lora_config(model, r=2))
    for parameter in (parameter for parameter in adapted.parameters() if parameter.requires_grad):
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.manual_seed(0)).to(parameter.dtype)
    adapted.save_pretrained(tmp_path / "adapter")
    published = publish_model(tmp_path / "adapter", "org/my-coma", dry_run=tmp_path / "out")
    assert "model.safetensors" in published.files
    assert {weight.dtype for weight in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("place", [{"tag": "v1"}, {"revision": "next"}])
def test_a_pull_request_from_python_has_no_place_of_its_own(place: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a pull request is neither tagged nor on a branch"):
        publish_model(tmp_path / "none", "org/my-coma", create_pr=True, **place)


def test_differences_are_shares_of_the_length() -> None:
    golden = {"names": ["a", "b"], "embeddings": [[3.0, 4.0], [1.0, 0.0]]}
    report = {"golden": golden, "embeddings": [[3.0, 3.0], [1.0, 0.0]]}
    assert differences(report) == {"a": pytest.approx(0.2), "b": 0.0}
    with pytest.raises(ValueError, match="The vector of a has 1 dimensions, the golden one 2"):
        differences({"golden": golden, "embeddings": [[3.0], [1.0]]})


SECRET = "root:x:0:0 (the secret)"
NORMALIZE = {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "home_alice" / "passwd"
    file.parent.mkdir()
    file.write_text(SECRET)
    return file


def dry_run(coma_command: Callable, source: Path, out: Path, *options: str) -> tuple[int, str, str]:
    return coma_command("push", source, "org/my-coma", "--dry-run", out, *options)


def test_a_model_is_not_published_as_an_adapter(source: Path, coma_command: Callable, tmp_path: Path) -> None:
    code, _, error = dry_run(coma_command, source, tmp_path / "out", "--adapter")
    assert code == 1 and f"{source} has no adapter_config.json: it is no adapter" in error


def everything_in(folder: Path) -> str:
    return "\n".join(f"{p.name}\n{p.read_bytes().decode(errors='replace')}" for p in folder.rglob("*") if p.is_file())


@pytest.mark.usefixtures("without_process")
def test_only_what_belongs_is_sent_and_the_rest_is_named(
    source: Path, coma_command: Callable, tmp_path: Path, secret: Path
) -> None:
    """Modules are those that modules.json names, with the files that modules have; a licence goes along."""
    modules = json.loads((source / "modules.json").read_text())
    (source / "modules.json").write_text(json.dumps([*modules, NORMALIZE]))
    for folder in ("1_Normalize", "1_x", "checkpoint-5", ".git"):
        (source / folder).mkdir()
    (source / "1_x" / "passwd").symlink_to(secret)
    (source / "1_Normalize" / "config.json").write_text("{}")
    files = {"1_Normalize/notes.txt", "training_args.bin", ".env", "optimizer.pt", "mine.json", "trainer_state.json"}
    for name in files:
        (source / name).write_text(SECRET)
    (source / "LICENSE").write_text("Apache-2.0")
    code, said, error = dry_run(coma_command, source, tmp_path / "out")
    assert code == 0, error
    assert SECRET not in everything_in(tmp_path / "out")
    sent = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert {"LICENSE", "1_Normalize/config.json", "modules.json", "model.safetensors"} <= sent
    listed = {line.split()[2] for line in said.splitlines() if " MB  " in line and "files" not in line}
    assert listed == sent
    left_out = {line.split("  ")[-1] for line in said.splitlines() if "left out" in line}
    assert left_out == files | {"1_x/", "checkpoint-5/", ".git/"}


@pytest.mark.parametrize(
    "name",
    ["chat_template.jinja", "modules.json", "LICENSE", "coma_training.json", "loss.png", "tokenizer_config.json"],
)
def test_a_link_out_of_the_folder_is_not_followed(source, coma_command, tmp_path, secret, name) -> None:
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(secret)
    code, _, error = dry_run(coma_command, source, tmp_path / "out")
    assert code == 1 and f"{source / name} is a link that leads out of the folder" in error
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", ["../home_alice", "/etc", ".git", "1_x/.."])
def test_a_module_lies_in_the_folder(source: Path, coma_command: Callable, tmp_path: Path, secret: Path, path) -> None:
    (secret.parent / "config.json").write_text(SECRET)
    modules = json.loads((source / "modules.json").read_text())
    (source / "modules.json").write_text(json.dumps([*modules, {**NORMALIZE, "path": path}]))
    code, _, error = dry_run(coma_command, source, tmp_path / "out")
    assert code == 1 and f"names the folder {path!r}" in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_snapshot_in_the_cache_of_the_hub_is_a_model(source: Path, coma_command: Callable, tmp_path: Path) -> None:
    """There, all files are links into `blobs`; and weights may lie on another disk."""
    (tmp_path / "disk").mkdir()
    (source / "model.safetensors").rename(tmp_path / "disk" / "w.safetensors")
    home = tmp_path / "models--org--a"
    snapshot, blobs = home / "snapshots" / "abc", home / "blobs"
    snapshot.mkdir(parents=True)
    source.rename(blobs)
    for file in [file for file in blobs.rglob("*") if file.is_file()]:
        link = snapshot / file.relative_to(blobs)
        link.parent.mkdir(exist_ok=True)
        moved = file.rename(blobs / f"{file.parent.name}-{file.name}")
        link.symlink_to(Path("../" * len(link.relative_to(home).parts[:-1]), "blobs", moved.name))
    (snapshot / "model.safetensors").symlink_to(tmp_path / "disk" / "w.safetensors")
    code, _, error = dry_run(coma_command, snapshot, tmp_path / "out")
    assert code == 0, error
    assert not any(file.is_symlink() for file in (tmp_path / "out").rglob("*"))
    assert '"query": "Find: "' in (tmp_path / "out" / "config_sentence_transformers.json").read_text()


@pytest.mark.usefixtures("without_process")
def test_where_it_was_made_is_nobodys_business(
    make_backbone: Callable, coma_command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths as they were typed, in the configuration, the record, the results and the card."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(make_backbone(), tmp_path / "home_alice" / "secretproject" / "backbone")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    backbone = "../home_alice/secretproject/backbone"
    assert coma_command("create", backbone, "made", "--num-compression-tokens", "4")[0] == 0
    stage = {"stage": "compression", "model": "../home_alice/m", "data": "../home_alice/secretproject/dial.jsonl"}
    stage |= {"image_root": "../home_alice/images", "steps": 1, "settings": {}, "adapter": None, "epochs": None}
    (tmp_path / "work" / "made" / "coma_training.json").write_text(json.dumps([stage]))
    tokenizer = json.loads(Path("made/tokenizer_config.json").read_text())
    tokenizer["name_or_path"] = tokenizer["special_tokens_map_file"] = "/home_alice/secretproject/x.json"
    tokenizer["extra_files"] = ["/home_alice/a.txt", ["/home_alice/b.txt"], {"of": "/home_alice/c.txt"}]
    tokenizer["extra"] = [{"merges_file": ["/home_alice/d.txt", "org/name"], "pattern": "/a/b/"}]
    Path("made/tokenizer_config.json").write_text(json.dumps(tokenizer))
    result = {"task": "retrieval", "dataset": "../home_alice/shop.jsonl", "metrics": {"hit@1": 0.5}}
    result["command"] = "python ../home_alice/eval.py --api_key hunter2hunter2 --url https://alice:hunter2@host/v1"
    Path("results.json").write_text(json.dumps(result))
    code, _, error = dry_run(coma_command, Path("made"), Path("out"), "--results", "results.json")
    assert code == 0, error
    published = everything_in(Path("out"))
    for word in ("alice", "secretproject", "hunter2", str(tmp_path), str(Path.home()) + "/"):
        assert word not in published, word
    assert "dial.jsonl" in published and "shop.jsonl" in published and "made from backbone" in published
    tokenizer = json.loads(Path("out/tokenizer_config.json").read_text())
    assert tokenizer["extra_files"] == ["a.txt", ["b.txt"], {"of": "c.txt"}]
    assert tokenizer["extra"] == [{"merges_file": ["d.txt", "org/name"], "pattern": "/a/b/"}]


def test_a_model_that_gives_no_numbers_is_not_published(source: Path, coma_command: Callable, tmp_path: Path) -> None:
    weights = load_file(source / "model.safetensors")
    name = next(name for name in weights if "merger" in name and weights[name].dim() == 2)
    weights[name][0] = float("nan")
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    code, _, error = dry_run(coma_command, source, tmp_path / "out")
    assert code == 1 and "is not finite: are there NaN weights?" in error
    assert not (tmp_path / "out").exists()


def test_a_difference_that_is_no_number_is_beyond_any_tolerance() -> None:
    nan = float("nan")
    golden = {"names": ["a", "b", "c"], "embeddings": [[nan, 4.0], [1.0, 0.0], [nan, nan]]}
    report = {"golden": golden, "embeddings": [[3.0, 4.0], [nan, 0.0], [nan, nan]]}
    assert differences(report) == dict.fromkeys("abc", float("inf"))
    golden["names"] = ["a", "a", "a"]
    assert differences({**report, "embeddings": [[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]}) == {"a": float("inf")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["org/my..coma"], "my..coma"),
        (["org/my-coma.git"], "my-coma.git"),
        (["org//my-coma"], "give ORG/NAME"),
        (["https://huggingface.co/org/my-coma"], "give ORG/NAME"),
        (["org/" + "x" * 100], "xxx"),
        (["org/my-coma", "--base-model", "../../backbone"], "no name on the Hub"),
        (["org/my-coma", "--license", "mit\nbase_model: x"], "no identifier of the Hub"),
    ],
)
def test_names_are_checked_before_anything_is_loaded(options, words, source, coma_command, tmp_path) -> None:
    code, _, error = coma_command("push", tmp_path / "none", *options, "--dry-run", tmp_path / "out")
    assert code == 1 and words in error and error.count("\n") == 1 and "none" not in error.replace("is none", "")


def test_what_is_no_model_and_a_folder_of_somebody(source: Path, coma_command: Callable, tmp_path: Path) -> None:
    code, _, error = coma_command("push", tmp_path / "none", "org/my-coma", "--dry-run", tmp_path / "out")
    assert code == 1 and "is neither a folder nor a model on the Hub" in error and error.count("\n") == 1
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code, _, error = dry_run(coma_command, source, tmp_path / "out")
    assert code == 1 and "nothing is overwritten" in error and (tmp_path / "out" / "mine.txt").read_text() == "mine"


FULL_DISK = """
import resource, signal, sys
from hub_scripts.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [100_000, 1_000])
def test_a_disk_that_is_full_is_a_line(source: Path, tmp_path: Path, size: int) -> None:
    """A limit on the size of files stands for it: the weights do not fit, or not even the code."""
    command = [
        sys.executable,
        "-c",
        FULL_DISK,
        str(size),
        "push",
        str(source),
        "org/a",
        "--dry-run",
        str(tmp_path / "o"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-1000:]
    assert done.stderr.splitlines()[-1].startswith("coma push: error: ") and "large" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "o").exists()
