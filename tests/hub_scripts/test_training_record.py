"""What training leaves for the card: every stage, on what, with which recipe, how it ended."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hub_scripts.training_record import TRAINING_FILE


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    rows = [{"query": f"a red apple {row}", "positive": f"apple {row}"} for row in range(4)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.slow
def test_stages_are_added_and_go_with_the_merged_model(
    coma_folder: Path, pairs: Path, coma_command: Callable, tmp_path: Path
) -> None:
    options = ["--data", pairs, "--max_steps", "1", "--per_device_train_batch_size", "4", "--report_to", "none"]
    options += ["--use_cpu", "true", "--save_strategy", "no", "--disable_tqdm", "true", "--logging_steps", "1"]
    options += ["--query_text", "query", "--positive_text", "positive"]
    first, merged = tmp_path / "first", tmp_path / "merged"
    code, _, error = coma_command("finetune", "--model", coma_folder, "--output_dir", first, "--lora_r", "2", *options)
    assert code == 0, error
    (stage,) = json.loads((first / TRAINING_FILE).read_text())
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
    stages = json.loads((tmp_path / "second" / TRAINING_FILE).read_text())
    assert [one["adapter"] is None for one in stages] == [False, True]
