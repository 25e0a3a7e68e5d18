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


def test_workers_start_once(make_coma: Callable, picture: Callable, tmp_path: Path) -> None:
    coma = make_coma("qwen2_5_vl")
    picture(56, 56).save(tmp_path / "a.png")
    parts = [["a pear", {"image": tmp_path / "a.png"}, {"image": b"none"}], ["an apple"]]
    encoder, seen = Encoder(*coma, num_workers=1), []
    for part in parts:
        batches = []
        for batch in encoder.batches(part):
            batches.append(batch)
            seen.append({process.pid for process in multiprocessing.active_children()})
        rows = [row for batch in batches for row in batch.rows]
        expected = embed_items(*coma, [part[row] for row in rows])
        assert (torch.cat([batch.embeddings for batch in batches]) - expected).abs().max() < 1e-6
    assert len(seen[0]) == 1 and all(pids == seen[0] for pids in seen)
