"""A training has its folder for itself: it takes no other's place, and goes on with what it was begun with."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_scripts.common.folders import new_folder
from hub_scripts.pretrain import _parse as pretrain
from trainers.files import one_writer


ROOT = Path(__file__).resolve().parents[3]
QUICK = (
    "--max_steps 2 --save_steps 1 --per_device_train_batch_size 3 --report_to none --use_cpu true --disable_tqdm true"
)
QUICK += " --logging_steps 1 --learning_rate 0.01 --lora_r 2"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    row = {"query_text": "what, {n}", "positive_text": "an apple {n}", "source": "a"}
    lines = [json.dumps({name: text.format(n=n) for name, text in row.items()}) for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "rows.jsonl"


@pytest.fixture
def finetune(coma_folder: Path, coma_command: Callable, rows: Path, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """`finetune(*words)`: exit code and standard error; trains two steps into `out` unless the words say otherwise."""

    def run(*words: object) -> tuple[int, str]:
        columns = "--query_text query_text --positive_text positive_text --source source".split()
        given = ["--model", coma_folder, "--data", rows, "--output_dir", tmp_path / "out", *columns, *QUICK.split()]
        code, _, error = coma_command("finetune", *given, *words)
        return code, error.strip().splitlines()[-1] if error.strip() else ""

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_finished_training_is_not_replaced(finetune: Callable, tmp_path: Path) -> None:
    assert finetune()[0] == 0
    expected = weights(tmp_path / "out")
    code, error = finetune()
    assert code == 1 and "out has a training with these settings already: --resume_from_checkpoint true" in error
    for words, what in (
        (["--learning_rate", "0.02"], "learning_rate (0.01, now 0.02)"),
        (["--lora_r", "4"], "lora_r (2, now 4)"),
        (["--temperature", "0.5"], "temperature (0.03, now 0.5)"),
        (["--instructions", '{"a": "Find it."}'], "instructions (None, now {'a': 'Find it.'})"),
        (["--query_text", "positive_text"], "query_text ('query_text', now 'positive_text')"),
    ):
        for resume in ([], ["--resume_from_checkpoint", "true"]):
            code, error = finetune(*words, *resume)
            assert code == 1 and "was begun with another" in error and what in error, error
    assert equal(weights(tmp_path / "out"), expected)


@pytest.mark.slow
def test_another_model_or_other_data_do_not_go_on(
    finetune: Callable, coma_folder: Path, rows: Path, tmp_path: Path
) -> None:
    assert finetune("--max_steps", 1)[0] == 0
    resume = ["--resume_from_checkpoint", "true"]
    other = shutil.copytree(coma_folder, tmp_path / "other")
    assert finetune("--model", other, *resume)[0] == 0  # the same under another name
    changed = load_file(other / "model.safetensors")
    name = next(name for name in changed if "norm" in name)
    save_file({**changed, name: changed[name] + 1e-3}, other / "model.safetensors", {"format": "pt"})
    code, error = finetune("--model", other, *resume)
    assert code == 1 and f"begun with another model ({coma_folder.name})" in error
    elsewhere = ["--output_dir", tmp_path / "new", "--resume_from_checkpoint", tmp_path / "out" / "checkpoint-1"]
    code, error = finetune("--model", other, *elsewhere)
    assert code == 1 and "is a checkpoint of a training of another model than other" in error
    rows.write_text(rows.read_text().replace("apple", "orange"))
    code, error = finetune(*resume)
    assert code == 1 and "was begun with another data" in error
    code, error = finetune(*elsewhere)  # other data on purpose
    assert code == 0 and (tmp_path / "new" / "checkpoint-2").exists(), error


@pytest.mark.slow
def test_it_goes_on_bit_by_bit(finetune: Callable, tmp_path: Path) -> None:
    steps = ["--max_steps", 4, "--save_steps", 2, "--instructions", '{"a": "Find it."}']
    assert finetune(*steps, "--output_dir", tmp_path / "whole")[0] == 0
    assert finetune(*steps)[0] == 0
    out = tmp_path / "out"
    shutil.rmtree(out / "checkpoint-4")  # as if it had been killed before
    for file in out.glob("adapter_*"):
        file.unlink()
    # Logging and saving may change; what is not given is as at the beginning, the instructions for instance.
    resume = ["--resume_from_checkpoint", "true", "--logging_steps", 2, "--save_steps", 4]
    assert finetune("--max_steps", 4, *resume)[0] == 0
    assert equal(weights(out), weights(tmp_path / "whole"))
    settings = json.loads((out / "_begun_with.json").read_text())["settings"]
    assert settings["instructions"] == {"a": "Find it."}


@pytest.mark.slow
def test_what_was_killed_before_its_first_checkpoint_begins_again(finetune: Callable, tmp_path: Path) -> None:
    assert finetune("--max_steps", 1)[0] == 0
    out = tmp_path / "out"
    shutil.rmtree(out / "checkpoint-1")
    for file in out.glob("adapter_*"):
        file.unlink()
    code, error = finetune("--resume_from_checkpoint", "true")
    assert code == 1 and "no complete checkpoint" in error
    assert finetune("--resume_from_checkpoint", "false", "--learning_rate", "0.02")[0] == 0


@pytest.mark.parametrize("how", ["same", "relative", "link", "slash"])
def test_the_model_is_not_overwritten(
    finetune: Callable, coma_folder: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(coma_folder)
    relative = Path(*[".."] * len(tmp_path.parts[1:]), *coma_folder.parts[1:])
    place = {"same": coma_folder, "relative": relative, "link": "link", "slash": f"{coma_folder}/"}[how]
    before = {file: file.stat().st_mtime_ns for file in coma_folder.iterdir()}
    code, error = finetune("--output_dir", place)
    assert code == 1 and "is the model itself" in error
    assert {file: file.stat().st_mtime_ns for file in coma_folder.iterdir()} == before


def test_a_folder_of_something_else_is_left_alone(finetune: Callable, coma_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(coma_folder, tmp_path / "other")
    code, error = finetune("--output_dir", other)
    assert code == 1 and "is there already, with README.md and no record of a training" in error
    (tmp_path / "out" / "checkpoint-150").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-150" / "trainer_state.json").write_text("{}")
    for resume in ([], ["--resume_from_checkpoint", "true"]):
        code, error = finetune(*resume)
        assert code == 1 and "is there already, with checkpoint-150 and no record" in error
    (tmp_path / "file").touch()
    code, error = finetune("--output_dir", tmp_path / "file")
    assert code == 1 and "file is a file" in error
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("adapter")]


def test_logs_and_settings_may_lie_in_the_folder(finetune: Callable, tmp_path: Path) -> None:
    for name in ("train.log", "my.yaml", ".gitignore", "slurm-1.out"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text(name)
    assert finetune("--max_steps", 1)[0] == 0
    assert (tmp_path / "out" / "train.log").read_text() == "train.log"


def test_a_second_writer_is_told(finetune: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hold = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom trainers.files import one_writer\n"
    hold += f"with one_writer({str(out.resolve())!r}): print('holds', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "holds\n"
        code, error = finetune()
        assert code == 1 and f"Another process is writing {out}" in error and not out.exists()
        other.communicate("")
    assert finetune("--max_steps", 1)[0] == 0


def test_fewer_processes_are_said(finetune: Callable, tmp_path: Path) -> None:
    assert finetune("--max_steps", 1)[0] == 0
    record = json.loads((tmp_path / "out" / "_begun_with.json").read_text())
    (tmp_path / "out" / "_begun_with.json").write_text(json.dumps({**record, "num_processes": 8}))
    code, error = finetune("--resume_from_checkpoint", "true")
    assert code == 1 and "begun with another num_processes" in error
    (tmp_path / "out" / "_begun_with.json").write_text("{")
    code, error = finetune("--resume_from_checkpoint", "true")
    assert code == 1 and "_begun_with.json cannot be read" in error


def test_a_record_of_an_older_version_goes_on(tmp_path: Path) -> None:
    """Settings that it knows nothing of are as they are, and lengths were in a column of another name."""
    before = {"command": "pretrain", "settings": {"lora_r": 2, "length_column": "tokens", "gone": True}}
    (tmp_path / "_begun_with.json").write_text(json.dumps(before, indent=2))
    words = ["--model", "m", "--data", "d", "--use_cpu", "true", "--report_to", "none"]
    arguments, config = pretrain([*words, "--output_dir", str(tmp_path), "--resume_from_checkpoint", "true"])
    assert (arguments.lora_r, config.groups_by_length, config.length_column_name) == (2, True, "tokens")
    arguments, config = pretrain([*words, "--output_dir", str(tmp_path)])
    assert (arguments.lora_r, config.groups_by_length, config.length_column_name) == (16, False, "length")


@pytest.mark.slow
def test_pretrain_with_another_k_does_not_take_the_old_base(
    make_backbone: Callable, coma_command: Callable, coma_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["pretrain", "--model", make_backbone(), "--data", "emoji", "--turns", 1, "--output_dir", out]
    words += [*QUICK.split(), "--max_steps", 1]
    code, _, error = coma_command(*words, "--num_compression_tokens", 6)
    assert code == 0, error
    code, _, error = coma_command(*words, "--num_compression_tokens", 5)
    assert code == 1 and "num_compression_tokens (6, now 5)" in error
    code, _, error = coma_command(*words, "--num_compression_tokens", 6, "--resume_from_checkpoint", "true")
    assert code == 0, error
    # Of a CoMa model they cannot be changed.
    words[words.index("--model") + 1], words[words.index("--output_dir") + 1] = coma_folder, tmp_path / "new"
    for name, value in (("num_compression_tokens", 4), ("max_pixels", 784)):
        code, _, error = coma_command(*words, f"--{name}", value + 28)
        assert code == 1 and f"is a CoMa model already, with {name} " in error, error
    code, _, error = coma_command(*words, "--num_compression_tokens", 4)
    assert code == 0, error


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(finetune: Callable, tmp_path: Path) -> None:
    """The limit of a file stands for the disk: what is written beyond it fails in the same way."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        code, error = finetune("--save_strategy", "no", "--lora_r", 32)
        assert code == 1 and "out/.saving could not be written" in error, error
        assert not list((tmp_path / "out").glob("adapter*")) and not (tmp_path / "out" / ".saving").exists()
        code, error = finetune("--output_dir", tmp_path / "other", "--lora_r", 32)
        assert code == 1 and "other/checkpoint-1 could not be written" in error, error
        assert not list((tmp_path / "other").glob("checkpoint*"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert finetune()[0] == 0


def test_a_new_folder_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "place")
    with new_folder(tmp_path / "link") as folder:
        (folder / "file").write_text("x")
    assert (tmp_path / "place" / "file").read_text() == "x" and (tmp_path / "link").is_symlink()
    with one_writer(tmp_path / "place"):
        pass


@pytest.mark.slow
def test_after_a_bad_row_pretrain_begins_again_with_better_data(
    make_backbone: Callable, coma_command: Callable, tmp_path: Path
) -> None:
    """Nothing has been trained: what was made of the backbone stays, if it would be made again just so."""
    data = tmp_path / "dialogues.jsonl"
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "An apple."}]
    row = {"images": [], "text": "an apple", "messages": turns}
    words = ["pretrain", "--model", make_backbone(), "--data", data, "--output_dir", tmp_path / "out", *QUICK.split()]
    data.write_text(json.dumps({**row, "text": "<|im_end|>"}) + "\n")
    code, _, error = coma_command(*words)
    assert code == 1 and (tmp_path / "out" / "base").exists(), error
    data.write_text(json.dumps(row) + "\n")
    code, _, error = coma_command(*words, "--num_compression_tokens", 6)
    assert code == 1 and "num_compression_tokens (32, now 6)" in error
    code, _, error = coma_command(*words, "--learning_rate", "0.02")
    assert code == 0, error
    code, _, error = coma_command(*words, "--resume_from_checkpoint", "true")
    assert code == 1 and "learning_rate (0.02, now 0.01)" in error
