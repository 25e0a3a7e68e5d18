"""The temperature is trained like any parameter, is part of a checkpoint, and of no model folder."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from trainers.data.items import content_key
from trainers.experimental.temperature import LOWEST, TrainedTemperature


ROWS = [
    {"query": {"text": f"q {n}"}, "positive": {"text": f"d {n}"}, "negatives": [], "source": "ab"[n % 2]}
    for n in range(8)
]


def test_one_for_all_or_one_for_each_source() -> None:
    keys = torch.tensor([content_key(name) for name in "abca"])
    assert TrainedTemperature(0.5)(keys).tolist() == pytest.approx([0.5] * 4)
    temperature = TrainedTemperature(0.5, ["c", "a", "b"])
    with torch.no_grad():
        for number, name in enumerate(temperature.names):
            temperature.logarithm[number] = math.log({"a": 0.1, "b": 0.2, "c": 0.3}[name])
    assert temperature(keys).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.1])
    temperature(keys).sum().backward()
    expected = {"a": 0.2, "b": 0.2, "c": 0.3}  # of the sum of exponentials
    assert temperature.logarithm.grad.tolist() == pytest.approx([expected[name] for name in temperature.names])
    assert temperature.values() == pytest.approx({"temperature/a": 0.1, "temperature/b": 0.2, "temperature/c": 0.3})
    with pytest.raises(ValueError, match="none of the sources with a temperature"):
        temperature(torch.tensor([content_key("d"), -1]))


def test_it_does_not_fall_below_the_limit() -> None:
    temperature = TrainedTemperature(0.001)
    assert temperature(torch.tensor([0])).tolist() == pytest.approx([LOWEST])
    temperature(torch.tensor([0])).sum().backward()
    assert temperature.logarithm.grad.item() > 0  # it can rise again
    with torch.no_grad():
        temperature.logarithm.fill_(-10)  # a step that went too far
    temperature.on_optimizer_step(None, None, None)
    assert temperature(torch.tensor([0])).tolist() == pytest.approx([LOWEST]) and temperature.logarithm.grad is None


@pytest.mark.parametrize("per_source", [False, True])
def test_steps_are_those_of_gradient_descent(
    make_coma: Callable, experimental_trainer: Callable, per_source: bool
) -> None:
    """The model does not move (its rate is 0), so three steps can be followed by hand."""
    trainer = experimental_trainer(
        make_coma(),
        Dataset.from_list(ROWS),
        max_steps=3,
        per_device_train_batch_size=8,
        learning_rate=0.0,
        temperature_learning_rate=0.5,
        temperature_per_source=per_source,
        lr_scheduler_type="constant",
        warmup_steps=0,
        optim="sgd",
        weight_decay=0.5,
    )
    trainer.train()
    trained = trainer.trained_temperature
    assert trained.logarithm.grad is None
    batch = trainer.data_collator(ROWS)
    by_hand = TrainedTemperature(0.1, "ab" if per_source else None)
    trainer.trained_temperature = by_hand
    for _ in range(3):
        with torch.enable_grad():
            trainer.compute_loss(trainer.model, batch).backward()
        by_hand.logarithm.data -= 0.5 * by_hand.logarithm.grad
        by_hand.logarithm.grad = None
    torch.testing.assert_close(trained.logarithm, by_hand.logarithm, rtol=1e-5, atol=1e-6)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    for name, value in trained.values().items():
        assert logged[name] == pytest.approx(value) != pytest.approx(0.1)


@pytest.mark.slow
def test_it_is_resumed_and_not_published(make_coma: Callable, experimental_trainer: Callable, tmp_path: Path) -> None:
    def train(resume: bool = False, **settings) -> torch.Tensor:
        trainer = experimental_trainer(
            make_coma(),
            Dataset.from_list(ROWS),
            temperature_learning_rate=0.1,
            lr_scheduler_type="constant",
            save_strategy="steps",
            save_steps=2,
            **settings,
        )
        trainer.train(resume_from_checkpoint=resume or None)
        trainer.save_model(tmp_path / "model")
        return trainer.trained_temperature.logarithm.detach()

    whole = train(max_steps=4, temperature_per_source=True)
    checkpoint = tmp_path / "out" / "checkpoint-2"
    saved = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]["TrainedTemperature"]
    assert set(saved["attributes"]["logarithms"]) == {"a", "b"} and whole[0] != whole[1]
    resumed = train(str(checkpoint), max_steps=4, temperature_per_source=True)
    assert torch.equal(resumed, whole)
    for folder in (checkpoint, tmp_path / "model"):
        names = load_file(folder / "model.safetensors").keys()
        assert names and not any("temperature" in name or "logarithm" in name for name in names)
    with pytest.raises(ValueError, match=r"temperatures of \['a', 'b'\], the training of \['all'\]"):
        train(str(checkpoint), max_steps=4)


def test_settings_that_make_no_sense_are_refused(make_coma: Callable, experimental_trainer: Callable) -> None:
    with pytest.raises(ValueError, match="needs a temperature_learning_rate"):
        experimental_trainer(make_coma(), temperature_per_source=True)
    without = Dataset.from_list(ROWS).remove_columns("source")
    for settings in ({"temperature_per_source": True, "temperature_learning_rate": 0.1}, {"sub_batch_size": 4}):
        with pytest.raises(ValueError, match="give every row of the training data a `source`"):
            experimental_trainer(make_coma(), without, **settings).get_train_dataloader()
