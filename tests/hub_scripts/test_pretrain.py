"""`coma pretrain` trains what a YAML file says, from a CoMa folder or a backbone; the shipped files are valid."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import AutoModel

from hub_scripts.pretrain import _load, _parse
from hub_scripts.recipes import FOLDER, list_recipes
from trainers.data.rows import NumberedRows


ROOT = Path(__file__).resolve().parents[2]
QUICK = {"max_steps": 2, "per_device_train_batch_size": 3, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
QUICK |= {"save_steps": 1, "logging_steps": 1, "learning_rate": 0.01}


@pytest.fixture
def dialogues(picture: Callable, tmp_path: Path) -> Path:
    """JSON lines with paths of images beside them; one row is text alone, without the key of images."""
    (tmp_path / "data").mkdir()
    rows = []
    for number in range(5):
        picture(28, 56, number).save(tmp_path / "data" / f"{number}.png")
        messages = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": f"apple {number}"}]
        rows.append({"images": [f"{number}.png"], "messages": messages})
    rows.append({"text": "a red apple", "messages": rows[0]["messages"]})
    (tmp_path / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data" / "rows.jsonl"


def write(folder: Path, **settings: object) -> Path:
    (folder / "my.yaml").write_text(yaml.safe_dump({**QUICK, **settings}))
    return folder / "my.yaml"


def steps(out: Path) -> list[dict]:
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


@pytest.mark.slow
def test_an_adapter_from_a_backbone(
    make_backbone: Callable, coma_command: Callable, dialogues: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    settings = {"train_sampling_strategy": "group_by_length", "max_tokens_per_batch": 400, "eval_strategy": "epoch"}
    data = {"data": str(dialogues), "eval_data": str(dialogues)}
    config = write(tmp_path, model=str(make_backbone()), num_compression_tokens=6, **data, **settings)
    words = ["pretrain", "--config", config, "--output_dir", out, "--lora_r", 4]
    code, text, error = coma_command(*words)
    assert code == 0, error
    assert f"coma merge {out}" in text
    assert len(steps(out)) == 2
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(out / "base")
    code, text, error = coma_command("merge", out, tmp_path / "merged")
    assert code == 0, error
    assert AutoModel.from_pretrained(tmp_path / "merged").config.num_compression_tokens == 6

    code, _, error = coma_command(*words, "--max_steps", 3, "--resume_from_checkpoint", "true")
    assert code == 0, error
    assert [entry["step"] for entry in steps(out)] == [1, 2, 3]


def test_a_whole_model_from_a_coma_folder(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = {"eval_strategy": "no", "freeze_vision": True, "save_strategy": "no"}
    config = write(tmp_path, model=str(coma_folder), data="emoji", lora_r=0, **settings)
    code, text, error = coma_command("pretrain", "--config", config, "--output_dir", out, "--turns", 2)
    assert code == 0, error
    said = text.splitlines()
    assert said[-4] == f"trained  {out}" and said[-3].startswith("steps    2 of 2, ")
    assert said[-1] == f"next     coma finetune --model {out} --data PAIRS --output_dir NEW_FOLDER"
    assert (out / "loss.png").exists()
    before, after = AutoModel.from_pretrained(coma_folder), AutoModel.from_pretrained(out)
    changed = {n for n, p in after.named_parameters() if not p.equal(before.get_parameter(n))}
    assert changed and not any("visual" in name for name in changed)
    assert (out / "modules.json").exists()


@pytest.mark.distributed
def test_on_two_processes(coma_folder: Path, dialogues: Path, tmp_path: Path) -> None:
    """As `coma` it may even be started where a folder of the name of a package lies. As a module, `evaluate` is."""
    program = tmp_path / "bin" / "coma"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom hub_scripts.cli import main\nraise SystemExit(main())\n")
    program.chmod(0o755)
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "__init__.py").touch()
    config = write(tmp_path, model=str(coma_folder), data=str(dialogues), lora_r=2, save_strategy="no")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*launch, program, "pretrain", "--config", config, "--output_dir", "out"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("trained  out\n") == done.stdout.count("next     coma merge out NEW_FOLDER\n") == 1
    assert done.stdout.count("step 1/2  ") == 1
    (stage,) = json.loads((tmp_path / "out" / "coma_training.json").read_text())
    assert (stage["processes"], stage["steps"], stage["rows_per_step"]) == (2, 2, 6)


def test_bad_files_are_said(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "a"}\n')
    words = ["pretrain", "--model", coma_folder, "--output_dir", tmp_path / "out", "--report_to", "none"]
    for data, reason in (
        (tmp_path / "rows.jsonl", "column messages: found a row with the columns ['question'], expected messages"),
        (tmp_path / "rows.xls", "must be a folder of `save_to_disk`, or a file that ends with .csv"),
    ):
        code, _, error = coma_command(*words, "--data", data)
        assert code == 1 and reason in error


def test_other_formats_of_dialogues(tmp_path: Path) -> None:
    """What `data_format` names is loaded, with its settings; training on it is that of any rows."""
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    (tmp_path / "llava.json").write_text(json.dumps([{"id": 1, "image": "a.png", "conversations": talk}]))
    sft = {"id": 1, "image": "a.png", "conversations": [{"from": "human", "value": "What?"}, talk[1]]}
    (tmp_path / "sft.jsonl").write_text(json.dumps(sft))
    (tmp_path / "vqa.csv").write_text("image,q,a\na.png,What?,A cat.\n")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        (tmp_path / "0.jpg").write_bytes(b"x")
        (tmp_path / "0.json").write_text(json.dumps({"conversations": talk}))
        tar.add(tmp_path / "0.jpg", "0.jpg")
        tar.add(tmp_path / "0.json", "0.json")
    for data, words in (
        ("llava.json", "--data_format llava"),
        ("sft.jsonl", "--data_format coma-sft"),
        ("vqa.csv", "--images image --question q --answer a"),
        ("a.tar", "--data_format webdataset"),
    ):
        arguments, _ = _parse([*words.split(), "--model", "m", "--data", str(tmp_path / data)])
        (row,) = (
            NumberedRows(_load(arguments.data, arguments, "raise"))
            if data != "a.tar"
            else _load(arguments.data, arguments, "raise")
        )
        assert row["messages"] == [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]
        assert len(row["images"]) == 1


@pytest.mark.parametrize("recipe", list_recipes("pretrain"))
def test_recipes_are_valid(recipe: str) -> None:
    arguments, config = _parse(["--config", recipe, "--model", "m", "--data", "d", "--bf16", "false"])
    assert (arguments.model, arguments.data) == ("m", "d")
    if recipe == "paper-pretrain":
        assert (arguments.lora_r, arguments.lora_alpha, arguments.lora_dropout, arguments.use_dora) == (
            16,
            64,
            0.1,
            True,
        )
        assert (arguments.min_pixels, arguments.max_pixels) == (256 * 28**2, 1024 * 28**2)
        assert (config.learning_rate, config.warmup_steps, config.num_train_epochs) == (5e-5, 0.05, 1)
        assert config.lr_scheduler_type == "cosine" and config.dialogue_max_length == 8192
        assert 8 * config.per_device_train_batch_size * config.gradient_accumulation_steps == 256


def test_configs_of_accelerate_are_valid() -> None:
    found = {path.stem: load_config_from_file(str(path)) for path in FOLDER.with_name("configs").glob("*.yaml")}
    assert {name: config.distributed_type.value for name, config in found.items()} == {
        "ddp": "MULTI_GPU",
        "fsdp2": "FSDP",
        "zero2": "DEEPSPEED",
        "zero3": "DEEPSPEED",
    }
    assert found["fsdp2"].fsdp_config["fsdp_version"] == 2
    assert [found[f"zero{stage}"].deepspeed_config["zero_stage"] for stage in (2, 3)] == [2, 3]
