"""Embeddings in files are those of `embed_items`; files of the same rows and model are kept, others are made anew."""

import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainers.encoding.encode import embed_items
from trainers.encoding.encoder import Encoder
from trainers.encoding.shards import EmbeddingShards, Part, ShardRows, embed_in_shards, open_shard


TEXTS = [f"{'a little ' * (place % 4)}apple number {place}" for place in range(11)]


def embed(coma: tuple, folder: Path, items: list = TEXTS, made_by: str = "m", **options: object) -> torch.Tensor:
    rows = items if isinstance(items, ShardRows) else ShardRows.of(items)
    options = {"shard_rows": 4, **options}
    files, _ = embed_in_shards(Encoder(*coma, batch_tokens=60), rows, folder, made_by=made_by, **options)
    assert set(files) <= set(folder.iterdir())
    return EmbeddingShards.open(files).take(np.arange(rows.num_rows))


def states(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_as_from_embed_items(make_coma: Callable, tmp_path: Path) -> None:
    coma = make_coma()
    expected = embed_items(*coma, TEXTS)
    assert torch.allclose(embed(coma, tmp_path), expected, atol=1e-6)
    found = EmbeddingShards.open(sorted(tmp_path.iterdir()))
    assert [len(array) for array in found.arrays] == [4, 4, 3]
    for rows in ([10, 0, 5, 5], list(range(11)), []):
        assert torch.allclose(found.take(np.array(rows, dtype=np.int64)), expected[rows], atol=1e-6)


def test_several_vectors_are_those_of_embed_items(make_coma: Callable, tmp_path: Path) -> None:
    coma = make_coma()
    rows = ShardRows.of(TEXTS)
    files, _ = embed_in_shards(Encoder(*coma, num_vectors=3), rows, tmp_path, made_by="m", shard_rows=4)
    columns = [open_shard(file)["vectors"].chunk(0) for file in files]
    found = np.concatenate([column.flatten().to_numpy().reshape(len(column), 3, -1) for column in columns])
    assert torch.allclose(torch.from_numpy(found), embed_items(*coma, TEXTS, num_vectors=3), atol=1e-6)
    assert torch.allclose(EmbeddingShards.open(files).take(np.arange(11)), embed_items(*coma, TEXTS), atol=1e-6)


def test_what_is_there_is_kept(make_coma: Callable, tmp_path: Path) -> None:
    coma = make_coma()
    with pytest.raises(ValueError, match="^Row 9"):
        embed(coma, tmp_path, [*TEXTS[:9], {"image": "nothing.png"}, TEXTS[10]])
    before = states(tmp_path)
    assert len(before) == 2
    assert torch.allclose(embed(coma, tmp_path), embed_items(*coma, TEXTS), atol=1e-6)
    after = states(tmp_path)
    assert len(after) == 3 and before.items() < after.items()

    changed = [TEXTS[0], "another", *TEXTS[2:]]
    assert torch.allclose(embed(coma, tmp_path, changed), embed_items(*coma, changed), atol=1e-6)
    kept = states(tmp_path)
    assert len(kept) == 3 and len(kept.items() & after.items()) == 2
    embed(coma, tmp_path, changed, made_by="other")
    assert not states(tmp_path).items() & kept.items()


def test_a_picture_that_was_changed_is_embedded_anew(make_coma: Callable, picture: Callable, tmp_path: Path) -> None:
    coma, files = make_coma(), [tmp_path / f"{number}.png" for number in range(6)]
    for number, file in enumerate(files):
        picture(28, 28, number).save(file)
    items = [[{"role": "user", "content": [{"type": "image", "image": str(file)}]}] for file in files]
    embed(coma, tmp_path / "parts", items)
    before = states(tmp_path / "parts")
    picture(28, 28, 7).save(files[5])
    found = embed(coma, tmp_path / "parts", items)
    assert torch.allclose(found, embed_items(*coma, items), atol=1e-6)
    assert len(states(tmp_path / "parts").items() & before.items()) == 1


def test_no_bit_of_a_shard_may_change(make_coma: Callable, tmp_path: Path) -> None:
    coma = make_coma()
    embed(coma, tmp_path)
    file = sorted(tmp_path.iterdir())[1]
    whole = file.read_bytes()
    changed = [whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :] for place in range(0, len(whole), 97)]
    for content in (*changed, whole[:-100], whole[:20], whole[:3], b"", b"no table at all", whole + b"\0"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{file.name} is damaged .*: remove it, and the same command makes it"):
            open_shard(file)
    others = {name: state for name, state in states(tmp_path).items() if name != file.name}
    embed(coma, tmp_path)
    assert file.read_bytes() == whole and others.items() < states(tmp_path).items()


def test_rows_without_an_embedding_are_for_skipping_only(make_coma: Callable, tmp_path: Path) -> None:
    coma = make_coma()
    items = ["an apple", ValueError("Row 1 of a table: it is odd."), {"image": b"no image"}, "a pear"]
    columns = {"image": [None, None, "c.png", None], "row": range(4), "id": ["a", "\ud800", "c", "d"]}

    def read(start: int, stop: int) -> Part:
        return Part(items[start:stop], {name: list(values)[start:stop] for name, values in columns.items()})

    with pytest.raises(ValueError, match="^Row 1 of a table: it is odd"):
        embed(coma, tmp_path, ShardRows(4, read))
    files, number = embed_in_shards(Encoder(*coma), ShardRows(4, read), tmp_path, made_by="m", skip_errors=True)
    table = open_shard(files[0])
    assert number == 2 and table["row"].to_pylist() == [0, 1, 2, 3]
    assert table["id"].to_pylist() == ["a", r"\ud800", "c", "d"]
    errors = table["error"].to_pylist()
    assert errors[:2] + errors[3:] == [None, "Row 1 of a table: it is odd.", None]
    assert errors[2].startswith("Row 2: cannot decode") and errors[2].endswith("; the file is 'c.png'.")
    assert embed_in_shards(Encoder(*coma), ShardRows(4, read), tmp_path, made_by="m", skip_errors=True)[1] == 0
    with pytest.raises(ValueError, match="^Row 1 of a table"):
        embed_in_shards(Encoder(*coma), ShardRows(4, read), tmp_path, made_by="m")


def test_a_shard_has_a_row_or_more(make_coma: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard_rows=0 must be 1 or more"):
        embed(make_coma(), tmp_path, shard_rows=0)


def test_an_item_is_called_by_its_name(make_coma: Callable, tmp_path: Path) -> None:
    class Named(list):
        def name(self, row: int) -> str:
            return f"Row {2 * row}: query"

    with pytest.raises(ValueError, match="^Row 18: query: cannot decode the image 'nothing.png'"):
        embed(make_coma(), tmp_path, Named([*TEXTS[:9], {"image": "nothing.png"}, TEXTS[10]]))


def test_a_full_disk_is_said_and_leaves_nothing(make_coma: Callable, tmp_path: Path) -> None:
    """A limit on the size of files stands for it."""
    coma, limits = make_coma(), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(OSError, match=r"000000000000.arrow cannot be written: .*File too large"):
            embed(coma, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
