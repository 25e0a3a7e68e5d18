"""A YAML file gives what the command line gives: the same settings, or the same refusal."""

from pathlib import Path

import pytest

from hub_scripts.finetune import _parse as finetune
from hub_scripts.pretrain import _parse as pretrain


NEEDED = ["--model", "m", "--data", "d", "--use_cpu", "true", "--report_to", "none"]


def read(parse, folder: Path, text: str, *words: str):
    (folder / "my.yaml").write_text(text, encoding="utf-8")
    return parse(["--config", str(folder / "my.yaml"), *NEEDED, *words])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "1e-4"),
        ("learning_rate", "'0.001'"),
        ("learning_rate", "1.0e-3"),
        ("learning_rate", "true"),
        ("learning_rate", ".inf"),
        ("learning_rate", "nan"),
        ("num_train_epochs", "-3"),
        ("num_train_epochs", "2"),
        ("max_steps", "3.0"),
        ("max_steps", "1_000"),
        ("max_steps", "2020-01-01"),
        ("per_device_train_batch_size", "abc"),
        ("freeze_vision", "no"),
        ("freeze_vision", "2"),
        ("freeze_vision", "False"),
        ("eval_strategy", "no"),
        ("save_strategy", "no"),
        ("data_format", "pairs"),
        ("data_format", "lllava"),
        ("on_bad_row", "ignore"),
        ("dtype", "float8"),
        ("temperature", "-1"),
        ("lora_r", "-1"),
        ("lora_dropout", "1.0"),
        ("lora_alpha", "0"),
        ("image_root", "2020-01-01"),
        ("query_text", "null_"),
        ("query_text", "'null'"),
        ("resume_from_checkpoint", "true"),
        ("resume_from_checkpoint", "false"),
        ("resume_from_checkpoint", "out/checkpoint-3"),
        ("seed", "'7'"),
        ("mmeb_split", "other"),
        ("lr_scheduler_type", "cosinus"),
        ("output_dir", "-x"),
    ],
)
def test_a_scalar_is_what_it_is_on_the_command_line(name, value, tmp_path, capsys):
    outcomes = []
    for parse in (
        lambda: read(finetune, tmp_path, f"{name}: {value}\n"),
        lambda: finetune([*NEEDED, f"--{name}={value.strip(chr(39))}"]),
    ):
        try:
            arguments, config = parse()
            arguments.given = None
            outcomes.append((arguments, {**config.to_dict(), "logging_dir": None}))
        except ValueError as error:
            outcomes.append(str(error).removeprefix(f"{tmp_path}/my.yaml: "))
        except SystemExit:
            outcomes.append(capsys.readouterr().err.partition("error: ")[2].strip())
    assert outcomes[0] == outcomes[1]


def test_lists_and_mappings(tmp_path):
    text = """
matryoshka_dims: [16, 32]
own_negatives_only: a
report_to: [tensorboard]
instructions: {VQA: "Find it.", b: 'null'}
sub_batch_size: 2
source_weights:
  VQA: 1e-1
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr: 1e-5}
accelerator_config: {use_seedable_sampler: false}
max_length:
eval_data: null
"""
    (tmp_path / "my.yaml").write_text(text)
    arguments, config = finetune(["--config", str(tmp_path / "my.yaml"), "--model", "m", "--data", "d"])
    assert config.matryoshka_dims == [16, 32] and config.own_negatives_only == ["a"]
    assert config.report_to == ["tensorboard"]
    assert config.instructions == {"VQA": "Find it.", "b": "null"} and config.source_weights == {"VQA": 0.1}
    assert config.lr_scheduler_kwargs == {"min_lr": 1e-5} and not config.accelerator_config.use_seedable_sampler
    assert config.max_length is None and arguments.eval_data is None
    assert finetune(["--config", str(tmp_path / "my.yaml"), *NEEDED])[1].report_to == []  # the line goes first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1e-4\nlearning_rate: 1e-5\n", r"my.yaml has 'learning_rate' twice, in line 2 again"),
        ("instructions: {a: x, a: y}", "my.yaml, instructions has 'a' twice"),
        ("- learning_rate\n", "my.yaml must be a mapping.*it is a sequence"),
        ("just words", "my.yaml must be a mapping.*it is a scalar"),
        ("learning_rate: 1\n---\nlearning_rate: 2\n", "is not YAML of one document"),
        ("learning_rate:\t1e-4\n\tseed: 3\n", "is not YAML of one document"),
        ("[" * 5000, "is not YAML of one document"),
        ("learning_rate: [1e-4]", "learning_rate: expected one value, found a list"),
        ("learning_rate: {a: 1}", "learning_rate: expected one value, found a mapping"),
        ("learning_rate: null", r"learning_rate: there is no value.*leave out the line for 5e-05"),
        ("learning_rate:", "learning_rate: there is no value"),
        ("matryoshka_dims: [[16]]", "matryoshka_dims, line 1: expected a word or a number"),
        ("matryoshka_dims: [16, null]", "matryoshka_dims, line 1: expected a word or a number"),
        ("matryoshka_dims: []", "my.yaml: argument --matryoshka_dims.*: expected at least one argument"),
        ("instructions: {a: 2020-01-01}", "instructions: it is no mapping of words and numbers"),
        ("instructions: &a {b: *a}", "instructions: the mapping has more than"),
        ("instructions: {a: yes}", "instructions of a source must be a text, got True for 'a'"),
        ("learning_rate: !!python/name:os.system 1", "learning_rate, line 1: expected a word or a number"),
        ("learning_rate: !secret 1", "learning_rate, line 1: expected a word or a number"),
        ("? [a, b]\n: 1\n", "a name of a setting must be a word"),
        ("config: other.yaml", r"settings that do not exist: \['config'\]"),
        ("help: true", r"settings that do not exist: \['help'\]"),
        ("1: 2", r"settings that do not exist: \['1'\]"),
    ],
)
def test_what_is_no_setting_is_said(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(finetune, tmp_path, text)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "my.yaml").write_bytes(b"\xff\xfe\x00 seed: 3")
    with pytest.raises(ValueError, match="my.yaml is not YAML"):
        finetune(["--config", str(tmp_path / "my.yaml"), *NEEDED])
    (tmp_path / "my.yaml").write_bytes("\ufeffseed: 3\n".encode())
    assert finetune(["--config", str(tmp_path / "my.yaml"), *NEEDED])[1].seed == 3
    (tmp_path / "my.yaml").write_text("")
    assert finetune(["--config", str(tmp_path / "my.yaml"), *NEEDED])[1].seed == 42


@pytest.mark.parametrize(
    ("parse", "words", "message"),
    [
        (finetune, "--lora_r 0 --lora_alpha 8", "lora_alpha cannot act without an adapter"),
        (finetune, "--mmeb_sets CIRR", "mmeb_sets cannot act without data_format mmeb"),
        (finetune, "--data emoji --query_text q", "query_text cannot act without a table"),
        (finetune, "--data emoji --image_root x", "image_root cannot act without paths"),
        (finetune, "--data_format triplets --source kind", "source cannot act without a table"),
        (finetune, "--eval_data d --eval_strategy no", "eval_data cannot act without an eval_strategy"),
        (finetune, "--eval_strategy epoch", "eval_strategy and eval_on_start need eval_data"),
        (finetune, "--do_predict true", "leave out do_train, do_eval, do_predict"),
        (finetune, "--do_train false", "leave out do_train, do_eval, do_predict"),
        (finetune, "--do_eval true", "leave out do_train, do_eval, do_predict"),
        (finetune, "--learn 1", "There are no settings --learn 1"),
        (finetune, "--conf mmeb-finetune", "There are no settings --conf mmeb-finetune"),
        (pretrain, "--turns 3", "turns cannot act without data emoji"),
        (pretrain, "--data emoji --images x", "images cannot act without a table"),
        (pretrain, "--data_format llava --question q", "question cannot act without a table"),
        (
            pretrain,
            "--data_format webdataset --train_sampling_strategy group_by_length",
            "group_by_length needs a table",
        ),
        (pretrain, "--data emoji --turns 0", "turns must be a whole number from 1, got 0"),
        (pretrain, "--num_compression_tokens 257", "num_compression_tokens must be from 1 to 256, got 257"),
        (pretrain, "--max_pixels 0", "max_pixels must be a whole number from 1, got 0"),
    ],
)
def test_what_would_not_act_is_refused(parse, words, message):
    with pytest.raises(ValueError, match=message):
        parse([*NEEDED, *words.split()])


def test_what_the_line_overrules_need_not_act(tmp_path):
    text = "data: emoji\neval_data: emoji\nturns: 3\nlora_r: 4\nlora_alpha: 8\neval_strategy: epoch\n"
    words = ["--lora_r", "0", "--eval_strategy", "no", "--data", "d", "--eval_data", "d"]
    with pytest.raises(ValueError, match="eval_data cannot act"):
        read(pretrain, tmp_path, text, *words)
    arguments, config = read(pretrain, tmp_path, text, *words[:-2])
    assert arguments.lora_r == 0 and config.eval_strategy == "no"


def test_evaluation_data_are_used(tmp_path):
    assert finetune([*NEEDED, "--eval_data", "d"])[1].eval_strategy == "epoch"
    assert read(finetune, tmp_path, "eval_data: d")[1].eval_strategy == "epoch"
    assert finetune([*NEEDED, "--eval_data", "d", "--eval_on_start"])[1].eval_strategy == "no"


def test_a_wrong_command_line_is_short(capsys):
    with pytest.raises(SystemExit) as stop:
        finetune([*NEEDED, "--learning_rate", "x"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "usage: coma finetune" in error and "invalid float value: 'x'" in error
    assert error.count("\n") == 2
