"""Each evaluation tells how well queries find their documents, as `embed_items` and the metrics would."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainers.encoding.encode import embed_items
from trainers.evaluation import RetrievalCallback, RetrievalSet
from trainers.evaluation.metrics import Relevance, rank_embeddings, retrieval_metrics


def texts_of(task: RetrievalSet) -> list[str]:
    return [task.items[place][-1]["content"][0]["text"] for place in task.documents]


def row(query: str, positive: str, negatives: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    texts = {"query": {"text": query}, "positive": {"text": positive}, "negatives": [{"text": n} for n in negatives]}
    return {**texts, **more}


def test_a_task_from_rows() -> None:
    rows = [row("a", "A", ("x", "B")), row("b", "B", group="1", source="s"), row("c", "A"), row("d", "D", group="1")]
    task = RetrievalSet.from_rows(rows, {"s": "Find it."})
    assert texts_of(task) == ["A", "x", "B", "D"]
    assert task.relevance.documents.tolist() == [[0, -1], [2, 3], [0, -1], [2, 3]]
    assert [len(task.items[place]) for place in task.queries] == [1, 2, 1, 1]
    with pytest.raises(ValueError, match="^Row 1: positive is empty"):
        RetrievalSet.from_rows([rows[0], row("a", " ")])


def test_evaluations_during_training(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable
) -> None:
    rows = contrastive_rows("mixed", 6)
    coma = make_coma()
    trainer = contrastive_trainer(
        coma,
        rows,
        eval_dataset=rows,
        eval_strategy="steps",
        eval_steps=1,
        max_steps=6,
        per_device_train_batch_size=6,
        freeze_vision=False,
    )
    trainer.add_callback(RetrievalCallback(trainer, RetrievalSet.from_rows(rows), "train"))
    trainer.add_callback(RetrievalCallback(trainer, RetrievalSet.from_rows(rows[:2])))
    trainer.train()
    history = [entry["eval_train_p@1"] for entry in trainer.state.log_history if "eval_train_p@1" in entry]
    assert len(history) == 6 and history[-1] == 1 > history[0]
    metrics = trainer.evaluate()
    queries, documents = [r["query"] for r in rows], [r["positive"] for r in rows]
    documents += [item for r in rows for item in r["negatives"]]
    queries, documents = (
        embed_items(*coma, [{"image": i.get("image"), "text": i["text"]} for i in items])
        for items in (queries, documents)
    )
    expected = retrieval_metrics(rank_embeddings(queries, documents, Relevance.single(torch.arange(6))), (1, 10))
    names = {"p@1": "hit@1", "r@10": "recall@10", "ndcg@10": "ndcg@10"}
    for short, name in names.items():
        assert metrics[f"eval_train_{short}"] == pytest.approx(expected[name])
        assert 0 <= metrics[f"eval_{short}"] <= 1


@pytest.mark.slow
def test_the_best_checkpoint_may_be_that_of_retrieval(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable
) -> None:
    rows = contrastive_rows("text", 6)
    trainer = contrastive_trainer(
        make_coma(),
        rows,
        eval_dataset=rows,
        eval_strategy="steps",
        save_strategy="best",
        metric_for_best_model="ndcg@10",
        load_best_model_at_end=True,
        eval_steps=1,
        max_steps=3,
    )
    trainer.add_callback(RetrievalCallback(trainer, RetrievalSet.from_rows(rows)))
    trainer.train()
    values = [entry["eval_ndcg@10"] for entry in trainer.state.log_history if "eval_ndcg@10" in entry]
    assert trainer.state.best_metric == max(values)
    assert trainer.evaluate()["eval_ndcg@10"] == max(values)  # its weights are there again


def test_equal_queries_have_each_others_answers() -> None:
    """Instruction included; and the answers of their groups, as in mining."""
    rows = [row("a", "A"), row("a", "B", ("C",)), row("b", "C"), row("a", "D", source="s"), row("a", "E", group="1")]
    rows += [row("c", "F", group="1")]
    task = RetrievalSet.from_rows(rows, {"s": "Find it."})
    texts = texts_of(task)
    found = ["".join(texts[n] for n in sorted(numbers) if n >= 0) for numbers in task.relevance.documents.tolist()]
    assert found == ["ABEF", "ABEF", "C", "D", "ABEF", "EF"]


def test_bad_rows_are_left_out_with_what_only_they_have(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable
) -> None:
    """The scores are those of the other rows, and it is said how many there are not."""
    rows, broken = contrastive_rows("mixed", 6), {"text": None, "image": b"no image"}
    rows[5]["query"] = rows[0]["query"]  # which has two answers, one of them in a bad row
    mixed = [rows[0], {**rows[1], "query": broken}, *rows[2:5], {**rows[5], "negatives": [broken]}, {**rows[1]}]
    mixed.append({**rows[1], "positive": {"text": " "}})
    good = [mixed[number] for number in (0, 2, 3, 4, 6)]
    trainer = contrastive_trainer(make_coma(), rows, eval_dataset=rows, on_bad_row="skip")
    trainer.add_callback(RetrievalCallback(trainer, RetrievalSet.from_rows(mixed, on_bad_row="skip"), "mixed"))
    trainer.add_callback(RetrievalCallback(trainer, RetrievalSet.from_rows(good), "good"))
    metrics = trainer.evaluate()
    assert metrics["eval_mixed_retrieval_rows_skipped"] == 3 and "eval_good_retrieval_rows_skipped" not in metrics
    for name in ("p@1", "r@10", "ndcg@10"):
        assert metrics[f"eval_mixed_{name}"] == pytest.approx(metrics[f"eval_good_{name}"])


def test_a_bad_row_is_named_by_its_row_and_part(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable
) -> None:
    rows = [row("a", "A"), row("a", "A"), row("b", "A", ("B",))]
    rows[2]["negatives"].append({"image": ["no", "image.png"], "text": None})
    rows.append(row("a", "A", ("B",)))
    trainer = contrastive_trainer(make_coma(), contrastive_rows("text", 2), eval_dataset=contrastive_rows("text", 2))
    trainer.add_callback(RetrievalCallback(trainer, RetrievalSet.from_rows(rows)))
    with pytest.raises(ValueError, match=r"^Row 2: negative 1, image\[0\]: cannot decode the image 'no'"):
        trainer.evaluate()
