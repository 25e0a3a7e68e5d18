"""The benchmark of small vectors runs at a tiny size, and its memory is that of the bytes of a vector."""

import json
import sys

import pytest

from benchmarks.search import main


def test_it_runs_and_ends_with_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["search", "--rows", "9000", "--dim", "64", "--queries", "4"])
    main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    bytes_of_a_row = {"float32": 256, "float16": 128, "int8": 64, "ubinary": 8}
    for precision, size in bytes_of_a_row.items():
        assert 9000 * size <= found["memory_gb"][precision] * 1e9 < 1.2 * 9000 * size
    assert found["recall@10"]["float32"] == 1 and min(found["recall@10"].values()) > 0.8
    assert min(found["seconds"].values()) >= 0
