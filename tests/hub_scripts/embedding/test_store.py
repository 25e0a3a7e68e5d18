"""A file and a folder of files are read alike, in any precision; what does not belong together is refused by name."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hub_scripts.common.arguments import PRECISIONS
from hub_scripts.embedding.index import with_ranges, write_file
from hub_scripts.embedding.nearest import nearest
from hub_scripts.embedding.precision import VectorForm
from hub_scripts.embedding.store import index_metadata, read_vectors


def everything(path: Path, rows_at_a_time: int = 64) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    pieces = list(read_vectors(path, rows_at_a_time))
    assert all(piece.embeddings.dtype == np.float32 and len(piece.rows) <= rows_at_a_time for piece in pieces)
    numbers, embeddings = (np.concatenate(some) for some in list(zip(*pieces, strict=True))[:2])
    return numbers, embeddings, pa.concat_tables(piece.rows for piece in pieces).to_pylist()


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub_scripts.embedding.index.SHARDS_OF_A_FILE", 2)


@pytest.mark.parametrize("dims", [None, 12])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_folder_is_read_as_a_file(as_index: Callable, clustered: Callable, precision: str, dims: int | None) -> None:
    vectors, cut = clustered(510, 32), {} if dims is None else {"dims": dims}
    file = as_index(vectors, precision=precision, **cut)
    folder = as_index(vectors, "folder", precision=precision, **cut)
    assert sorted(path.name for path in folder.iterdir()) == [f"part-0000{n}.parquet" for n in range(3)]
    of_file, of_folder = everything(file), everything(folder)
    for one, other in zip(of_file[:2], of_folder[:2], strict=True):
        assert np.array_equal(one, other)
    assert of_file[2] == of_folder[2]
    assert of_file[0].tolist() == list(range(510)) and of_file[1].shape == (510, dims or 32)
    assert of_file[2][7] == {"row": 7, "id": "n7", "text": "text 7", "image": None}
    assert np.allclose(np.linalg.norm(of_file[1], axis=1), 1, atol=1e-5)
    assert index_metadata(folder) == index_metadata(file) | {"num_files": 3}
    query = torch.from_numpy(vectors[300])
    assert nearest(file, query, 9) == nearest(folder, query, 9)


def test_files_that_others_wrote_into_a_folder_have_ranges_of_their_own(
    as_index: Callable, clustered: Callable, tmp_path: Path
) -> None:
    """As processes that do not know of each other's rows write them."""
    vectors, folder = clustered(400, 32), tmp_path / "made"
    whole = pq.read_table(as_index(vectors)).append_column("error", pa.nulls(400, pa.string()))
    folder.mkdir()
    for number in range(4):
        tables = [whole.slice(100 * number, 60), whole.slice(100 * number + 60, 40)]
        metadata = {"model": "m", "num_compression_tokens": 4, "probe": [0.5, 0.25], "dim": 32, "precision": "int8"}
        write_file(folder / f"part-{number:05d}.parquet", tables, with_ranges(metadata, tables))
    numbers, embeddings, rows = everything(folder)
    assert numbers.tolist() == [row["row"] for row in rows] == list(range(400))
    assert np.abs(embeddings - vectors).max() < 5e-3
    assert nearest(folder, torch.from_numpy(vectors[222]), 1)[0].row["row"] == 222


def changed(path: Path, change: Callable = lambda made: made, table: Callable = lambda table: table) -> None:
    """Another program's copy of a file in its place, with other metadata or another table."""
    found = pq.read_table(path)
    made = change(json.loads(found.schema.metadata[b"coma"]))
    pq.write_table(table(found).replace_schema_metadata({"coma": json.dumps(made)}), path)


def test_an_older_file_is_in_float32(as_index: Callable, clustered: Callable) -> None:
    vectors = clustered(120, 32)
    path = as_index(vectors)
    hits = nearest(path, torch.from_numpy(vectors[5]), 4)
    changed(path, lambda made: {name: value for name, value in made.items() if name not in ("dims", "precision")})
    assert b"precision" not in pq.read_schema(path).metadata[b"coma"]
    made = index_metadata(path)
    assert (made["dims"], made["precision"]) == (32, "float32")
    assert np.array_equal(everything(path)[1], vectors) and nearest(path, torch.from_numpy(vectors[5]), 4) == hits


def replaced(**values: object) -> Callable[[dict], dict]:
    return lambda made: {**made, **values}


def strange_folders(as_index: Callable, vectors: np.ndarray) -> Iterator[tuple[Path, str]]:
    """Folders that are no index, and what is said of each."""
    good = as_index(vectors, "good", precision="int8")
    folder = good.with_name("folder")

    def made() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(good, folder))

    def with_other(**metadata: object) -> Path:
        other = as_index(vectors, "other", **metadata)
        (other / "part-00001.parquet").replace(made() / "part-00001.parquet")
        shutil.rmtree(other)
        return folder

    both = "part-00000.parquet and .*part-00001.parquet are of two indexes"
    yield with_other(precision="float16"), f"{both}: precision \\('int8', now 'float16'\\)"
    yield with_other(precision="int8", dims=16), f"{both}: dims \\(32, now 16\\)"
    yield with_other(precision="int8", model="n", probe=[0.9, 0.9]), f"{both}: model \\('m', now 'n'\\)"
    yield with_other(precision="int8", num_compression_tokens=5), f"{both}: num_compression_tokens \\(4, now 5\\)"
    (made() / "part-00001.parquet").unlink()
    yield folder, "has no part-00001.parquet"
    (made() / "part-00002.parquet").unlink()
    yield folder, "has 2 files and was made of 3"
    shutil.rmtree(made())
    folder.mkdir()
    yield folder, "has no part-00000.parquet"
    data = bytearray((made() / "part-00002.parquet").read_bytes())
    data[len(data) // 3] ^= 1
    (folder / "part-00002.parquet").write_bytes(data)
    yield folder, "part-00002.parquet cannot be read as Parquet"


def test_what_does_not_belong_together_is_refused(as_index: Callable, clustered: Callable) -> None:
    vectors = clustered(510, 32)
    for number, (folder, message) in enumerate(strange_folders(as_index, vectors)):
        with pytest.raises(ValueError, match=message) as raised:
            nearest(folder, torch.from_numpy(vectors[0]), 5)
        assert "\n" not in str(raised.value), number
        if number < 6:
            with pytest.raises(ValueError, match=message):
                index_metadata(folder)


def without(column: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns(column)


def with_missing(column: str) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = [*table[column].to_pylist()[:3], None, *table[column].to_pylist()[4:]]
        return table.set_column(table.schema.get_field_index(column), column, pa.array(values, table[column].type))

    return change


WRONG_RANGES = [None, [], [[0.0] * 32], [[0.0] * 31, [1.0] * 31], [[0.0] * 32, [1.0] * 31], [[1.0] * 32, [0.0] * 32]]
WRONG_RANGES += [[[0.0] * 32, [float("nan")] * 32], [[0.0] * 32, [float("inf")] * 32], [["0"] * 32, [1.0] * 32], "no"]


@pytest.mark.parametrize("precision", ["int8", "ubinary"])
def test_damaged_files_are_one_line(as_index: Callable, clustered: Callable, precision: str, tmp_path: Path) -> None:
    vectors = clustered(90, 32)
    good, path = as_index(vectors, precision=precision), tmp_path / "bad.parquet"
    cases = [({"change": replaced(ranges=ranges)}, "'ranges' is") for ranges in WRONG_RANGES]
    cases += [({"change": replaced(dims=dims)}, "'dims' is") for dims in (0, 33, "x", None)]
    cases += [({"change": replaced(precision=value)}, "'precision' is") for value in ("int4", None, 8)]
    cases += [({"change": replaced(precision="float32", ranges=None)}, "fixed_size_binary.* and not fixed_size_list")]
    cases += [({"change": replaced(dims=16, ranges=[[0.0] * 16, [1.0] * 16])}, r"\[32\] and not .*\[16\]")]
    cases += [({"table": without("embedding")}, "has no column 'embedding'")]
    cases += [({"table": with_missing("embedding")}, "Row 3 of .*bad.parquet has no embedding")]
    cases += [({"table": lambda table: table.slice(0, 0)}, "has no rows")]
    if precision == "ubinary":
        cases += [
            ({"table": without("bits")}, "has no column 'bits'"),
            ({"table": with_missing("bits")}, "has no bits"),
        ]
    for number, (change, message) in enumerate(cases):
        shutil.copy(good, path)
        changed(path, **change)
        with pytest.raises(ValueError, match=message) as raised:
            nearest(path, torch.from_numpy(vectors[0]), 5)
        assert str(path) in str(raised.value) and "\n" not in str(raised.value), number


def test_float16_that_is_not_finite_is_named(as_index: Callable, clustered: Callable) -> None:
    vectors = clustered(90, 32)
    path = as_index(vectors, precision="float16")

    def with_nan(table: pa.Table) -> pa.Table:
        numbers = np.stack(table["embedding"].to_numpy())
        numbers[41, 3] = np.nan
        return table.set_column(
            table.schema.names.index("embedding"), "embedding", VectorForm(32, "float16").encode(numbers)
        )

    changed(path, table=with_nan)
    with pytest.raises(ValueError, match="Row 41 of .* has numbers that are not finite"):
        nearest(path, torch.from_numpy(vectors[0]), 5)


def test_a_vector_whose_first_numbers_are_0_cannot_be_cut(as_index: Callable, clustered: Callable) -> None:
    vectors = clustered(150, 32)
    vectors[107, :8] = 0
    with pytest.raises(ValueError, match="Row 107: the first 8 numbers of its embedding are all 0"):
        as_index(vectors, dims=8, precision="int8")
    assert index_metadata(as_index(vectors, "good.parquet", dims=9, precision="int8"))["dims"] == 9
