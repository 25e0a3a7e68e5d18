"""`coma embed` writes every row in its place, and goes on after whatever stopped it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from modeling_coma import ComaForEmbedding, ComaProcessor


ROOT = Path(__file__).resolve().parents[2]
TEXTS = [f"{'a little ' * (place % 7)}apple number {place}" for place in range(40)]


@pytest.fixture
def photos(tmp_path: Path, picture: Callable[..., Image.Image]) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for place in range(7):
        picture(28 + 28 * (place % 4), 56, place).save(folder / f"{'more/' if place % 2 else ''}{place}.png")
    return folder


def embeddings_in(path: Path) -> np.ndarray:
    return np.stack(pq.read_table(path)["embedding"].to_numpy())


def expected(folder: Path, items: list) -> np.ndarray:
    model, processor = ComaForEmbedding.from_pretrained(folder), ComaProcessor.from_pretrained(folder)
    with torch.no_grad():
        return np.concatenate([model(**processor.process([item])).embeddings.numpy() for item in items])


def test_folder_of_pictures(coma_folder: Path, coma_command: Callable, photos: Path, tmp_path: Path) -> None:
    (photos / "notes.txt").touch()
    out = tmp_path / "new.parquet"
    code, text, _ = coma_command("embed", coma_folder, photos, out, "--part-rows", 3, "--batch-tokens", 30)
    assert code == 0 and "7 rows of 64 numbers" in text and "1 files" in text
    table = pq.read_table(out)
    names = [f"{place}.png" for place in (0, 2, 4, 6)] + [f"more/{place}.png" for place in (1, 3, 5)]
    assert table["id"].to_pylist() == table["image"].to_pylist() == names
    assert table["row"].to_pylist() == list(range(7))
    assert (
        np.abs(embeddings_in(out) - expected(coma_folder, [Image.open(photos / name) for name in names])).max() < 1e-5
    )
    made = json.loads(pq.read_schema(out).metadata[b"coma"])
    assert (made["model"], made["num_compression_tokens"], made["dim"]) == (str(coma_folder), 4, 64)
    assert made["versions"]["torch"] == torch.__version__ and made["dtype"] == "float32"
    assert [file.name for file in tmp_path.iterdir() if file != photos] == ["new.parquet"]
    code, _, error = coma_command("embed", coma_folder, photos, out)
    assert code == 1 and "nothing is overwritten" in error


def test_table_of_texts_and_pictures(coma_folder: Path, coma_command: Callable, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("title,file,sku\nan apple,0.png,x1\nonly text,,x2\n,more/1.png,x3\n")
    options = ["--text-column", "title", "--image-column", "file", "--id-column", "sku", "--image-root", photos]
    code, _, _ = coma_command("embed", coma_folder, tmp_path / "t.csv", tmp_path / "out.parquet", *options)
    assert code == 0
    table = pq.read_table(tmp_path / "out.parquet").drop_columns("embedding").to_pydict()
    assert table == {
        "row": [0, 1, 2],
        "id": ["x1", "x2", "x3"],
        "text": ["an apple", "only text", None],
        "image": ["0.png", None, "more/1.png"],
    }
    items = [{"image": str(photos / "0.png"), "text": "an apple"}, "only text", {"image": str(photos / "more/1.png")}]
    assert np.abs(embeddings_in(tmp_path / "out.parquet") - expected(coma_folder, items)).max() < 1e-5


def test_killed_and_started_again_it_goes_on(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    words = ["embed", coma_folder, tmp_path / "t.txt", tmp_path / "out.parquet", "--part-rows", 1, "--workers", 0]
    command = [sys.executable, "-m", "hub_scripts.cli", *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list(tmp_path.glob("out.parquet.parts/*.parquet"))) < 3:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "out.parquet").exists()
    kept = len(list(tmp_path.glob("out.parquet.parts/*.parquet")))
    assert 3 <= kept < len(TEXTS)

    code, text, _ = coma_command(*words)
    assert code == 0 and f"{len(TEXTS)} rows" in text and f"\n{len(TEXTS) - kept} embedded now" in text
    table = pq.read_table(tmp_path / "out.parquet")
    assert (table["row"].to_pylist(), table["text"].to_pylist()) == (list(range(len(TEXTS))), TEXTS)
    assert np.abs(embeddings_in(tmp_path / "out.parquet") - expected(coma_folder, TEXTS)).max() < 1e-5


def test_a_bad_row_stops_or_is_listed(
    coma_folder: Path, coma_command: Callable, photos: Path, tmp_path: Path, picture: Callable
) -> None:
    (photos / "2.png").write_bytes(b"no picture")
    out = tmp_path / "out.parquet"
    words = ["embed", coma_folder, photos, out, "--part-rows", 1, "--workers", 0]
    code, _, error = coma_command(*words)
    assert code == 1 and "error: Row 1: cannot decode" in error and not out.exists()

    skipping = [*words[:3], tmp_path / "skipping.parquet", "--on-error", "skip", "--workers", 1]
    code, text, _ = coma_command(*skipping)
    assert code == 0 and "6 rows of" in text and "1 rows skipped" in text
    assert pq.read_table(skipping[3])["row"].to_pylist() == [0, 2, 3, 4, 5, 6]
    (skipped,) = (tmp_path / "skipping.parquet.skipped.jsonl").read_text().splitlines()
    assert json.loads(skipped)["id"] == "2.png" and json.loads(skipped)["row"] == 1

    picture(56, 56, 2).save(photos / "2.png")  # mended, the same command goes on after row 0
    code, text, _ = coma_command(*words)
    assert code == 0 and "\n6 embedded now" in text
    others = np.delete(embeddings_in(out), 1, axis=0)
    assert np.abs(others - embeddings_in(skipping[3])).max() < 1e-5


def test_parts_of_other_rows_or_settings_are_not_kept(
    coma_folder: Path, coma_command: Callable, photos: Path, tmp_path: Path, picture: Callable
) -> None:
    (photos / "more" / "5.png").write_bytes(b"no picture")  # the last row
    words = ["embed", coma_folder, photos, tmp_path / "out.parquet", "--part-rows", 1, "--workers", 0]
    assert coma_command(*words)[0] == 1
    picture(84, 84, 77).save(photos / "0.png")
    picture(84, 84, 78).save(photos / "more" / "5.png")
    assert "\n2 embedded now" in coma_command(*words)[1]
    (tmp_path / "out.parquet").unlink()

    (photos / "more" / "5.png").write_bytes(b"no picture")
    assert coma_command(*words)[0] == 1
    (photos / "more" / "5.png").unlink()
    assert "\n6 embedded now" in coma_command(*words, "--dtype", "bfloat16")[1]


def test_nothing_to_embed(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(" \n \n")
    words = ["embed", coma_folder, tmp_path / "t.txt", tmp_path / "out.parquet", "--on-error", "skip"]
    code, _, error = coma_command(*words)
    assert code == 1 and "None of the 2 rows could be embedded. Row 0 is empty" in error
    assert not (tmp_path / "out.parquet").exists()


def test_another_kind_of_model_is_refused(make_backbone: Callable, coma_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("x\n")
    code, _, error = coma_command("embed", make_backbone(), tmp_path / "t.txt", tmp_path / "out.parquet")
    assert code == 1 and "qwen2_5_vl model and no CoMa model" in error
