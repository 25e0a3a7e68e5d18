"""Warnings in plain words: on both sides of each threshold, and from trainings that deserve them."""

import pytest
import torch

from trainers.contrastive.evaluation import EvaluationBlocks
from trainers.contrastive.loss import info_nce
from trainers.contrastive.targets import PairIds
from trainers.findings import LARGEST_GAP, LARGEST_SIMILARITY, SMALLEST_GAIN, find


@pytest.mark.parametrize("prefix", ["eval_", "eval_shop_"])
def test_answers_that_ignore_the_inputs(prefix):
    def found(gain):
        return find({f"{prefix}loss": 2.0, f"{prefix}loss_shuffled_tokens": 2.0 * (1 + gain)})

    assert not found(1.01 * SMALLEST_GAIN)
    (sentence,) = found(0.99 * SMALLEST_GAIN)
    assert f"ignore the inputs: {prefix}loss is 2.000, and 2.040 with the tokens of other rows. Train" in sentence
    assert found(-0.1)  # worse with its own tokens


@pytest.mark.parametrize("prefix", ["eval_", "eval_shop_"])
def test_collapsed_embeddings(prefix):
    name = f"{prefix}document_similarity"
    assert not find({name: LARGEST_SIMILARITY - 0.001})
    (sentence,) = find({name: LARGEST_SIMILARITY + 0.001})
    assert f"0.951 on average ({name})" in sentence and "temperature" in sentence and "\n" not in sentence


@pytest.mark.parametrize("name", ["answer_accuracy", "in_batch_accuracy"])
def test_rows_that_are_learnt_by_heart(name):
    before = [{name: 0.2, "step": 1}, {f"eval_{name}": 0.1, "step": 1}]
    now = [{name: 0.96, "step": 2}, {name: 0.98, "step": 3}, {f"eval_{name}": 0.12, "step": 3}, {"eval_p@1": 0.1}]
    (sentence,) = find({f"eval_{name}": 0.12}, [*before, *now])
    assert "accuracy 0.97 in training, 0.12 in evaluation" in sentence
    assert find({f"eval_{name}": 0.97 - LARGEST_GAP - 0.01}, [*before, *now])
    assert not find({f"eval_{name}": 0.97 - LARGEST_GAP + 0.01}, [*before, *now])
    assert not find({f"eval_{name}": 0.0}, before) and not find({f"eval_{name}": 0.0})


def test_an_untrained_model_is_told_so(make_coma, compression_rows, compression_trainer, capsys):
    rows = compression_rows(6)
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 2, "learning_rate": 1e-6}
    trainer = compression_trainer(make_coma(), rows, eval_dataset=rows, **settings)
    trainer.train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning  The answers")]
    assert len(lines) == 2  # at each evaluation; at the end it has just been said
    assert trainer.findings.sentences == find(
        {name: value for entry in trainer.state.log_history[-2:] for name, value in entry.items()}
    )


def test_the_last_findings_are_said_at_the_end(make_coma, compression_rows, compression_trainer, capsys):
    """Where steps have come since then."""
    trainer = compression_trainer(make_coma(), eval_dataset=compression_rows(6))
    trainer.evaluate()
    assert "warning  The answers" in capsys.readouterr().out
    for step, times in ((0, 0), (1, 1)):
        trainer.state.global_step = step
        trainer.findings.on_train_end(trainer.args, trainer.state, trainer.control)
        assert capsys.readouterr().out.count("warning  The answers") == times


def test_one_row_has_no_others(make_coma, compression_rows, compression_trainer):
    trainer = compression_trainer(make_coma(), eval_dataset=compression_rows(1))
    metrics = trainer.evaluate()
    assert "eval_loss" in metrics and "eval_loss_shuffled_tokens" not in metrics
    assert "eval_loss_shuffled_tokens" in trainer.evaluate(compression_rows(2))


@pytest.mark.parametrize("size", [3, 8, 20])
def test_the_similarity_of_different_documents(size):
    """Against the mean over pairs, block by block, equal documents being one."""
    generator = torch.Generator().manual_seed(0)
    documents = torch.nn.functional.normalize(torch.randn(12, 5, generator=generator) + 0.5, dim=1)
    keys = torch.arange(12)
    keys[3], documents[3] = keys[1], documents[1]
    rows = torch.full((12, 5), -1)
    rows[:, 0] = rows[:, 1] = 100 + torch.arange(12)
    ids = PairIds(rows, torch.arange(12), torch.stack([keys, torch.ones_like(keys)], dim=1))

    def loss(queries, documents, ids, own_rows):
        vectors = queries[own_rows, 0], documents[:, 0]
        return info_nce(*vectors, ids.targets().for_queries(own_rows), 0.1, num_items_in_batch=1)

    blocks = EvaluationBlocks(size, loss)
    blocks.add(documents[:, None], documents[:, None], ids, torch.arange(12))
    found = blocks.means()["document_similarity"]
    starts = [min(start, max(0, 12 - size)) for start in range(0, 12, size)]
    cosines = []
    for start in starts:
        unique = {int(keys[n]): documents[n] for n in range(start, min(12, start + size))}
        vectors = torch.stack(list(unique.values()))
        cosines.append((vectors @ vectors.T)[~torch.eye(len(vectors), dtype=torch.bool)])
    assert found == pytest.approx(torch.cat(cosines).mean().item(), abs=1e-5)


def test_a_collapsed_model_is_told_so(make_coma, contrastive_rows, contrastive_trainer, capsys):
    """Its embeddings are those of one direction and very little else."""
    model, processor = make_coma()
    trainer = contrastive_trainer((model, processor), eval_dataset=contrastive_rows("mixed", 6))
    healthy = trainer.evaluate()
    forward = model.forward

    def collapsed(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.embeddings = torch.nn.functional.normalize(1 + 0.01 * output.embeddings, dim=-1)
        return output

    model.forward = collapsed
    capsys.readouterr()
    assert trainer.evaluate()["eval_document_similarity"] > 0.99 > healthy["eval_document_similarity"]
    assert (
        "warning  The embeddings have collapsed: the cosine of different documents is 1.000" in capsys.readouterr().out
    )
