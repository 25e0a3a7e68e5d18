"""Settings that name sources act, or are refused with the sources there are; what does not tell them is said."""

from collections.abc import Callable
from typing import Any

import pytest
from datasets import Dataset, IterableDataset


def row(number: int, source: str | None) -> dict[str, Any]:
    return {"query": {"text": f"q {number}"}, "positive": {"text": f"d {number}"}, "negatives": [], "source": source}


ROWS = [row(number, "ab"[number % 2]) for number in range(8)]


@pytest.mark.parametrize("of", [list, tuple, Dataset.from_list])
def test_sub_batches_of_a_list_of_rows_too(make_coma: Callable, contrastive_trainer: Callable, of: Callable) -> None:
    trainer = contrastive_trainer(make_coma(), of(ROWS), sub_batch_size=2)
    order = [ROWS[number]["source"] for number in trainer._get_train_sampler()]
    assert sorted(order) == list("aaaabbbb") and all(order[n] == order[n + 1] for n in range(0, 8, 2))
    trainer.train()


def test_what_has_no_sources_is_said(make_coma: Callable, contrastive_trainer: Callable) -> None:
    coma, some = make_coma(), [*ROWS[:3], row(3, None)]
    with pytest.raises(ValueError, match="1 of 4 rows have none, first row 3"):
        contrastive_trainer(coma, some, sub_batch_size=2).train()
    with pytest.raises(ValueError, match="sub_batch_size needs a data set whose rows are known; streamed rows come"):
        contrastive_trainer(coma, IterableDataset.from_generator(lambda: iter(ROWS)), sub_batch_size=2)

    class Rows:
        def __len__(self) -> int:
            return len(ROWS)

        def __getitem__(self, number: int) -> dict:
            return ROWS[number]

    with pytest.raises(ValueError, match="sub_batch_size needs the `source` .* of which a Rows does not tell"):
        contrastive_trainer(coma, Rows(), sub_batch_size=2).train()
    with pytest.raises(ValueError, match="same_source_negatives would do nothing"):
        contrastive_trainer(coma, [row(1, None), row(2, None)], same_source_negatives=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"instructions": {"a": "Find it.", "zzz": "Find it."}},
        {"own_negatives_only": ["zzz"]},
        {"sub_batch_size": 2, "source_caps": {"zzz": 3}},
        {"sub_batch_size": 2, "source_weights": {"zzz": 3.0}},
    ],
)
def test_a_source_that_no_row_has(make_coma: Callable, contrastive_trainer: Callable, settings: dict) -> None:
    (name,) = settings.keys() - {"sub_batch_size"}
    with pytest.raises(ValueError, match=f"{name} names 'zzz', which no row has: .* The sources are 'a', 'b'"):
        contrastive_trainer(make_coma(), ROWS, **settings)


def test_of_a_stream_it_is_said_in_the_end(
    make_coma: Callable, contrastive_trainer: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers.utils import logging

    logging.enable_propagation()
    stream = IterableDataset.from_generator(lambda: iter(ROWS))
    settings = {"instructions": {"a": "Find it.", "zzz": "Find it."}, "own_negatives_only": ["b", "yyy"]}
    contrastive_trainer(make_coma(), stream, **settings).train()
    logging.disable_propagation()
    assert "the sources ['yyy', 'zzz'], which no row of the training had" in caplog.text
