"""A batch that is all bad changes nothing, in both stages; a training of nothing but such batches is an error."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from modeling_coma import ComaForEmbedding, ComaProcessor
from tests.trainers.test_distributed import spawn
from trainers.compression.config import ComaCompressionConfig
from trainers.compression.trainer import ComaCompressionTrainer


BAD = {"contrastive": {"positive": {"image": b"no image", "text": None}}, "compression": {"images": [b"no image"]}}
SETTINGS = {"lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0.1, "max_grad_norm": 0.0}


@pytest.fixture(params=["compression", "contrastive"])
def stage(request: pytest.FixtureRequest) -> Any:
    """`(trainer, rows, bad)`: makes a trainer that sees rows in their order, good rows, and what makes a row bad."""
    make, make_rows, make_coma = (
        request.getfixturevalue(name) for name in (f"{request.param}_trainer", f"{request.param}_rows", "make_coma")
    )

    def trainer(rows: list[dict], **settings: Any) -> Any:
        made = make(make_coma(), rows, on_bad_row="skip", per_device_train_batch_size=1, **SETTINGS, **settings)
        made._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
        return made

    rows = make_rows(number=4)
    if request.param == "contrastive":
        rows[0], rows[1] = rows[3], {**rows[0], "query": rows[1]["query"]}  # with negatives: there is a loss
    return trainer, rows[:2], BAD[request.param]


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_a_step_without_rows_changes_nothing(stage: Any) -> None:
    """AdamW with weight decay would move by its momentum."""
    make, rows, bad = stage
    without = make(rows, max_steps=2)
    without.train()
    skipping = make([rows[0], {**rows[1], **bad}, rows[1]], max_steps=3)
    skipping.train()
    assert all(torch.equal(tensor, weights(without)[name]) for name, tensor in weights(skipping).items())
    found = losses(skipping)
    assert math.isnan(found.pop(1)) and found == losses(without) and found[0] != 0
    assert skipping.state.log_history[2]["rows_skipped"] == 1
    seen = [trainer.state.log_history[-2]["tokens_seen"] for trainer in (skipping, without)]
    assert seen[0] == seen[1]


def test_the_loss_that_is_logged_is_that_of_the_steps_with_rows(stage: Any) -> None:
    make, rows, bad = stage
    trainer = make([{**rows[1], **bad}, rows[0], {**rows[1], **bad}, rows[1]], max_steps=4, logging_steps=4)
    trainer.train()
    every = make(rows, max_steps=2)
    every.train()
    (mean,) = losses(trainer)
    assert mean == pytest.approx(sum(losses(every)) / 2, rel=1e-5)
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(mean, rel=1e-5)


def test_of_accumulated_batches_those_with_rows_count(stage: Any) -> None:
    make, rows, bad = stage
    accumulated = make([rows[0], {**rows[1], **bad}], max_steps=1, gradient_accumulation_steps=2, optim="sgd")
    alone = make(rows[:1], max_steps=1, optim="sgd")
    accumulated.train()
    alone.train()
    assert losses(accumulated) == pytest.approx(losses(alone), rel=1e-6)
    for name, tensor in weights(accumulated).items():
        torch.testing.assert_close(tensor, weights(alone)[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("settings", [{"max_steps": 1}, {"max_steps": -1, "num_train_epochs": 2}])
def test_a_training_of_nothing_is_an_error(stage: Any, settings: dict) -> None:
    make, rows, bad = stage
    with pytest.raises(ValueError, match="Nothing was trained: in . steps every row was left out as bad"):
        make([{**row, **bad} for row in rows], **settings).train()


def test_bad_rows_of_the_evaluation_are_left_out_and_counted(stage: Any) -> None:
    """Here they are not those of the training, and the numbers are those of the others."""
    make, rows, bad = stage
    mixed = [{**rows[0], **bad}, rows[0], rows[1], {**rows[1], **bad}]
    trainer = make(rows, eval_dataset=mixed, per_device_eval_batch_size=2, eval_strategy="steps", eval_steps=1)
    trainer.train()
    metrics, good = trainer.evaluate(), trainer.evaluate(rows)
    assert metrics["eval_rows_skipped"] == 2 and "eval_rows_skipped" not in good
    assert metrics["eval_loss"] == pytest.approx(good["eval_loss"], rel=1e-5)
    assert not any("rows_skipped" in entry for entry in trainer.state.log_history if "loss" in entry)
    with pytest.raises(ValueError, match="All 2 rows of the evaluation data are bad"):
        trainer.evaluate([{**row, **bad} for row in rows])


def test_by_default_a_bad_row_of_the_evaluation_is_named(stage: Any) -> None:
    make, rows, bad = stage
    trainer = make(rows)
    trainer.evaluation_collator.bad_rows.policy = "raise"
    with pytest.raises(ValueError, match="Row 1 of the evaluation data is bad: .*image"):
        trainer.evaluate([rows[0], {**rows[1], **bad}])


@pytest.mark.slow
def test_workers_count_too(stage: Any) -> None:
    make, rows, bad = stage
    trainer = make([rows[0], {**rows[1], **bad}], max_steps=2, dataloader_num_workers=2)
    trainer.train()
    assert trainer.evaluate([rows[0], {**rows[1], **bad}, rows[1]])["eval_rows_skipped"] == 1


def test_the_rates_of_training_are_those_of_the_training(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable
) -> None:
    """They count neither what was before it, nor another clock than that of the samples."""
    rows = contrastive_rows("text", 4)
    trainer = contrastive_trainer(make_coma(), rows, eval_dataset=rows)
    trainer.meter._started -= 1000  # as if it had been made long ago
    trainer.train()
    assert trainer.state.log_history[0]["pairs_per_second"] > 4 / 100


class InOrder(ComaCompressionTrainer):
    """Rows in their order, so that one process and several see the same batches."""

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def train_stage_1(rank: int, processes: int, folder: str, freeze_vision: bool) -> dict[str, Any]:
    """Two rows a batch: the second process has one of them, the fifth and sixth batch are all bad."""
    rows = [
        {
            "images": [Image.new("RGB", (28, 28 * (1 + n % 2)), (20 * n, 9, 90))],
            "text": None,
            "messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "apples " * (1 + n)}],
        }
        for n in range(12)
    ]
    for bad in (1, 7, 8, 9, 10, 11):
        rows[bad]["images"] = [b"no image"]
    config = ComaCompressionConfig(
        f"{folder}/out",
        per_device_train_batch_size=2 // processes,
        per_device_eval_batch_size=4 - processes,
        gradient_accumulation_steps=2,
        max_steps=3,
        on_bad_row="skip",
        freeze_vision=freeze_vision,
        eval_strategy="steps",
        eval_steps=3,
        logging_steps=1,
        optim="sgd",
        learning_rate=0.1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **SETTINGS,
    )
    model, processor = ComaForEmbedding.from_pretrained(folder), ComaProcessor.from_pretrained(folder)
    trainer = InOrder(model, config, train_dataset=rows, eval_dataset=rows, processing_class=processor)
    trainer.train()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return {"logs": trainer.state.log_history, "weights": {n: p.detach() for n, p in trained.named_parameters()}}


@pytest.mark.distributed
@pytest.mark.parametrize("freeze_vision", [True, False])
def test_a_process_without_rows_keeps_step_with_the_other(
    make_coma: Callable, tmp_path: Path, freeze_vision: bool
) -> None:
    for part in make_coma():
        part.save_pretrained(tmp_path / "model")
    found = spawn(train_stage_1, 2, tmp_path, str(tmp_path / "model"), freeze_vision)
    expected = train_stage_1(0, 1, str(tmp_path / "model"), freeze_vision)
    runs = [*found, expected]
    first, second, third = zip(*(losses_in(run["logs"]) for run in runs), strict=True)
    assert first == pytest.approx([expected["logs"][0]["loss"]] * 3, rel=1e-5) and not math.isnan(second[0])
    assert second == pytest.approx([second[2]] * 3, rel=1e-5) and all(map(math.isnan, third))
    for run in runs:
        (evaluation,) = (entry for entry in run["logs"] if "eval_loss" in entry)
        (wanted,) = (entry for entry in expected["logs"] if "eval_loss" in entry)
        assert evaluation["eval_rows_skipped"] == 6
        assert evaluation["eval_loss"] == pytest.approx(wanted["eval_loss"], rel=1e-5)
        for name, weight in expected["weights"].items():
            torch.testing.assert_close(run["weights"][name], weight, rtol=1e-5, atol=1e-6, msg=name)


def losses_in(logs: list[dict]) -> list[float]:
    return [entry["loss"] for entry in logs if "loss" in entry]
