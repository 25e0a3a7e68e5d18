"""The main job, shortened: both stages, evaluation, a folder that loads, a page, one line of JSON."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from hub_scripts.cli import main
from hub_scripts.hub.training_record import read_training_record
from hub_scripts.search import search_index


@pytest.mark.slow
def test_demo(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--compression-steps", "2", "--contrastive-steps", "8"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    scores = [summary[f"{task}_p1"] for task in ("image_to_text", "text_to_image", "image_to_image")]
    assert summary["chance_p1"] == pytest.approx(1 / 1595, abs=1e-6)
    assert scores[2] > 20 * summary["chance_p1"]  # like images are near each other before anything has a name
    assert summary["model"] == "demo/model"
    assert summary["seconds"] > 0

    model = AutoModel.from_pretrained("demo/model")
    processor = AutoProcessor.from_pretrained("demo/model")
    with torch.no_grad():
        assert model(**processor.process(["red apple"])).embeddings.norm().item() == pytest.approx(1, abs=1e-5)
    assert Image.open("demo/retrieval.png").size == (960, 1920)
    card = (tmp_path / "demo" / "model" / "README.md").read_text(encoding="utf-8")
    assert f"{scores[0]:.2%}" in card
    assert "8 steps of 128 pairs" in card

    # The index has the emoji that are on the disk, at paths from its own folder on, as `coma app` reads them.
    hits = search_index("demo/index.parquet", "red apple", k=1000)
    assert len(hits) == 399 and all(Path("demo", hit.row["image"]).is_file() for hit in hits)
    (nearest,) = search_index("demo/index.parquet", image=Path("demo", hits[-1].row["image"]), k=1)
    assert nearest.row == hits[-1].row and nearest.score > 0.999

    # What is trained upon it knows how it came about, and what the emoji were asked.
    first, second = read_training_record("demo/model")
    assert (first["stage"], first["steps"], first["rows_per_step"], first["turns"]) == ("compression", 2, 64, 3)
    assert (second["stage"], second["steps"], second["rows_per_step"]) == ("contrastive", 8, 128)
    assert {stage["num_compression_tokens"] for stage in (first, second)} == {model.config.num_compression_tokens}
    assert (second["data"], second["data_rows"], "turns" in second) == ("emoji", 3 * 1595, False)


def test_demo_overwrites_nothing(tmp_path, capsys):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine.txt").write_text("mine")
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 1
    assert "nothing is overwritten" in capsys.readouterr().err
