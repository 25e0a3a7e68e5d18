"""Equal rows are computed once; workers start once."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainers.encoding.encode import embed_items
from trainers.encoding.encoder import Encoder


def test_equal_rows_are_computed_once(
    make_coma: Callable, picture: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coma, files = make_coma("qwen2_5_vl"), [tmp_path / f"{number}.png" for number in range(2)]
    for number, file in enumerate(files):
        picture(56, 56, number).save(file)
    same = picture(56, 56, 3)
    items = ["a pear", {"image": files[0]}, {"image": files[1]}, {"image": files[0].read_bytes()}, "", same, same]
    items += [*items[:4], {"image": files[0], "text": "a pear"}, {"text": "a pear", "image": files[0]}, " "]
    good = [place for place, item in enumerate(items) if place not in (4, 13)]
    expected = torch.cat([embed_items(*coma, [items[place]]) for place in good])
    rows, forward = [], coma[0].forward
    monkeypatch.setattr(
        coma[0], "forward", lambda **inputs: rows.append(len(inputs["input_ids"])) or forward(**inputs)
    )
    failures = {}
    found = embed_items(*coma, items, failures=failures)
    assert (found[good] - expected).abs().max() < 1e-6
    assert sum(rows) == 8  # two of the same open image, which nobody has compared; two orders of image and text
    assert failures.keys() == {4, 13} and failures[4].startswith("Row 4") and failures[13].startswith("Row 13")


def test_a_number_is_no_row(make_coma: Callable, picture: Callable) -> None:
    """A text that reads like the place of an open image, or of a bad row, is neither."""
    coma, failures = make_coma("qwen2_5_vl"), {}
    items = [picture(56, 56), "", "0", "1"]
    found = embed_items(*coma, items, failures=failures)
    assert (found[2:] - embed_items(*coma, ["label 0", "0", "1"])[1:]).abs().max() < 1e-6
    assert failures.keys() == {1} and (found[0] - embed_items(*coma, items[:1])[0]).abs().max() < 1e-6


def test_what_does_not_fit_on_trial_loses_no_row(make_coma: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a trial that ends halfway, the batches before have been embedded, and the rows equal to theirs with them."""
    coma = make_coma("qwen2_5_vl")
    texts = [f"apple number {place % 30}" for place in range(60)]
    expected = embed_items(*coma, texts, batch_tokens=64)
    monkeypatch.setattr("trainers.encoding.batch_size.SIZES", (40, 160))
    monkeypatch.setattr("trainers.encoding.batch_size.LEAST_TOKENS", 100)
    forward, calls = coma[0].forward, []

    def of_little_memory(**inputs: torch.Tensor) -> object:
        calls.append(len(inputs["input_ids"]))
        if len(calls) == 3:  # the second batch of the first trial
            raise torch.OutOfMemoryError
        return forward(**inputs)

    monkeypatch.setattr(coma[0], "forward", of_little_memory)
    found = embed_items(*coma, texts)
    assert (found - expected).abs().max() < 1e-6 and sum(calls) - calls[2] == 30


def test_workers_start_once(make_coma: Callable, picture: Callable, tmp_path: Path) -> None:
    coma = make_coma("qwen2_5_vl")
    picture(56, 56).save(tmp_path / "a.png")
    parts = [["a pear", {"image": tmp_path / "a.png"}, {"image": b"none"}], ["an apple"]]
    others = set(multiprocessing.active_children())  # of tests before this one
    encoder, seen = Encoder(*coma, num_workers=1), []
    for part in parts:
        batches = []
        for batch in encoder.batches(part):
            batches.append(batch)
            seen.append({process.pid for process in set(multiprocessing.active_children()) - others})
        rows = [row for batch in batches for row in batch.rows]
        expected = embed_items(*coma, [part[row] for row in rows])
        assert (torch.cat([batch.embeddings for batch in batches]) - expected).abs().max() < 1e-6
    assert len(seen[0]) == 1 and all(pids == seen[0] for pids in seen)


def test_it_goes_through_one_list_of_items_at_a_time(make_coma: Callable) -> None:
    encoder = Encoder(*make_coma(), batch_tokens=1)
    begun = encoder.batches(["a", "bb", "ccc"])
    next(begun)
    with pytest.raises(RuntimeError, match="going through other items"):
        next(encoder.batches(["d"]))
    assert len(list(begun)) == 2, "what was begun goes on"
    assert len(list(encoder.batches(["d"]))) == 1
    begun = encoder.batches(["a", "bb"])
    next(begun)
    begun.close()
    assert len(list(encoder.batches(["d"]))) == 1
