"""What training leaves for the card: every stage, on what, with which recipe, how it ended; as it was, not typed."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hub_scripts.common.data_digest import data_digest
from hub_scripts.hub.card import NOT_TRAINED, training_section
from hub_scripts.hub.training_record import TRAINING_FILE, _last_log, read_training_record


ENDS = ["--max_steps", "1", "--per_device_train_batch_size", "4", "--report_to", "none", "--logging_steps", "1"]
ENDS += ["--use_cpu", "true", "--save_strategy", "no", "--disable_tqdm", "true"]
COLUMNS = ["--query_text", "query", "--positive_text", "positive"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    rows = [{"query": f"a red apple {row}", "positive": f"apple {row}"} for row in range(4)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture
def dialogues(tmp_path: Path) -> Path:
    """Seven rows of which the first answer of one is too long for a limit of 60 tokens."""
    folder = tmp_path / "home_alice" / "secretproject"
    folder.mkdir(parents=True)
    answers = ["an apple"] * 6 + ["a red apple on a green tree and a blue one below it " * 5]
    rows = [
        {"text": f"apple {n}", "messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": a}]}
        for n, a in enumerate(answers)
    ]
    (folder / "dial.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "dial.jsonl"


def stages_of(folder: Path) -> list[dict]:
    return json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_stages_are_added_and_go_with_the_merged_model(
    coma_folder: Path, pairs: Path, coma_command: Callable, tmp_path: Path
) -> None:
    options = ["--data", pairs, *ENDS, *COLUMNS]
    first, merged = tmp_path / "first", tmp_path / "merged"
    code, _, error = coma_command("finetune", "--model", coma_folder, "--output_dir", first, "--lora_r", "2", *options)
    assert code == 0, error
    (stage,) = stages_of(first)
    assert (stage["stage"], stage["data"], stage["model"]) == ("contrastive", "pairs.jsonl", coma_folder.name)
    assert (stage["steps"], stage["rows_per_step"], stage["adapter"]["lora_r"]) == (1, 4, 2)
    assert stage["settings"]["temperature"] > 0 and stage["settings"]["learning_rate"] > 0
    assert stage["last_log"]["train_loss"] > 0 and "epoch" not in stage["last_log"]
    assert (first / "modules.json").exists(), "what is pushed during training lacks the files of sentence-transformers"

    # On top of an adapter, a second one would name the base of both, and the first would be lost without a word.
    second = ["finetune", "--output_dir", tmp_path / "second", *options]
    code, _, error = coma_command(*second, "--model", first, "--lora_r", "2")
    assert code == 1 and f"coma merge {first} NEW_FOLDER" in error
    assert coma_command("merge", first, merged)[0] == 0
    assert "matching: InfoNCE" in (merged / "README.md").read_text()
    assert coma_command(*second, "--model", merged, "--lora_r", "0")[0] == 0
    stages = stages_of(tmp_path / "second")
    assert [one["adapter"] is None for one in stages] == [False, True]


@pytest.mark.slow
def test_two_stages_with_a_merge_between(
    coma_folder: Path, dialogues: Path, pairs: Path, coma_command: Callable, tmp_path: Path, monkeypatch
) -> None:
    """Of each stage what was: K of the model, its own data, what was left out, settings that acted and no others."""
    monkeypatch.chdir(tmp_path)
    typed = ["--data", "home_alice/../home_alice/secretproject/dial.jsonl", "--output_dir", "first"]
    typed += ["--train_sampling_strategy", "group_by_length"]
    more = ["--gradient_accumulation_steps", "2", "--dialogue_max_length", "60", "--on_bad_row", "skip"]
    more += ["--per_device_train_batch_size", "4", "--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1"]
    code, _, error = coma_command("pretrain", "--model", coma_folder, *typed, "--lora_r", "2", *ENDS, *more)
    assert code == 0, error
    (stage,) = stages_of(tmp_path / "first")
    assert stage["num_compression_tokens"] == 4 and "turns" not in stage, "what was not asked for is in the record"
    assert (stage["data"], stage["data_rows"], stage["data_digest"]) == ("dial.jsonl", 7, data_digest(str(dialogues)))
    assert (stage["steps"], stage["rows_per_step"], stage["dtype"]) == (2, 8, "float32")
    assert stage["rows_skipped"] == 2, "the bad row came up in each of two epochs"
    assert (stage["adapter"]["lora_r"], stage["adapter"]["use_dora"]) == (2, True)
    idle = {"kl_weight", "kl_temperature", "train_merger", "on_bad_row", "weight_decay", "bf16"}
    assert not idle & stage["settings"].keys() and stage["settings"]["seed"] == 42
    assert stage["settings"]["train_sampling_strategy"] == "group_by_length"
    assert stage["settings"]["compression_instruction"]["without"] == "\nSummarize above text in a few words."
    assert "secret" not in json.dumps(stage) and str(tmp_path) not in json.dumps(stage)
    (halfway,) = stages_of(tmp_path / "first" / "checkpoint-1")
    assert (halfway["steps"], halfway["data_digest"]) == (1, stage["data_digest"])

    assert coma_command("merge", "first/checkpoint-1", "merged")[0] == 0
    card = (tmp_path / "merged" / "README.md").read_text()
    assert NOT_TRAINED not in card and "| steps | 1 of 8 rows" in card and "secret" not in card
    instruction = '`"\\nSummarize above text in a few words."`'
    assert f"and {instruction} those without" in card
    options = ["--model", "merged", "--data", pairs, "--output_dir", "second", "--lora_r", "0", *COLUMNS, *ENDS]
    assert coma_command("finetune", *options, "--late_interaction_budgets", "1x1", "2x4")[0] == 0
    first, second = stages_of(tmp_path / "second")
    assert first == halfway and second["settings"]["late_interaction_budgets"] == [[1, 1], [2, 4]]
    assert (second["model"], second["data"], second["data_rows"]) == ("merged", "pairs.jsonl", 4)
    assert second["adapter"] is None
    assert second["query_text"] == "query" and "source" not in second and "mmeb_split" not in second
    assert "train_sampling_strategy" not in second["settings"], "rows come in random order, as usual"
    assert second["settings"]["freeze_vision"] is True and "compression_instruction" not in second["settings"]
    assert "bidirectional" not in second["settings"] and "hardness" not in second["settings"]


@pytest.mark.slow
def test_the_weights_of_a_record_are_the_best_where_those_are_kept(
    coma_folder: Path, pairs: Path, coma_command: Callable, tmp_path: Path
) -> None:
    """Where the greatest loss is asked for, the first evaluation is the best: its weights are saved at the end."""
    options = ["--model", coma_folder, "--data", pairs, "--eval_data", pairs, "--output_dir", tmp_path / "out", *ENDS]
    options += [*COLUMNS, "--lora_r", "0", "--max_steps", "3", "--learning_rate", "1e-3", "--eval_strategy", "steps"]
    options += ["--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1", "--greater_is_better", "true"]
    options += ["--lr_scheduler_type", "constant"]
    options += ["--load_best_model_at_end", "true", "--metric_for_best_model", "eval_loss"]
    code, _, error = coma_command("finetune", *options)
    assert code == 0, error
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    (stage,) = stages_of(tmp_path / "out")
    assert stage["weights_of_step"] == state["best_global_step"] < stage["steps"] == 3
    assert (stage["eval_data"], stage["eval_data_rows"]) == ("pairs.jsonl", 4)
    assert "warmup_steps" not in stage["settings"], "a constant learning rate does not warm up"
    assert f"| weights of step | {state['best_global_step']}, the best" in training_section([stage])


def test_what_was_made_and_not_trained_says_so(
    coma_command: Callable, make_backbone: Callable, tmp_path: Path
) -> None:
    """And what does not say is not called untrained."""
    assert coma_command("create", make_backbone(), tmp_path / "new", "--num-compression-tokens", "4")[0] == 0
    assert read_training_record(tmp_path / "new") == [] and NOT_TRAINED in (tmp_path / "new" / "README.md").read_text()
    assert read_training_record(tmp_path) is None and training_section(None) == ""


OLD = {
    "stage": "compression",
    "version": "0.1",
    "model": "model",
    "data": "../home_alice/secretproject/dial.jsonl",
    "dtype": "auto",
    "data_format": "messages",
    "turns": 5,
    "num_compression_tokens": 32,
    "adapter": {"lora_r": 16},
    "steps": 30,
    "epochs": None,
    "rows_per_step": 64,
    "settings": {"learning_rate": 5e-5, "compression_instruction": True},
    "last_log": {"loss": 1.2},
    "libraries": {"torch": "2.13.0"},
}


def test_a_record_of_the_first_layout_is_read(tmp_path: Path) -> None:
    """It has what would have been typed for another model and other data, which is left out of the card."""
    (tmp_path / TRAINING_FILE).write_text(json.dumps([OLD]))
    section = training_section(read_training_record(tmp_path))
    assert "| steps | 30 of 64 rows |" in section and "| data_format | messages |" in section
    assert "turns" not in section and "32" not in section and "auto" not in section
    assert "| turns | 5 |" in training_section([{**OLD, "data": "emoji"}])


@pytest.mark.parametrize("content", ["{", "[1]", '{"stage": "compression"}', '[{"steps": 3}]', "[" * 2000, "\udcff"])
def test_a_damaged_record_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / TRAINING_FILE).write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError, match=f"{re.escape(TRAINING_FILE)} is no record of a training"):
        read_training_record(tmp_path)


def test_what_was_logged_earlier_has_its_step() -> None:
    history = [{"step": 1, "loss": 3.0}, {"step": 2, "eval_loss": 2.0}, {"step": 3, "train_loss": 1.0, "epoch": 1.0}]
    expected = {"loss (step 1)": 3.0, "eval_loss (step 2)": 2.0, "train_loss": 1.0}
    assert _last_log(history, steps=3, is_resumed=False) == expected
