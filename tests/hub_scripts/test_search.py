"""`coma search` is exact, knows its model, and takes texts, pictures and both."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from hub_scripts.folders import save_model
from hub_scripts.index import index_table, join_parts, nearest, write_part


@pytest.fixture(scope="module")
def index(coma_folder: Path, picture: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of texts, pictures and both, and the pictures beside it."""
    from hub_scripts.cli import main

    folder = tmp_path_factory.mktemp("index")
    for place in range(3):
        picture(56, 28 * (place + 1), place).save(folder / f"{place}.png")
    rows = [{"text": "a red apple"}, {"image": "0.png"}, {"text": "a red apple", "image": "1.png"}]
    rows += [{"image": "1.png"}, {"text": "a green tree " * 20}, {"image": "2.png", "text": "leaves"}]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        main(["embed", str(coma_folder), str(folder / "t.jsonl"), str(folder / "i.parquet"), "--part-rows", "4"]) == 0
    )
    return folder / "i.parquet"


@pytest.mark.parametrize(
    ("query", "image", "row"),
    [("a red apple", None, 0), (None, "0.png", 1), ("a red apple", "1.png", 2), (None, "1.png", 3)],
)
def test_a_row_is_nearest_to_itself(
    coma_folder: Path, coma_command: Callable, index: Path, query: str | None, image: str | None, row: int
) -> None:
    words = ["search", coma_folder, index, "-k", 2, *([query] if query else [])]
    words += ["--image", index.with_name(image)] if image else []
    code, text, _ = coma_command(*words)
    lines = [line.split() for line in text.splitlines()[1:]]
    assert code == 0 and [line[0] for line in lines] == ["1", "2"]
    assert lines[0][1:3] == ["1.000", str(row)] and float(lines[1][1]) < 0.9999


def test_the_table_is_short_and_complete(coma_folder: Path, coma_command: Callable, index: Path) -> None:
    code, text, _ = coma_command("search", coma_folder, index, "leaves", "-k", 100)
    assert code == 0 and len(text.splitlines()) == 7
    assert all(len(line) < 100 for line in text.splitlines())
    assert {line.split()[2] for line in text.splitlines()[1:]} == set("012345")


def test_another_model_is_refused(
    make_coma: Callable, coma_folder: Path, coma_command: Callable, index: Path, tmp_path: Path
) -> None:
    save_model(*make_coma("qwen3_vl", 4), tmp_path)
    code, _, error = coma_command("search", tmp_path, index, "an apple")
    assert code == 1 and f"made by another model ({coma_folder}, K 4, 64 dimensions)" in error
    # The same model in another precision is the same model.
    assert coma_command("search", coma_folder, index, "an apple", "--dtype", "bfloat16")[0] == 0


def test_wrong_command_lines(coma_folder: Path, coma_command: Callable, index: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        coma_command("search", coma_folder, index)
    assert stop.value.code == 2
    pq.write_table(pq.read_table(index).replace_schema_metadata(), tmp_path / "i.parquet")
    code, _, error = coma_command("search", coma_folder, tmp_path / "i.parquet", "x")
    assert code == 1 and "was not written by `coma embed`" in error
    code, _, error = coma_command("search", coma_folder, index, "--image", tmp_path / "no.png")
    assert code == 1 and "cannot decode the image" in error


@pytest.mark.parametrize("k", [1, 5, 40])
def test_nearest_is_exact_over_parts_with_ties_in_order(tmp_path: Path, k: int, monkeypatch) -> None:
    monkeypatch.setattr("hub_scripts.index.ROWS_AT_A_TIME", 5)
    embeddings = torch.randint(-2, 3, (37, 3), generator=torch.manual_seed(0)).float()
    parts = []
    for start in range(0, 37, 8):
        block = embeddings[start : start + 8]
        rows = [{"id": f"n{start + place}", "text": None, "path": None} for place in range(len(block))]
        parts.append(tmp_path / f"{start}.parquet")
        write_part(parts[-1], index_table(start, rows, block, {}), "")
    assert join_parts(parts, tmp_path / "i", tmp_path / "skipped", {}) == (37, 0)
    query = torch.tensor([1.0, -1.0, 2.0])
    scores = embeddings @ query
    expected = sorted(range(37), key=lambda row: (-scores[row].item(), row))[:k]
    hits = nearest(tmp_path / "i", query, k)
    assert [hit.row["row"] for hit in hits] == expected
    assert [hit.row["id"] for hit in hits] == [f"n{row}" for row in expected]
    assert [hit.score for hit in hits] == scores[expected].tolist()
