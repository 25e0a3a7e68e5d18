"""`coma embed` with fewer numbers, fewer bits and in a folder, and `coma search` in what it made."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hub_scripts.embed import embed_table
from hub_scripts.embedding.store import index_metadata, read_vectors
from hub_scripts.hub.training_record import TRAINING_FILE
from hub_scripts.search import search_index


TEXTS = [f"{'a little ' * (place % 5)}apple number {place}" for place in range(40)]


@pytest.fixture(scope="module")
def trained(coma_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with the record of a training for 16 dimensions."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    shutil.copytree(coma_folder, folder)
    stage = {"stage": "contrastive", "settings": {"matryoshka_dims": [16]}}
    (folder / TRAINING_FILE).write_text(json.dumps([stage]))
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    return tmp_path / "t.txt"


def vectors_in(path: Path) -> np.ndarray:
    return np.concatenate([piece.embeddings for piece in read_vectors(path)])


@pytest.fixture(scope="module")
def whole_index(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the texts with all of their numbers. Nobody writes to it."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "t.txt").write_text("\n".join(TEXTS))
    embed_table(trained, folder / "t.txt", folder / "whole.parquet")
    return folder / "whole.parquet"


@pytest.fixture(scope="module")
def whole(whole_index: Path) -> np.ndarray:
    return vectors_in(whole_index)


@pytest.mark.parametrize("precision", [pytest.param("float32", marks=pytest.mark.slow), "float16", "int8", "ubinary"])
def test_first_numbers_in_few_bits(
    trained: Path, texts: Path, coma_command: Callable, tmp_path: Path, whole: np.ndarray, precision: str
) -> None:
    out = tmp_path / "out.parquet"
    words = ["embed", trained, texts, out, "--dims", 16, "--precision", precision, "--part-rows", 7]
    code, text, error = coma_command(*words)
    assert code == 0, error
    in_bits = "" if precision == "float32" else f" ({precision})"
    assert f"40 rows of 16 numbers{in_bits} in {out}" in text
    made = index_metadata(out)
    assert (made["dim"], made["dims"], made["precision"]) == (64, 16, precision)
    cut = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    if precision in ("int8", "ubinary"):
        assert np.allclose(made["ranges"], [cut.min(0), cut.max(0)], atol=1e-5)
    else:
        assert "ranges" not in made
    assert np.abs(vectors_in(out) - cut).max() < 0.01
    code, text, _ = coma_command("search", trained, out, TEXTS[11], "-k", 3)
    first = text.splitlines()[1].split()
    assert code == 0 and first[2] == "11" and float(first[1]) > 0.999


def test_a_folder_is_made_and_searched_like_a_file(
    trained: Path, texts: Path, coma_command: Callable, tmp_path: Path, whole_index: Path, monkeypatch
) -> None:
    monkeypatch.setattr("hub_scripts.embedding.index.SHARDS_OF_A_FILE", 4)
    code, text, error = coma_command("embed", trained, texts, f"{tmp_path}/out/", "--part-rows", 5)
    assert code == 0 and "40 rows of 64 numbers" in text, error
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["part-00000.parquet", "part-00001.parquet"]
    assert pq.read_table(tmp_path / "out" / "part-00001.parquet")["text"].to_pylist() == TEXTS[20:]
    assert np.abs(vectors_in(tmp_path / "out") - vectors_in(whole_index)).max() < 1e-5
    found = [search_index(index, TEXTS[30], model=trained, k=5) for index in (tmp_path / "out", whole_index)]
    assert [hit.row for hit in found[0]] == [hit.row for hit in found[1]]
    assert [hit.score for hit in found[0]] == pytest.approx([hit.score for hit in found[1]], abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "t.txt"]
    code, _, error = coma_command("embed", trained, texts, tmp_path / "out")
    assert code == 1 and "nothing is overwritten" in error


def test_what_was_begun_goes_on_in_any_form(
    trained: Path, coma_command: Callable, tmp_path: Path, whole: np.ndarray
) -> None:
    """Parts have whole vectors: after an interruption other dimensions and another precision may be asked for."""
    (tmp_path / "t.txt").write_text("\n".join([*TEXTS, " "]))
    words = ["embed", trained, tmp_path / "t.txt", tmp_path / "out", "--part-rows", 10]
    assert "Row 40 is empty" in coma_command(*words)[2] and not (tmp_path / "out").exists()
    (tmp_path / ".out.writing").mkdir()
    (tmp_path / ".out.writing" / "part-00007.parquet").touch()  # of a process that was killed while it wrote
    code, text, error = coma_command(*words, "--on-error", "skip", "--dims", 16, "--precision", "int8")
    assert code == 0 and "\n0 embedded now" in text and "1 rows skipped" in text, error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["part-00000.parquet"]
    cut = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    assert np.abs(vectors_in(tmp_path / "out") - cut).max() < 0.01
    assert not (tmp_path / ".out.writing").exists() and not (tmp_path / "out.parts").exists()


def test_dimensions_that_were_not_trained(
    trained: Path, coma_folder: Path, texts: Path, coma_command: Callable, tmp_path: Path
) -> None:
    words = [texts, tmp_path / "out.parquet", "--dims", 8]
    code, _, error = coma_command("embed", trained, *words)
    assert code == 1 and "was trained for 16, 64 dimensions, not for 8" in error.splitlines()[-1]
    assert "coma_training.json" in coma_command("embed", coma_folder, *words)[2]
    assert "dims=65 is not from 1 to 64" in coma_command("embed", trained, *words[:-1], 65, "--any-dims")[2]
    assert not (tmp_path / "out.parquet").exists() and not (tmp_path / "out.parquet.parts").exists()
    code, text, _ = coma_command("embed", trained, *words, "--any-dims")
    assert code == 0 and "40 rows of 8 numbers" in text


def test_what_is_missing_or_wrong_is_said_before_anything_is_embedded(
    trained: Path, texts: Path, coma_command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="precision='int4' is none of float32, float16, int8, ubinary"):
        embed_table(trained, texts, tmp_path / "out.parquet", precision="int4")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    code, _, error = coma_command("embed", trained, texts, tmp_path / "out.parquet", "--precision", "int8")
    assert code == 1 and error.count("\n") == 1 and "sentence_transformers" in error
    assert not (tmp_path / "out.parquet.parts").exists()
    assert coma_command("embed", trained, texts, tmp_path / "out.parquet", "--precision", "float16")[0] == 0
