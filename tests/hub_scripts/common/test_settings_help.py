"""The help of the trainings is one page that has every setting of ours, and what is used most of the HF settings."""

import dataclasses
import re
from pathlib import Path

import pytest
from transformers import TrainingArguments

from hub_scripts import finetune, pretrain
from hub_scripts.cli import main
from trainers.compression.config import ComaCompressionConfig
from trainers.experimental.config import ExperimentalContrastiveConfig


TRAININGS = {
    "pretrain": (pretrain.PretrainArguments, ComaCompressionConfig),
    "finetune": (finetune.FinetuneArguments, ExperimentalContrastiveConfig),
}
OF_HF = {field.name for field in dataclasses.fields(TrainingArguments)}
USED_MOST = (
    *("learning_rate", "warmup_steps", "num_train_epochs", "max_steps", "per_device_train_batch_size", "output_dir"),
    *("gradient_accumulation_steps", "gradient_checkpointing", "bf16", "seed", "report_to", "eval_strategy"),
    *("resume_from_checkpoint", "logging_steps", "save_steps", "dataloader_num_workers"),
)


@pytest.fixture(params=TRAININGS)
def command(request):
    return request.param


@pytest.fixture
def help_of(capsys, monkeypatch):
    def read(command, width=100, option="--help"):
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as stop:
            main([command, option])
        assert stop.value.code == 0
        return capsys.readouterr().out

    return read


def options(text):
    """Names of the settings, of which several may be in a line."""
    return set(re.findall(r"(?<=--)\w[\w-]*", text))


@pytest.mark.parametrize("width", [100, 140])
def test_the_help_is_a_page(command, width, help_of):
    lines = help_of(command, width).splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 119
    assert f"  coma {command} --config " in "\n".join(lines)


def test_the_help_has_what_is_ours_and_what_is_used_most(command, help_of):
    text = help_of(command)
    own = {field.name for kind in TRAININGS[command] for field in dataclasses.fields(kind)} - OF_HF
    for_evaluation = {f"eval_{field.name}" for field in dataclasses.fields(TRAININGS[command][0].columns)}
    assert for_evaluation < own and "with eval_ before it, those of eval_data" in text
    assert {"config", *USED_MOST, *(own - for_evaluation)} <= options(text)


def test_every_setting_of_ours_says_what_it_is(command):
    columns = dataclasses.fields(TRAININGS[command][0].columns)
    named = {name for column in columns for name in (column.name, f"eval_{column.name}")}
    for field in (field for kind in TRAININGS[command] for field in dataclasses.fields(kind)):
        assert field.name in OF_HF | named or field.metadata["help"].endswith("."), field.name


def test_defaults_are_said(command, help_of):
    lines = {name: line for line in help_of(command).splitlines() for name in options(line) if line.startswith("  --")}
    assert lines["lora_r"].endswith("[16]") and lines["cache_pixels"].endswith("[false]")
    assert lines["report_to"].endswith("[none]") and "[" not in lines["data"]
    assert lines["learning_rate"].endswith("[5e-05, 0.05]")


def test_every_setting_of_ours_is_on_the_page_about_training(command):
    page = (Path(__file__).resolve().parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    own = {field.name for kind in TRAININGS[command] for field in dataclasses.fields(kind)} - OF_HF
    for_evaluation = {f"eval_{field.name}" for field in dataclasses.fields(TRAININGS[command][0].columns)}
    assert "`eval_` before the name of a column" in page
    assert not sorted(name for name in own - for_evaluation if f"`{name}`" not in page)


def test_everything_is_in_the_long_help(command, help_of):
    text = help_of(command, option="--help-all")
    fields = {field.name for kind in TRAININGS[command] for field in dataclasses.fields(kind)}
    shown = options(text) | {f"eval_{field.name}" for field in dataclasses.fields(TRAININGS[command][0].columns)}
    assert fields <= shown and max(map(len, text.splitlines())) <= 119
