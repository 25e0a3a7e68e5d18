"""`coma search` is exact, knows its model, and takes texts, images and both."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hub_scripts.common.folders import save_model
from hub_scripts.common.loading import load_model
from hub_scripts.embedding.index import write_index
from hub_scripts.embedding.nearest import nearest
from hub_scripts.search import search_index
from trainers.encoding.shards import write_shard


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def index(coma_folder: Path, picture: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of texts, images and both, and the images beside it."""
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


def test_from_python(coma_folder: Path, index: Path) -> None:
    (hit,) = search_index(index, "a red apple", k=1)  # by the model that the file names
    assert hit.row == {"row": 0, "id": "0", "text": "a red apple", "image": None} and hit.score > 0.999
    found = search_index(index, image=index.with_name("1.png"), model=load_model(str(coma_folder)), k=2)
    assert [hit.row["image"] for hit in found][0] == "1.png" and found[0].score > found[1].score
    with pytest.raises(ValueError, match="The query cannot be embedded: "):
        search_index(index)
    with pytest.raises(ValueError, match="The query cannot be embedded: .*video"):
        search_index(index, "red", video=[])
    assert search_index(index, "a red apple", model=coma_folder, k=1) == [hit]
    with pytest.raises(ValueError, match="k=0 must be 1 or more"):
        search_index(index, "a red apple", k=0)


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
    monkeypatch.setattr("hub_scripts.embedding.store.read_rows.__defaults__", (5,))
    embeddings = torch.randint(-2, 3, (37, 3), generator=torch.manual_seed(0)).float()
    table = pa.table(
        {
            "row": range(37),
            "id": [f"n{row}" for row in range(37)],
            **{name: pa.nulls(37) for name in ("text", "image", "error")},
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.numpy().reshape(-1)), 3),
        }
    )
    shards = [tmp_path / f"{start}.arrow" for start in range(0, 37, 8)]
    for number, shard in enumerate(shards):
        write_shard(shard, table.slice(8 * number, 8))
    metadata = {"model": "m", "num_compression_tokens": 4, "dim": 3, "probe": [0.5]}
    assert write_index(tmp_path / "i.parquet", shards, tmp_path / "skipped", metadata) == (37, 0)
    query = torch.tensor([1.0, -1.0, 2.0])
    scores = embeddings @ query
    expected = sorted(range(37), key=lambda row: (-scores[row].item(), row))[:k]
    hits = nearest(tmp_path / "i.parquet", query, k)
    assert [hit.row["row"] for hit in hits] == expected
    assert [hit.row["id"] for hit in hits] == [f"n{row}" for row in expected]
    assert [hit.score for hit in hits] == scores[expected].tolist()


def rewritten(index: Path, path: Path, column: str | None = None, values: pa.Array | None = None, **metadata) -> Path:
    """A copy of an index with another column (or without it), or other metadata."""
    table = pq.read_table(index)
    made = json.loads(table.schema.metadata[b"coma"])
    made = {name: value for name, value in {**made, **metadata}.items() if value is not None}
    if column is not None:
        place = table.schema.get_field_index(column)
        table = table.remove_column(place) if values is None else table.set_column(place, column, values)
    pq.write_table(table.replace_schema_metadata({"coma": json.dumps(made)}), path)
    return path


def with_number(index: Path, row: int, number: float) -> pa.Array:
    matrix = np.stack(pq.read_table(index)["embedding"].to_numpy())
    matrix[row, 3] = number
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1), pa.float32()), matrix.shape[1])


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_is_named_and_not_the_nearest(
    coma_folder: Path, coma_command: Callable, index: Path, tmp_path: Path, number: float
) -> None:
    path = rewritten(index, tmp_path / "i.parquet", "embedding", with_number(index, 4, number))
    code, text, error = coma_command("search", coma_folder, path, "an apple")
    assert code == 1 and not text and f"Row 4 of {path} has numbers that are not finite" in error
    query = torch.zeros(64)
    query[0] = number
    with pytest.raises(ValueError, match="The embedding of the query"):
        nearest(index, query, 3)


def damaged(index: Path, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Files that are no index any more, and what is said of each."""
    data, path = index.read_bytes(), tmp_path / "i.parquet"

    def made(content: bytes) -> Path:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        return path

    yield tmp_path / "nothing.parquet", "is not there"
    yield tmp_path, "is no file"
    os.mkfifo(tmp_path / "fifo")
    yield tmp_path / "fifo", "is no file"
    yield made(b""), "cannot be read as Parquet"
    yield made(b"no Parquet"), "cannot be read as Parquet"
    yield made(data[: len(data) // 2]), "cannot be read as Parquet"
    yield made(data[: len(data) // 2] + data[-2000:]), "i.parquet"
    place = data.find(pq.read_table(index)["embedding"].to_numpy()[1].tobytes())
    yield made(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]), "cannot be read as Parquet"
    table = pq.read_table(index)
    for metadata, message in (
        (b"{", "are damaged"),
        (b"[" * 10**5, "are damaged"),
        (b"[]", "'model' is None"),
        (b"\xff", "are damaged"),
    ):
        pq.write_table(table.replace_schema_metadata({"coma": metadata}), made(b""))
        yield path, message
    for name in ("model", "num_compression_tokens", "dim", "probe"):
        for value in (None, {"wrong": "type"}, True):
            yield rewritten(index, made(b""), **{name: value}), f"{name!r} is"
    for value in ([], ["a"], [10**400], [float("nan")] * 64):
        yield rewritten(index, made(b""), probe=value), "'probe'"
    for name in ("row", "id", "text", "image", "embedding"):
        yield rewritten(index, made(b""), name), f"has no column {name!r}"
        yield rewritten(index, made(b""), name, pa.array([[1]] * 6)), f"The column {name!r}"
    lists = table["embedding"].combine_chunks()
    numbers = lists.flatten().to_numpy()
    half = pa.FixedSizeListArray.from_arrays(pa.array(numbers.astype(np.float16)), 64)
    wide = pa.FixedSizeListArray.from_arrays(pa.array(numbers), 128)
    yield rewritten(index, made(b""), "embedding", half), "halffloat"
    yield rewritten(index, made(b""), "embedding", pa.array(lists.to_pylist(), pa.list_(pa.float32()))), "and not"
    wide = pa.concat_arrays([wide, wide])
    yield rewritten(index, made(b""), "embedding", wide), "[128] and not"
    missing = pa.array([None, *lists.to_pylist()[1:]], lists.type)
    yield rewritten(index, made(b""), "embedding", missing), "Row 0 of"
    holes = [*lists.to_pylist()[:5], [None] * 64]
    yield rewritten(index, made(b""), "embedding", pa.array(holes, lists.type)), "Row 5 of"
    pq.write_table(table.slice(0, 0), made(b""))
    yield path, "has no rows"


def test_a_damaged_index_is_one_line(
    coma_folder: Path, coma_command: Callable, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = load_model(str(coma_folder))
    monkeypatch.setattr("hub_scripts.common.loading.load_model", lambda *_: pair)  # once for all of them
    for number, (path, message) in enumerate(damaged(index, tmp_path)):
        code, text, error = coma_command("search", coma_folder, path, "an apple")
        assert (code, text, error.count("\n")) == (1, "", 1), (number, text, error)
        assert message in error and str(path) in error, number
    assert number > 40


def test_nothing_in_a_row_is_a_command_to_the_terminal(
    coma_folder: Path, coma_command: Callable, tmp_path: Path
) -> None:
    evil = "a\x1b[2J\x1b]0;title\x07 \u202eb\x9b31m\u2028c\tdé苹果\u200d"
    rows = [{"id": f"{evil}\nrank", "text": f"{evil}\n1 2 3"}, {"id": "", "text": "x" * 500}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "o.parquet"
    code, _, error = coma_command("embed", coma_folder, tmp_path / "t.jsonl", out)
    assert code == 0, error
    code, text, _ = coma_command("search", coma_folder, out, "apple")
    assert code == 0 and text.count("\n") == len(text.splitlines()) == 3
    assert all(letter.isprintable() or letter in "\n\u200d" for letter in text)
    assert r"a\x1b[2J\x1b]0;title\x07 \u202eb\x9b31m\u2028c\tdé苹果" in text and r"\nrank" in text
