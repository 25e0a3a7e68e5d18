"""Stage 2 trains: what each setting does to the loss, accumulation, resuming, evaluation, what is logged."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from trainers.adapters import lora_config
from trainers.contrastive.loss import info_nce
from trainers.contrastive.targets import ContrastiveTargets, IdPair


def loss_of(trainer: Any, rows: list[dict]) -> float:
    trainer.model.eval()
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item()


def embeddings_of(trainer: Any, items: list[dict]) -> torch.Tensor:
    trainer.model.eval()
    items = [{name: value for name, value in item.items() if value} for item in items]
    with torch.no_grad():
        return trainer.model(**trainer.processing_class.process(items)).embeddings


@pytest.mark.parametrize("bidirectional", [False, True])
def test_loss_is_info_nce_of_the_embeddings(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable, bidirectional: bool
) -> None:
    trainer = contrastive_trainer(make_coma(), mini_batch_tokens=60, bidirectional=bidirectional, temperature=0.2)
    rows = contrastive_rows("text", 6)
    queries = embeddings_of(trainer, [row["query"] for row in rows])
    documents = [row["positive"] for row in rows] + [item for row in rows for item in row["negatives"]]
    targets = ContrastiveTargets(IdPair(torch.arange(6), torch.tensor([*range(6), *[-1] * 4])))
    documents = embeddings_of(trainer, documents)
    expected = info_nce(queries, documents, targets, 0.2).loss
    if bidirectional:
        expected = (expected + info_nce(documents, queries, targets.transposed(), 0.2).loss) / 2
    assert loss_of(trainer, rows) == pytest.approx(expected.item(), rel=1e-5)


def test_what_changes_the_loss(make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable) -> None:
    coma, rows = make_coma(), contrastive_rows("mixed", 6)
    losses = {"plain": loss_of(contrastive_trainer(coma), rows)}
    for name, value in {
        "same_source_negatives": True,
        "bidirectional": True,
        "false_negative_margin": 0.0,
        "hardness": 9.0,
        "matryoshka_dims": [16],
        "own_negatives_only": ["a"],
        "temperature": 0.5,
        "instructions": {"a": "Find it."},
    }.items():
        losses[name] = loss_of(contrastive_trainer(coma, **{name: value}), rows)
    without = [{**row, "negatives": []} for row in rows]
    losses["no negatives"] = loss_of(contrastive_trainer(coma), without)
    losses["groups"] = loss_of(contrastive_trainer(coma), [{**row, "group": row["source"]} for row in rows])
    losses["repeated"] = loss_of(contrastive_trainer(coma), [*rows, rows[0]])
    assert len({round(loss, 5) for loss in losses.values()}) == len(losses), losses
    assert losses["no negatives"] < losses["plain"] < losses["hardness"]
    assert losses["same_source_negatives"] < losses["plain"] > losses["own_negatives_only"]
    assert losses["false_negative_margin"] < losses["plain"]


def test_of_matryoshka_the_loss_is_a_sum_and_its_mean_is_logged(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable
) -> None:
    coma, rows = make_coma(), contrastive_rows("text", 6)
    settings = {"per_device_train_batch_size": 6, "max_steps": 1, "bidirectional": True}
    trainer = contrastive_trainer(coma, rows, matryoshka_dims=[8, 16], eval_dataset=rows, **settings)
    metrics = trainer.evaluate()
    trainer.train()
    logged = next(line for line in trainer.state.log_history if "loss" in line)
    for name in ("eval_loss", "loss"):
        line = metrics if name == "eval_loss" else logged
        assert line[f"{name}_per_dimension"] == pytest.approx(line[name] / 3, rel=1e-4)
    plain = contrastive_trainer(make_coma(), rows, eval_dataset=rows, **settings)
    alone = plain.evaluate()
    assert "eval_loss_per_dimension" not in alone and metrics["eval_loss"] > 2 * alone["eval_loss"]
    plain.train()
    assert "loss_per_dimension" not in plain.state.log_history[-2]


def test_settings_from_a_command_line_are_json(contrastive_trainer: Callable, make_coma: Callable) -> None:
    args = contrastive_trainer(make_coma(), instructions='{"a": "Find it."}', sub_batch_size=2, source_caps='{"a": 2}')
    assert args.args.instructions == {"a": "Find it."} and args.args.source_caps == {"a": 2}
    with pytest.raises(ValueError, match="need a sub_batch_size"):
        contrastive_trainer(make_coma(), source_weights={"a": 2.0})


def test_accumulation_is_the_mean_of_the_batches(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable
) -> None:
    """With SGD and rate 1 the step is the gradient. No negatives are added by accumulation."""
    rows, settings = contrastive_rows("mixed", 5), {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0}
    settings |= {"lr_scheduler_type": "constant", "warmup_steps": 0, "max_grad_norm": 0.0}
    coma = make_coma()
    before = {name: p.detach().clone() for name, p in coma[0].named_parameters()}
    trainer = contrastive_trainer(
        coma, rows, per_device_train_batch_size=2, gradient_accumulation_steps=3, mini_batch_tokens=60, **settings
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
    trainer.train()
    logged = trainer.state.log_history[0]
    other = contrastive_trainer(make_coma(), **settings)
    losses = []
    for part in (rows[:2], rows[2:4], rows[4:]):
        loss = other.compute_loss(other.model.train(), other.data_collator(part)) / 3
        loss.backward()
        losses.append(loss.item())
    assert logged["loss"] == pytest.approx(sum(losses), rel=1e-4)
    for name, parameter in other.model.named_parameters():
        if parameter.grad is not None:
            moved = before[name] - trainer.model.get_parameter(name)
            torch.testing.assert_close(moved, parameter.grad, rtol=1e-4, atol=1e-5)


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


@pytest.mark.parametrize("adapter", [pytest.param(False, marks=pytest.mark.slow), True])
def test_resumed_is_as_if_never_interrupted(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable, tmp_path: Path, adapter: bool
) -> None:
    """In the middle of the second epoch, with sub-batches, dropout and several mini-batches."""

    def train(resume: str | None = None) -> Any:
        model, processor = make_coma()
        trainer = contrastive_trainer(
            (model, processor),
            Dataset.from_list(
                [{**row, "query": {"text": row["query"]["text"]}} for row in contrastive_rows("text", 7)]
            ),
            peft_config=lora_config(model) if adapter else None,
            sub_batch_size=2,
            per_device_train_batch_size=3,
            mini_batch_tokens=60,
            max_steps=5,
            save_strategy="steps",
            save_steps=4,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = train()
    expected, logged = weights(whole), whole.state.log_history[4]
    resumed = train(str(tmp_path / "out" / "checkpoint-4"))
    found = weights(resumed)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    again = resumed.state.log_history[4]
    assert again["step"] == 5 and all(again[n] == logged[n] for n in ("loss", "grad_norm", "tokens_seen"))


def test_what_is_logged_explains_the_loss(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable
) -> None:
    rows = contrastive_rows("mixed", 6)
    rows[1]["positive"] = rows[0]["positive"]
    trainer = contrastive_trainer(
        make_coma(), rows, per_device_train_batch_size=6, eval_dataset=rows[:3], per_device_eval_batch_size=3
    )
    trainer.train()
    first = trainer.state.log_history[0]
    assert 0 <= first["in_batch_accuracy"] <= 1 and -1 <= first["hardest_negative_similarity"] <= 1
    assert first["positive_similarity"] <= 1 and first["pairs_per_second"] > 0
    assert first["negatives"] == pytest.approx((10 - 1) - 2 / 6) and first["masked_false_negatives"] == pytest.approx(
        2 / 6
    )
    assert first["temperature"] == pytest.approx(0.1)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(loss_of(trainer, rows[:3]), rel=1e-5)
    assert {"eval_in_batch_accuracy", "eval_positive_similarity", "eval_negatives"} <= metrics.keys()
    assert not trainer.meter.flush()  # the evaluation is no part of the training


@pytest.mark.slow
def test_training_learns(make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable) -> None:
    rows = contrastive_rows("mixed", 6)
    trainer = contrastive_trainer(
        make_coma(), rows, max_steps=12, per_device_train_batch_size=6, mini_batch_tokens=80, freeze_vision=False
    )
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert history[-1]["loss"] < history[0]["loss"] / 3 and history[-1]["in_batch_accuracy"] == 1


def test_bad_rows_stop_or_are_counted(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable
) -> None:
    rows = contrastive_rows("text", 8)
    rows[5]["positive"] = {"text": "", "image": None}
    with pytest.raises(ValueError, match="Row 5 of the data set is bad: positive is empty"):
        contrastive_trainer(make_coma(), rows).train()
    trainer = contrastive_trainer(make_coma(), rows, on_bad_row="skip", max_steps=4)
    trainer.train()
    assert trainer.state.log_history[3]["rows_skipped"] == 2  # in two epochs


SCRIPT = """
import sys
from datasets import Dataset
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.contrastive import ComaContrastiveConfig, ComaContrastiveTrainer
folder, out, resume = sys.argv[1:]
rows = [{"query": {"text": f"q {n}"}, "positive": {"text": f"d {n * n}"}, "negatives": []} for n in range(40)]
args = ComaContrastiveConfig(out, max_steps=30, per_device_train_batch_size=4, save_steps=1, save_total_limit=3,
    save_strategy="steps", logging_steps=1, report_to="none", use_cpu=True, disable_tqdm=True, mini_batch_tokens=60,
    learning_rate=1e-3)
model, processor = ComaForEmbedding.from_pretrained(folder), ComaProcessor.from_pretrained(folder)
trainer = ComaContrastiveTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=processor)
trainer.train(resume_from_checkpoint=resume == "True")
"""


@pytest.mark.slow
def test_killed_and_resumed(make_coma: Callable, tmp_path: Path) -> None:
    """kill -9 in the middle; what is resumed from the last whole checkpoint ends as if nothing had happened."""
    model, processor = make_coma()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")

    def start(out: str, resume: bool) -> subprocess.Popen:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "model"), str(tmp_path / out), str(resume)]
        return subprocess.Popen(command, cwd=Path(__file__).parents[3])

    assert start("whole", False).wait(300) == 0
    process = start("killed", False)
    deadline = time.monotonic() + 200
    while not (tmp_path / "killed" / "checkpoint-7" / "trainer_state.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    for folder in (tmp_path / "killed").glob("checkpoint-*"):  # written to when it was killed
        if not (folder / "trainer_state.json").exists():
            folder.rename(tmp_path / folder.name)
    assert not (tmp_path / "killed" / "checkpoint-30").exists()
    assert start("killed", True).wait(300) == 0
    states = [tmp_path / run / "checkpoint-30" for run in ("whole", "killed")]
    histories = [json.loads((state / "trainer_state.json").read_text())["log_history"] for state in states]
    assert [entry["loss"] for entry in histories[0][:30]] == [entry["loss"] for entry in histories[1][:30]]
    assert states[0].joinpath("model.safetensors").read_bytes() == states[1].joinpath("model.safetensors").read_bytes()
