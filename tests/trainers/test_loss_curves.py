"""`loss.png` has what was logged, beside each checkpoint and in the folder of a saved model."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from trainers.files import LOSS_PICTURE
from trainers.loss_curves import draw_losses


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """`drawn(history)`: for each panel its label and its curves, as they were saved."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))

    def make(history):
        draw_losses(history, tmp_path)
        return [
            (axes.get_ylabel(), {line.get_label(): line.get_xydata().tolist() for line in axes.lines})
            for axes in figures[-1].axes
        ]

    return make


def test_what_is_drawn(drawn, tmp_path):
    history = [
        {"loss": 3.0, "step": 1, "learning_rate": 1e-3},
        {"loss": 2.0, "step": 2},
        {"eval_loss": 2.5, "eval_loss_shuffled_tokens": 2.6, "eval_runtime": 1.0, "step": 2},
        {"eval_p@1": 0.25, "eval_ndcg@10": 0.5, "step": 2},
        {"train_loss": 2.5, "step": 2},
    ]
    (loss, losses), (retrieval, metrics) = drawn(history)
    assert loss == "loss" and retrieval == "retrieval"
    assert losses == {
        "training": [[1, 3], [2, 2]],
        "evaluation": [[2, 2.5]],
        "evaluation, shuffled tokens": [[2, 2.6]],
    }
    assert metrics == {"p@1": [[2, 0.25]], "ndcg@10": [[2, 0.5]]}
    ((_, losses),) = drawn(
        [{"loss": 3.0, "step": 1}, {"loss": float("nan"), "step": 2}, {"eval_a_loss": 1, "step": 2}]
    )
    assert losses.keys() == {"training", "evaluation, a"}
    with Image.open(tmp_path / LOSS_PICTURE) as picture:
        assert (
            min(picture.size) > 300 and picture.convert("RGB").getcolors() is None or len(picture.getcolors(10**6)) > 9
        )


def test_nothing_is_drawn_of_nothing(tmp_path):
    draw_losses([{"train_runtime": 1.0, "step": 0}], tmp_path)
    assert not list(tmp_path.iterdir())


def test_it_lies_beside_checkpoints_and_models(make_coma, compression_rows, compression_trainer, tmp_path):
    trainer = compression_trainer(make_coma(), compression_rows(4), save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model(tmp_path / "final")
    first, last = (tmp_path / "out" / f"checkpoint-{step}" / LOSS_PICTURE for step in (1, 2))
    assert first.read_bytes() != last.read_bytes() and (tmp_path / "final" / LOSS_PICTURE).exists()
