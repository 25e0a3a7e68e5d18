"""Every key that a training logs is explained on the page about it: found by trainings that turn everything on."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from trainers.adapters import lora_config
from trainers.evaluation import RetrievalCallback, RetrievalSet


ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
OF_TRAINER = {"loss", "grad_norm", "learning_rate", "epoch", "step", "train_loss", "train_runtime", "total_flos"}


def keys_of(trainer) -> set[str]:
    return {key for line in trainer.state.log_history for key in line}


def named(key: str) -> bool:
    """On the page between backticks; of a source or of a set that has a name, the pattern of its key."""
    if key.startswith("eval_shop_"):
        return "`eval_NAME_p@1`" in PAGE and named(key.replace("shop_", ""))
    return f"`{pattern(key)}`" in PAGE


def pattern(key: str) -> str:
    """The key as the page has it."""
    return re.sub(r"/\d+x\d+$", "/QxT", re.sub(r"^temperature/.*", "temperature/SOURCE", key))


@pytest.fixture
def compression_keys(make_coma: Callable, compression_rows: Callable, compression_trainer: Callable) -> set[str]:
    model, processor = make_coma()
    rows = compression_rows(8)
    bad = {**rows[0], "messages": []}
    settings = {"kl_weight": 0.5, "on_bad_row": "skip", "eval_strategy": "steps", "eval_steps": 1}
    settings |= {"dialogue_max_length": 45, "per_device_train_batch_size": 9, "logging_steps": 1}
    adapter = lora_config(model, r=2)
    trainer = compression_trainer(
        (model, processor), [*rows, bad], eval_dataset=[*rows[:3], bad], peft_config=adapter, **settings
    )
    trainer.train()
    return keys_of(trainer)


@pytest.fixture
def contrastive_keys(make_coma: Callable, contrastive_rows: Callable, experimental_trainer: Callable) -> set[str]:
    rows = contrastive_rows("text", 6)
    rows[1]["messages"] = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "an apple"}]
    bad = {**rows[0], "query": {"text": None, "image": None}}
    settings = {"matryoshka_dims": [16], "bidirectional": True, "on_bad_row": "skip", "false_negative_margin": 0.1}
    settings |= {"joint_weight": 0.5, "temperature_learning_rate": 0.01, "eval_strategy": "steps", "eval_steps": 1}
    settings |= {"per_device_train_batch_size": 7, "late_interaction_budgets": ["1x2"]}
    keys = set()
    for per_source, name in ((False, None), (True, "shop")):
        trainer = experimental_trainer(
            make_coma(),
            [*rows, bad],
            eval_dataset=[*rows, bad],
            temperature_per_source=per_source,
            **settings,
        )
        held_out = RetrievalSet.from_rows([*rows, bad], on_bad_row="skip")
        trainer.add_callback(RetrievalCallback(trainer, held_out, name))
        trainer.train()
        keys |= keys_of(trainer)
    return keys


@pytest.mark.slow
def test_what_is_logged_is_explained_and_nothing_else(compression_keys: set[str], contrastive_keys: set[str]) -> None:
    found = compression_keys | contrastive_keys
    assert OF_TRAINER < found and {"temperature/a", "eval_shop_p@1", "turns_cut", "rows_skipped"} < found
    assert not sorted(key for key in found if not named(key))
    # What is measured anywhere was on in these trainings.
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "trainers").rglob("*.py"))
    measured = set(re.findall(r'meter\.add(?:_rate)?\(\s*"(\w+)"', code))
    assert len(measured) >= 8 and measured <= found

    # The tables of keys have no others.
    tables = PAGE.partition("## The log of stage 1")[2].partition("## The collators")[0]
    explained = {
        key
        for line in tables.splitlines()
        if line.startswith("| `")
        for key in re.findall(r"`(.+?)`", line.split("|")[1])
    }
    logged = {pattern(key) for key in found}
    assert len(explained) > 40 and not explained - logged
