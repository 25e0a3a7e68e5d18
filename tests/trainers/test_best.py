"""`keep_best` and `early_stopping_patience`: one option each, through the machinery of transformers."""

import json
from pathlib import Path

import pytest
import torch

from trainers.best import EarlyStopping
from trainers.compression.config import ComaCompressionConfig
from trainers.contrastive.config import ComaContrastiveConfig
from trainers.evaluation import RetrievalCallback, RetrievalSet


EVALUATES = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 500}


def config(**settings):
    return ComaContrastiveConfig("out", report_to="none", use_cpu=True, **settings)


def test_one_option_sets_those_of_transformers():
    args = config(keep_best="eval_ndcg@10", eval_strategy="steps", eval_steps=20)
    assert (args.load_best_model_at_end, args.metric_for_best_model, args.greater_is_better) == (True, "ndcg@10", True)
    assert (args.save_strategy.value, args.save_steps) == ("steps", 20)
    args = config(keep_best="loss", eval_strategy="epoch")
    assert (args.save_strategy.value, args.greater_is_better) == ("epoch", False)
    args = config(early_stopping_patience=2, eval_strategy="epoch")
    assert (args.keep_best, args.load_best_model_at_end, args.greater_is_better) == ("loss", True, False)
    args = config(early_stopping_patience=2, eval_strategy="epoch", metric_for_best_model="p@1")
    assert (args.keep_best, args.greater_is_better) == ("p@1", True)
    args = config(keep_best="loss", eval_strategy="steps", eval_steps=20, save_steps=40)  # as it was asked for
    assert args.save_steps == 40
    assert not config(eval_strategy="epoch").load_best_model_at_end


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_best": "loss"}, "keep_best needs evaluations: give eval_strategy"),
        ({"early_stopping_patience": 2}, "early_stopping_patience needs evaluations"),
        ({"early_stopping_patience": 0, "eval_strategy": "epoch"}, "early_stopping_patience must be .*got 0"),
        ({"keep_best": "loss", "metric_for_best_model": "p@1", "eval_strategy": "epoch"}, "are two metrics"),
    ],
)
def test_what_cannot_act_is_refused(settings, message):
    for kind in (ComaContrastiveConfig, ComaCompressionConfig):
        with pytest.raises(ValueError, match=message):
            kind("out", report_to="none", use_cpu=True, **settings)


def test_a_metric_that_does_not_exist_is_named(
    make_coma, contrastive_rows, contrastive_trainer, compression_rows, compression_trainer
):
    rows = contrastive_rows("text", 4)
    trainer = contrastive_trainer(make_coma(), rows, eval_dataset=rows, keep_best="ndcg@10", **EVALUATES)
    with pytest.raises(ValueError, match="keep_best='ndcg@10' is no metric .* which has loss, in_batch_accuracy"):
        trainer.train()
    trainer.add_callback(RetrievalCallback(trainer, RetrievalSet.from_rows(rows)))
    trainer.args.keep_best = "ncdg@10"
    with pytest.raises(ValueError, match="has loss, in_batch_accuracy, p@1, r@10, ndcg@10"):
        trainer.train()
    assert trainer.state.global_step == 0
    rows = compression_rows(2)
    trainer = compression_trainer(
        make_coma(), rows, eval_dataset={"a": rows, "b": rows}, keep_best="loss", **EVALUATES
    )
    with pytest.raises(ValueError, match="which has a_loss, a_answer_accuracy, b_loss, b_answer_accuracy"):
        trainer.train()


class Scripted(RetrievalCallback):
    """Retrieval that says what it is told to, one evaluation after the other."""

    def __init__(self, trainer, values):
        super().__init__(trainer, None)
        self.values = values

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_ndcg@10"] = self.values[state.global_step - 1]


@pytest.fixture
def scripted(make_coma, contrastive_rows, contrastive_trainer):
    def make(values, **settings):
        rows = contrastive_rows("text", 4)
        settings = {"max_steps": len(values), "learning_rate": 0.01, "keep_best": "ndcg@10", **EVALUATES, **settings}
        trainer = contrastive_trainer(make_coma(), rows, eval_dataset=rows, **settings)
        trainer.add_callback(Scripted(trainer, values))
        return trainer

    return make


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(Path(folder, "model.safetensors"))


@pytest.mark.slow
def test_the_best_by_retrieval_is_what_is_left(scripted, tmp_path):
    trainer = scripted([0.1, 0.5, 0.3, 0.2])
    trainer.train()
    assert trainer.state.best_global_step == 2 and trainer.state.global_step == 4
    trainer.save_model(tmp_path / "final")
    best, last = (weights_of(tmp_path / "out" / f"checkpoint-{step}") for step in (2, 4))
    final = weights_of(tmp_path / "final")
    assert all(torch.equal(final[name], best[name]) for name in best)
    assert not all(torch.equal(last[name], best[name]) for name in best)


@pytest.mark.slow
def test_training_ends_when_it_gets_no_better(scripted):
    trainer = scripted([0.1, 0.5, 0.3, 0.4, 0.6, 0.7], early_stopping_patience=2)
    trainer.train()
    assert (trainer.state.global_step, trainer.state.best_global_step) == (4, 2)
    trainer = scripted([0.1, 0.5, 0.3, 0.6, 0.4, 0.7], early_stopping_patience=2)
    trainer.train()
    assert (trainer.state.global_step, trainer.state.best_global_step) == (6, 6)


@pytest.mark.slow
def test_a_resumed_training_goes_on_counting(scripted):
    """One evaluation without a better one before the interruption, one after it."""
    values = [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    scripted(values, early_stopping_patience=3, max_steps=3).train()
    trainer = scripted(values, early_stopping_patience=3)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4
    saved = json.loads(Path(trainer.args.output_dir, "checkpoint-4", "trainer_state.json").read_text())
    assert saved["stateful_callbacks"]["EarlyStopping"]["attributes"]["early_stopping_patience_counter"] == 3


@pytest.mark.slow
def test_several_sets_are_one_evaluation(make_coma, compression_rows, compression_trainer):
    rows = compression_rows(2)
    settings = {"keep_best": "a_loss", "early_stopping_patience": 2, "max_steps": 3, "learning_rate": 1e-3}
    trainer = compression_trainer(make_coma(), rows, eval_dataset={"a": rows, "b": rows}, **{**EVALUATES, **settings})
    stopping = EarlyStopping(2)
    trainer.state.best_metric = 0.0
    for _ in range(3):  # of one step
        stopping.on_evaluate(trainer.args, trainer.state, trainer.control, {"eval_a_loss": 1.0})
    assert stopping.early_stopping_patience_counter == 1
    trainer.state.global_step = 1
    stopping.on_evaluate(trainer.args, trainer.state, trainer.control, {"eval_b_loss": 1.0})
    assert stopping.early_stopping_patience_counter == 1
    trainer.state.best_metric = None
    trainer.train()
    assert trainer.state.global_step == 3 and trainer.state.best_metric is not None
