"""The evaluation loss is among as many rows as in training: against the formula, whatever the batches are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from datasets import IterableDataset

from trainers.contrastive.evaluation import EvaluationBlocks
from trainers.contrastive.loss import info_nce
from trainers.contrastive.targets import PairIds


def embeddings_of(trainer: Any, items: list[dict]) -> torch.Tensor:
    trainer.model.eval()
    items = [{"image": item["image"], "text": item["text"]} for item in items]
    with torch.no_grad():
        return torch.cat([trainer.model(**trainer.processing_class.process([item])).embeddings for item in items])


def expected_loss(trainer: Any, rows: list[dict], size: int, temperature: float) -> tuple[float, float]:
    """Query by query: those of a block, and those that are left, among the documents of the last `size` rows."""
    losses, among = [], []
    for number, row in enumerate(rows):
        first = number - number % size
        first = max(0, len(rows) - size) if first + size > len(rows) else first
        block = rows[first : first + size]
        documents = [one["positive"] for one in block] + [item for one in block for item in one["negatives"]]
        scores = F.normalize(embeddings_of(trainer, [row["query"]])) @ F.normalize(embeddings_of(trainer, documents)).T
        losses.append(F.cross_entropy(scores / temperature, torch.tensor([number - first])))
        among.append(len(documents))
    return float(torch.stack(losses).mean()), sum(among) / len(among)


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 4, 7, 100])
def test_among_as_many_rows_as_a_training_batch(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable, size: int
) -> None:
    rows, coma = contrastive_rows("mixed", 7), make_coma()
    expected = None
    for batch in (1, 2, 5, 8):
        settings = {"per_device_train_batch_size": size, "per_device_eval_batch_size": batch, "temperature": 0.2}
        trainer = contrastive_trainer(coma, rows, eval_dataset=rows, **settings)
        metrics = trainer.evaluate()
        expected = expected or expected_loss(trainer, rows, size, 0.2)
        assert (metrics["eval_loss"], metrics["eval_num_documents"]) == pytest.approx(expected, rel=1e-5), batch
        assert "eval_pairs_per_second" not in metrics and "eval_rows_skipped" not in metrics
        stream = IterableDataset.from_generator(lambda: iter(rows))
        assert trainer.evaluate(stream)["eval_loss"] == pytest.approx(expected[0], rel=1e-5)


def test_the_training_says_among_how_many_documents(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable
) -> None:
    rows = [{**row, "negatives": []} for row in contrastive_rows("text", 8)]
    trainer = contrastive_trainer(make_coma(), rows, eval_dataset=rows, per_device_eval_batch_size=2)
    trainer.train()
    assert trainer.state.log_history[0]["num_documents"] == trainer.evaluate()["eval_num_documents"] == 4
    assert trainer.evaluate(rows[:3])["eval_num_documents"] == 3


def test_both_directions_and_equal_queries_are_those_of_training(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable
) -> None:
    """One block: the loss of a training batch."""
    rows = contrastive_rows("text", 6)
    rows[4]["query"] = rows[1]["query"]
    settings = {"bidirectional": True, "matryoshka_dims": [16], "per_device_train_batch_size": 6}
    trainer = contrastive_trainer(make_coma(), rows, eval_dataset=rows, per_device_eval_batch_size=4, **settings)
    trainer.model.eval()
    with torch.no_grad():
        expected = trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item()
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["eval_negatives"] == pytest.approx(9 - 2 / 6)  # two documents more are positives


def some_rows(number: int, first: int) -> tuple[torch.Tensor, torch.Tensor, PairIds, torch.Tensor]:
    keys, none = torch.arange(first, first + number), torch.full((number,), -1)
    batch = {"queries": keys, "asked_keys": keys, "query_keys": keys, "groups": none, "sources": none}
    batch |= {"restricted": none > 0, "owners": torch.arange(number), "document_keys": keys + 1000}
    ids = PairIds.of(batch)
    generator = torch.Generator().manual_seed(first)
    return *(torch.randn(number, 1, 4, generator=generator) for _ in range(2)), ids, keys


def test_what_is_kept_does_not_grow() -> None:
    def loss(queries: torch.Tensor, documents: torch.Tensor, ids: PairIds, rows: slice) -> Any:
        assert len(ids.rows) == len(queries) == 5
        return info_nce(queries[rows], documents, ids.targets().for_queries(rows), 0.1, num_items_in_batch=1)

    blocks = EvaluationBlocks(5, loss)
    for batch in range(30):
        blocks.add(*some_rows(3, 3 * batch))
        assert len(blocks.queries) < 5 + 5 + 3
    assert blocks.means()["num_documents"] == 5 and blocks.num_rows == 90


def test_an_embedding_that_is_not_finite_is_said_with_its_row() -> None:
    for place, name in enumerate(("query", "document")):
        blocks, rows = EvaluationBlocks(4, lambda *_: None), some_rows(3, 20)
        rows[place][1, 0, 2] = torch.nan
        with pytest.raises(ValueError, match=f"Row 21 of the evaluation data: its {name} has no finite embedding"):
            blocks.add(*rows)
