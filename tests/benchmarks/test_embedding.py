"""The benchmark of embedding runs at a tiny size, and ends with its ratios."""

import json
import sys

import pytest

from benchmarks.embedding import main


@pytest.mark.study
def test_it_runs_and_ends_with_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["embedding", "--quick"])
    main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found.keys() == {"vs_st_default", "vs_st_best", "vs_matmul", "jpeg_vs_st_best", "jpeg_decode_ratio"}
    assert min(found.values()) > 0
