"""A YAML file gives what the command line gives: the same settings, or the same refusal."""

from pathlib import Path

import pytest

from hub_scripts.finetune import _parse as finetune
from hub_scripts.pretrain import _parse as pretrain
from trainers.data.dialogues import DialogueColumns
from trainers.data.pairs import PairColumns


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
            outcomes.append(capsys.readouterr().err.partition("error: ")[2].partition("\n")[0])
    assert outcomes[0] == outcomes[1]


def test_lists_and_mappings(tmp_path):
    text = """
matryoshka_dims: [16, 32]
late_interaction_budgets: [1x1, 2x4]
late_interaction_weights: [1, 0.5]
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
    assert (config.late_interaction_budgets, config.late_interaction_weights) == ([[1, 1], [2, 4]], [1.0, 0.5])
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
        ("config: other.yaml", r"has a setting that does not exist: config[.;]"),
        ("help: true", r"has a setting that does not exist: help[.;]"),
        ("1: 2", r"has a setting that does not exist: 1\."),
        ("learning-rat: 1", r"has a setting that does not exist: learning-rat; did you mean learning_rate\?"),
        ("temperature: -1", r"my.yaml: temperature must be a number above 0, got -1"),
        ("lora_r: 0\nlora_alpha: 8", r"my.yaml: lora_alpha cannot act without an adapter"),
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
        (finetune, "--eval_query_text q", "eval_data_format|eval_query_text cannot act without a table"),
        (finetune, "--data_format mmeb --eval_image_root x --query_text q", "query_text cannot act without a table"),
        (finetune, "--eval_data emoji --eval_image_root x", "eval_image_root cannot act without paths"),
        (finetune, "--eval_data emoji --eval_data_format triplets", "eval_data_format cannot act without eval_data"),
        (finetune, "--eval_data d --eval_data_format mmeb --eval_group g", "eval_group cannot act without a table"),
        (pretrain, "--eval_question q", "eval_question cannot act without a table"),
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*NEEDED, "--learning_rate", "x"], "invalid float value: 'x'"),
        ([*NEEDED, "--learning-rat", "1e-4"], "there is no option --learning-rat; did you mean --learning_rate?"),
        ([*NEEDED, "--learn", "1"], "there is no option --learn"),  # the beginning of a name is not enough
        ([*NEEDED, "pairs.csv"], "pairs.csv: a setting has a name, as in --data FILE"),
        (["--model", "m"], "`data` is missing: give --data"),
        ([], "`model` is missing: give --model"),
    ],
)
def test_a_wrong_command_line_is_short(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        finetune(words)
    first, second = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and first.startswith("coma finetune: error: ") and message in first
    assert "`coma finetune --help`" in second


UNSET = """
max_length: 7
query_text: q
positive_text: p
matryoshka_dims: [4]
eval_data: d
eval_strategy: steps
own_negatives_only: [a]
image_root: x
"""


@pytest.mark.parametrize("nothing", ["none", "null"])
def test_the_line_takes_back_what_a_file_says(nothing, tmp_path):
    names = ("max_length", "query_text", "matryoshka_dims", "eval_data", "own_negatives_only", "image_root")
    words = [word for name in names for word in (f"--{name}", nothing)]
    arguments, config = read(finetune, tmp_path, UNSET, *words)
    assert [getattr(arguments, name, getattr(config, name, None)) for name in names] == [None] * len(names)
    assert arguments.positive_text == "p" and config.eval_strategy == "no"
    assert read(finetune, tmp_path, UNSET)[1].max_length == 7


def test_what_is_taken_back_need_not_act(tmp_path):
    text = "data_format: pairs\nquery_text: q\n"
    with pytest.raises(ValueError, match="query_text cannot act"):
        read(finetune, tmp_path, f"{text}data: emoji\n", "--query_text", "q", "--data", "emoji")
    assert read(finetune, tmp_path, text, "--query_text", "none", "--data", "emoji")[0].query_text is None


def test_a_default_that_is_a_value_is_not_taken_back(capsys):
    with pytest.raises(SystemExit):
        finetune([*NEEDED, "--learning_rate", "none"])
    assert "invalid float value: 'none'" in capsys.readouterr().err


def test_rows_for_evaluation_are_as_those_for_training_or_as_is_said_of_them():
    train = ["--query_text", "q", "--positive_image", "p", "--image_root", "here", "--eval_data", "d"]
    arguments, _ = finetune([*NEEDED, *train])
    assert arguments.rows_of(evaluation=True) == arguments.rows_of(evaluation=False)
    arguments, _ = finetune([*NEEDED, *train, "--eval_query_text", "title", "--eval_positive_text", "body"])
    assert arguments.rows_of(evaluation=False) == ("pairs", "here", PairColumns(query_text="q", positive_image="p"))
    data_format, root, columns = arguments.rows_of(evaluation=True)
    assert (data_format, root) == ("pairs", None)
    assert columns == PairColumns(query_text="title", positive_text="body")
    arguments, _ = finetune([*NEEDED, *train, "--eval_data_format", "pairs"])
    assert arguments.rows_of(evaluation=True) == ("pairs", None, PairColumns())  # rows of the schema
    arguments, _ = pretrain([*NEEDED, "--eval_data", "d", "--eval_images", "photo"])
    assert arguments.rows_of(evaluation=True)[2] == DialogueColumns(images="photo")


def test_bf16_without_a_gpu_names_itself_its_file_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.training_config.is_torch_bf16_gpu_available", lambda: False)
    needed = ["--model", "m", "--data", "d"]
    (tmp_path / "my.yaml").write_text("bf16: true\n")
    with pytest.raises(ValueError, match=r"my\.yaml: bf16=True needs a GPU.* Set bf16 to false"):
        finetune(["--config", str(tmp_path / "my.yaml"), *needed])
    with pytest.raises(ValueError, match=r"mmeb-finetune\.yaml: bf16=True .*--bf16 goes before the recipe"):
        finetune(["--config", "mmeb-finetune", *needed])
    with pytest.raises(ValueError, match="^bf16=True needs a GPU"):
        finetune(["--config", str(tmp_path / "my.yaml"), *needed, "--bf16", "true"])
    assert not finetune(["--config", "mmeb-finetune", *needed, "--bf16", "false"])[1].bf16
    assert finetune([*needed, "--bf16", "--use_cpu"])[1].bf16
