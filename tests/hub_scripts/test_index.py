"""`coma index`: what it finds is what a scan finds, what is added and deleted is that, and a build is whole or not."""

import multiprocessing
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from hub_scripts import build_index, delete_rows
from hub_scripts.embedding.index import with_ranges, write_file
from hub_scripts.embedding.lance_index import open_index
from hub_scripts.embedding.nearest import nearest as scan
from trainers.files import one_writer


ROOT = Path(__file__).resolve().parents[2]
DIM = 32


def write_store(
    path: Path, num_rows: int, seed: int = 0, prefix: str = "", precision: str = "float32", **made
) -> Path:
    """A file as of `coma embed`: vectors in clusters, ids of all kinds, texts of some rows."""
    generator = np.random.default_rng(seed)
    clusters = np.random.default_rng(99).standard_normal((20, DIM))
    vectors = clusters[generator.integers(0, 20, num_rows)] + 0.7 * generator.standard_normal((num_rows, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    table = pa.table(
        {
            "row": range(num_rows),
            "id": [f'{prefix}{row}\'s "photo".png' for row in range(num_rows)],
            "text": [
                None if row % 5 == 0 else f"it is {'red' if row % 3 else 'blue'}, {row}" for row in range(num_rows)
            ],
            "image": pa.nulls(num_rows, pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM),
            "error": pa.nulls(num_rows, pa.string()),
        }
    )
    metadata = {"model": "org/a", "num_compression_tokens": 4, "probe": [1.0, 0.0], "dim": DIM, **made}
    metadata = with_ranges({**metadata, "precision": precision}, [table])
    write_file(path, [table.slice(start, 500) for start in range(0, num_rows, 500)], metadata)
    return path


def queries(number: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(number, DIM, generator=torch.manual_seed(1)))


def ids(hits: list) -> list[str]:
    return [hit.row["id"] for hit in hits]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "rows.parquet", 3000)


@pytest.fixture(scope="module")
def index(store: Path) -> Path:
    """Nobody writes to it."""
    build_index(store, store.with_name("rows.index"))
    return store.with_name("rows.index")


@pytest.fixture
def own_index(index: Path, tmp_path: Path) -> Path:
    return shutil.copytree(index, tmp_path / "own.index")


def test_without_lancedb_it_says_what_to_install(
    coma_command: Callable, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    code, _, error = coma_command("index", store, tmp_path / "out")
    assert code == 1 and error.count("\n") == 1
    assert error.endswith('An index needs LanceDB: pip install "coma-embedding[index]"\n')
    assert not any(tmp_path.iterdir())
    (tmp_path / "i" / "rows.lance").mkdir(parents=True)
    assert 'pip install "coma-embedding[index]"' in coma_command("search", "model", tmp_path / "i", "x")[2]


def test_command_lines_that_are_wrong(coma_command: Callable, store: Path, tmp_path: Path) -> None:
    for words in ([store], [store, tmp_path / "o", "--delete", "true"], [store, "--delete", "true", "--append"]):
        with pytest.raises(SystemExit) as stop:
            coma_command("index", *words)
        assert stop.value.code == 2
    code, _, error = coma_command("search", "model", store, "x", "--where", "row < 3")
    assert code == 1 and "--where is for an index" in error


@pytest.mark.extras
@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "ubinary"])
def test_few_rows_are_found_exactly(store: Path, tmp_path: Path, precision: str) -> None:
    if precision != "float32":
        store = write_store(tmp_path / "rows.parquet", 3000, precision=precision)
    made = build_index(store, tmp_path / "i")
    assert made.num_rows == made.num_added == 3000 and made.is_exact and not made.num_replaced
    opened = open_index(tmp_path / "i")
    for query in queries(10):
        found, expected = opened.nearest(query, 10), scan(store, query, 10)
        if precision != "ubinary":  # whose signs may leave out what an index finds, which has the int8 alone
            assert [hit.row for hit in found] == [hit.row for hit in expected]
        scores = {hit.row["row"]: hit.score for hit in found}
        tolerance = 1e-6 if precision == "float32" else 1e-3
        common = [hit for hit in expected if hit.row["row"] in scores]
        assert common and all(abs(scores[hit.row["row"]] - hit.score) < tolerance for hit in common)
    assert ids(opened.nearest(query, 5000)) == ids(opened.nearest(query, 3000))
    assert len(opened.nearest(query, 5000)) == 3000


@pytest.mark.extras
def test_many_rows_have_an_ann_index_that_finds_nearly_all(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("lance_build", "lance_index"):
        monkeypatch.setattr(f"hub_scripts.embedding.{module}.ANN_ROWS", 2000)
    monkeypatch.setattr("hub_scripts.embedding.lance_build.ROWS_OF_A_PARTITION", 300)
    monkeypatch.setattr("hub_scripts.embedding.lance_index.PARTITIONS_LOOKED_AT", 7)
    told: list[str] = []
    made = build_index(store, tmp_path / "i", tell=told.append)
    assert not made.is_exact and "3000 rows" in told[0]
    opened, shares = open_index(tmp_path / "i"), []
    for query in queries(20):
        expected = scan(store, query, 10)
        found = opened.nearest(query, 10)
        assert [hit.row for hit in opened.nearest(query, 10, is_exact=True)] == [hit.row for hit in expected]
        shares.append(len(set(ids(found)) & set(ids(expected))) / 10)
        scores = dict(zip(ids(expected), (hit.score for hit in expected), strict=True))
        assert all(abs(hit.score - scores.get(hit.row["id"], hit.score)) < 1e-5 for hit in found)
    assert 0.8 < np.mean(shares)
    # More than there are in the partitions that are looked at, and a filter that leaves few.
    assert len(opened.nearest(query, 2900)) == 2900
    assert ids(opened.nearest(query, 5, "row IN (7, 2000)")) in (
        [f'{a}\'s "photo".png', f'{b}\'s "photo".png'] for a, b in ((7, 2000), (2000, 7))
    )
    # What is added later is found, and in the index.
    more = write_store(tmp_path / "more.parquet", 500, seed=5, prefix="more ")
    build_index(more, tmp_path / "i", append=True)
    opened = open_index(tmp_path / "i")
    assert opened.table.index_stats("embedding_idx").num_unindexed_rows == 0
    best = opened.nearest(torch.from_numpy(first_vector(more)), 1)
    assert ids(best) == ['more 0\'s "photo".png'] and best[0].score > 0.999


def first_vector(store: Path) -> np.ndarray:
    from hub_scripts.embedding.store import read_vectors

    return next(read_vectors(store)).embeddings[0]


@pytest.mark.extras
def test_filters_are_those_of_pandas(store: Path, index: Path) -> None:
    frame = pd.DataFrame([hit.row for hit in scan(store, queries(1)[0], 3000)])  # in the order of the search
    opened = open_index(index)
    for where, mask in {
        "text LIKE '%red%'": frame["text"].str.contains("red", na=False),
        "text IS NULL AND row > 1000": frame["text"].isna() & (frame["row"] > 1000),
        "id = '17''s \"photo\".png' OR row IN (3, 4)": frame["row"].isin([3, 4, 17]),
        "row BETWEEN 10 AND 30": frame["row"].between(10, 30),
        "false": frame["row"] < 0,
    }.items():
        assert opened.count(where) == mask.sum()
        found = opened.nearest(queries(1)[0], 12, where)
        assert [hit.row["row"] for hit in found] == frame["row"][mask][:12].tolist(), where


@pytest.mark.extras
@pytest.mark.parametrize(
    "where",
    [
        "tex = 'a'",
        "text = '",
        "true; DROP TABLE rows",
        "true LIMIT 1",
        "",
        "row",
        "1 = 1 UNION SELECT 1",
        "embedding = 3",
    ],
)
def test_a_condition_that_is_none_is_one_line(
    coma_command: Callable, index: Path, own_index: Path, where: str
) -> None:
    with pytest.raises(ValueError, match="cannot be used: ") as error:
        open_index(index).nearest(queries(1)[0], 3, where)
    assert repr(where) in str(error.value) and "\n" not in str(error.value) and ".rs:" not in str(error.value)
    code, _, error = coma_command("index", own_index, "--delete", where)
    assert code == 1 and error.count("\n") == 1 and open_index(own_index).count() == 3000


@pytest.mark.extras
def test_rows_are_added_replaced_and_deleted(
    coma_command: Callable, store: Path, own_index: Path, tmp_path: Path
) -> None:
    before = open_index(own_index)
    more = write_store(tmp_path / "more.parquet", 40, seed=5, prefix="more ")
    assert build_index(more, own_index, append=True)[:3] == (3040, 40, 0)
    (hit,) = open_index(own_index).nearest(torch.from_numpy(first_vector(more)), 1)
    assert hit.row["id"].startswith("more 0") and hit.row["row"] == 0
    assert before.count() == 3000  # whoever had opened it goes on with what there was

    code, _, error = coma_command("index", more, own_index, "--append")
    assert code == 1 and "'more 0\\'s \"photo\".png'" in error and "39 others" in error and "--replace" in error
    changed = write_store(tmp_path / "changed.parquet", 60, seed=6, prefix="more ")
    code, text, _ = coma_command("index", changed, own_index, "--replace")
    assert code == 0 and "3060 rows in" in text and "20 added, 40 replaced" in text and "exact" in text
    (hit,) = open_index(own_index).nearest(torch.from_numpy(first_vector(changed)), 1)
    assert hit.row["id"].startswith("more 0") and hit.score > 0.999
    (old,) = open_index(own_index).nearest(torch.from_numpy(first_vector(more)), 1)
    assert old.score < 0.999

    code, text, _ = coma_command("index", own_index, "--delete", "id LIKE 'more %' AND row < 50")
    assert code == 0 and text.startswith("50 rows deleted from ")
    assert delete_rows(own_index, "id LIKE 'more %' AND row < 50") == 0
    assert delete_rows(own_index, "id LIKE 'more %'") == 10
    expected = scan(store, queries(1)[0], 10)
    assert [hit.row for hit in open_index(own_index).nearest(queries(1)[0], 10)] == [hit.row for hit in expected]
    assert delete_rows(own_index, "true") == 3000
    with pytest.raises(ValueError, match="has no rows"):
        open_index(own_index).nearest(queries(1)[0], 1)


@pytest.mark.extras
def test_what_is_not_of_one_model_is_refused(own_index: Path, tmp_path: Path) -> None:
    for number, (made, message) in enumerate(
        (
            ({"probe": [0.0, 1.0], "model": "org/b"}, "model ('org/a', and another one, 'org/b')"),
            ({"num_compression_tokens": 8}, "num_compression_tokens (4, now 8)"),
            ({"precision": "float16"}, "precision ('float32', now 'float16')"),
        )
    ):
        other = write_store(tmp_path / f"{number}.parquet", 5, prefix="other ", **made)
        for how in ({"append": True}, {"replace": True}):
            with pytest.raises(ValueError, match="do not fit together") as error:
                build_index(other, own_index, **how)
            assert (
                message in str(error.value) and str(own_index) in str(error.value) and str(other) in str(error.value)
            )
    assert open_index(own_index).count() == 3000


@pytest.mark.extras
def test_an_id_that_is_there_twice_is_not_replaced(own_index: Path, tmp_path: Path) -> None:
    twice = write_store(tmp_path / "twice.parquet", 5, prefix="x ")
    table = pa.parquet.read_table(twice)
    double = pa.concat_tables([table, table])
    table = double.append_column("error", pa.nulls(10, pa.string()))
    write_file(tmp_path / "double.parquet", [table], with_ranges(dict(open_index(own_index).metadata), []))
    with pytest.raises(ValueError, match="more than once") as error:
        build_index(tmp_path / "double.parquet", own_index, replace=True)
    assert "double.parquet" in str(error.value)
    build_index(tmp_path / "double.parquet", own_index, append=True)  # as `coma embed` lets it
    with pytest.raises(ValueError, match="more than once") as error:
        build_index(twice, own_index, replace=True)
    assert str(own_index) in str(error.value)


@pytest.mark.extras
def test_vectors_of_another_length_and_damaged_stores_are_refused(store: Path, tmp_path: Path) -> None:
    table = pa.parquet.read_table(store)
    numbers = table["embedding"].combine_chunks().flatten().to_numpy().copy()
    numbers[7 * DIM : 8 * DIM] *= 2
    lists = pa.FixedSizeListArray.from_arrays(pa.array(numbers), DIM)
    longer = table.set_column(4, "embedding", lists).append_column("error", pa.nulls(3000, pa.string()))
    metadata = {"model": "org/a", "num_compression_tokens": 4, "probe": [1.0], "dim": DIM}
    write_file(tmp_path / "long.parquet", [longer], with_ranges(metadata, []))
    with pytest.raises(ValueError, match=r"^Row 7 of .* length 2.* search the store itself"):
        build_index(tmp_path / "long.parquet", tmp_path / "i")
    data = bytearray(store.read_bytes())
    place = data.find(table["embedding"].to_numpy()[2500].tobytes())
    data[place] ^= 1
    (tmp_path / "bad.parquet").write_bytes(data)
    with pytest.raises(ValueError, match=r"bad.parquet cannot be read as Parquet"):
        build_index(tmp_path / "bad.parquet", tmp_path / "i")
    assert {path.name for path in tmp_path.iterdir()} == {"long.parquet", "bad.parquet"}


KILLED = """
import os, signal, sys
import hub_scripts.embedding.lance_build as build
from hub_scripts import build_index
setattr(build, sys.argv[3], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
build_index(sys.argv[1], sys.argv[2], append="append" in sys.argv)
"""


@pytest.mark.extras
def test_a_build_that_was_killed_is_no_index_and_is_made_anew(
    coma_command: Callable, store: Path, own_index: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, store, out, "_cover"], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL and not out.exists()
    assert any(path.name.startswith(".out") for path in tmp_path.iterdir())
    code, text, _ = coma_command("index", store, out)
    assert code == 0 and text.startswith("3000 rows in ")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "own.index"}
    # Of an index that was there, what is written is there as a whole.
    more = write_store(tmp_path / "more.parquet", 40, prefix="more ")
    words = [sys.executable, "-c", KILLED, more, own_index]
    subprocess.run([*words, "_check_lengths", "append"], cwd=ROOT, check=False)
    assert open_index(own_index).count() == 3000
    subprocess.run([*words, "_cover", "append"], cwd=ROOT, check=False)
    assert open_index(own_index).count() == 3040
    assert "'more 0" in coma_command("index", more, own_index, "--append")[2]


@pytest.mark.extras
def test_a_full_disk_is_one_line_and_loses_nothing(
    coma_command: Callable, store: Path, own_index: Path, tmp_path: Path
) -> None:
    more = write_store(tmp_path / "more.parquet", 3000, prefix="more ")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        for words in ([store, tmp_path / "out"], [more, own_index, "--append"]):
            code, _, error = coma_command("index", *words)
            assert code == 1 and error.count("\n") == 1 and "cannot be written" in error, error
            assert str(words[1]) in error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out").exists() and open_index(own_index).count() == 3000
    assert build_index(more, own_index, append=True).num_rows == 6000


@pytest.mark.extras
def test_what_is_damaged_or_strange_is_one_line(
    coma_command: Callable, store: Path, index: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "i"
    files = [file.relative_to(index) for file in index.rglob("*") if file.is_file()]
    refused = set()
    for file in files:
        for content in (b"", b"\0" * 500, (index / file).read_bytes()[:-9]):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(index, folder)
            (folder / file).write_bytes(content)
            try:
                assert len(open_index(folder).nearest(queries(1)[0], 3)) == 3
            except ValueError as error:
                assert str(folder) in str(error) and "\n" not in str(error)
                refused.add(file.parent.name)
    assert refused >= {"data", "_versions"}
    for place in (store, tmp_path / "nothing", tmp_path):
        with pytest.raises(ValueError, match="is no index"):
            open_index(place)
    for words in ([store, tmp_path], [store, store]):
        code, _, error = coma_command("index", *words)
        assert code == 1 and "is there already" in error
    assert "is no index" in coma_command("index", store, tmp_path / "nothing", "--append")[2]


@pytest.mark.extras
def test_another_version_is_refused(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setattr("hub_scripts.embedding.lance_index.FORMAT", 2)
        build_index(store, tmp_path / "i")
    with pytest.raises(ValueError, match="is of version 2, and this `coma` reads 1"):
        open_index(tmp_path / "i")


def ask(index: Path, query: torch.Tensor) -> list:
    """What another process finds."""
    return open_index(index).nearest(query, 5)


@pytest.mark.extras
def test_there_is_one_writer_and_many_readers(coma_command: Callable, store: Path, own_index: Path) -> None:
    with one_writer(own_index):
        for words in ([store, own_index, "--append"], [own_index, "--delete", "true"]):
            code, _, error = coma_command("index", *words)
            assert code == 1 and f"Another process is writing {own_index}" in error
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            found = pool.starmap(ask, [(own_index, query) for query in queries(4)])
    assert found == [open_index(own_index).nearest(query, 5) for query in queries(4)]


@pytest.mark.extras
def test_search_takes_an_index_in_place_of_the_file(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    lines = ["a red apple", "a green tree", "leaves, and a little sky", "what is around it"]
    (tmp_path / "t.txt").write_text("".join(f"{line}\n" for line in lines))
    assert coma_command("embed", coma_folder, tmp_path / "t.txt", tmp_path / "t.parquet")[0] == 0
    assert coma_command("index", tmp_path / "t.parquet", tmp_path / "i")[0] == 0
    expected = coma_command("search", coma_folder, tmp_path / "t.parquet", "a red apple")
    for words in ([], ["--exact"], ["--where", "true"]):
        assert coma_command("search", coma_folder, tmp_path / "i", "a red apple", *words)[:2] == expected[:2]
    code, text, _ = coma_command("search", coma_folder, tmp_path / "i", "a red apple", "--where", "text LIKE '%sky'")
    assert code == 0 and text.count("\n") == 2 and text.endswith("leaves, and a little sky\n")
