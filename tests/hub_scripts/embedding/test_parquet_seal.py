"""A footer of Parquet that has changed is known, whatever has changed in it."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hub_scripts.embedding.parquet_seal import check_seal, seal


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": range(10), "b": ["x"] * 10}), path, row_group_size=4)
    seal(path)
    return path


def test_other_readers_read_a_sealed_file(sealed: Path) -> None:
    check_seal(sealed)
    assert pq.read_table(sealed).to_pydict() == {"a": list(range(10)), "b": ["x"] * 10}
    assert pq.ParquetFile(sealed, memory_map=True).read_row_group(1)["a"].to_pylist() == [4, 5, 6, 7]


def test_no_bit_of_the_footer_may_change(sealed: Path) -> None:
    data = sealed.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for place in range(start, len(data) - 8):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        sealed.write_bytes(changed)
        with pytest.raises(OSError, match="its footer has changed"):
            check_seal(sealed)


def test_what_another_program_has_written_is_not_checked(sealed: Path) -> None:
    buffer = io.BytesIO()
    pq.write_table(pq.read_table(sealed), buffer)
    sealed.write_bytes(buffer.getvalue())
    check_seal(sealed)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 100, b"PAR1\xff\xff\xff\xffPAR1", b"PAR1" + b"\0" * 8])
def test_what_is_no_parquet_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(OSError, match="does not end as a Parquet file does"):
        check_seal(tmp_path / "t")
