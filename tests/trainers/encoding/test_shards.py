"""Embeddings in files are those of `embed_items`; files of the same items and model are kept, others are not."""

import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainers.encoding.encode import embed_items
from trainers.encoding.shards import EmbeddingShards, embed_in_shards


TEXTS = [f"{'a little ' * (place % 4)}apple number {place}" for place in range(11)]


def embed(coma: tuple, folder: Path, texts: list = TEXTS, made_by: str = "m", shard_rows: int = 4) -> EmbeddingShards:
    keys = [hash(str(text)) for text in texts]
    return embed_in_shards(*coma, texts, keys, folder, made_by=made_by, shard_rows=shard_rows, batch_tokens=60)


def states(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_as_from_embed_items(make_coma: Callable, tmp_path: Path) -> None:
    coma = make_coma()
    found, expected = embed(coma, tmp_path), embed_items(*coma, TEXTS)
    assert len(found) == len(TEXTS) and [len(array) for array in found.arrays] == [4, 4, 3]
    for rows in ([10, 0, 5, 5], list(range(11)), []):
        assert torch.allclose(found.take(np.array(rows, dtype=np.int64)), expected[rows], atol=1e-6)


def test_what_is_there_is_kept(make_coma: Callable, tmp_path: Path) -> None:
    coma = make_coma()
    with pytest.raises(ValueError, match="^Row 9"):
        embed(coma, tmp_path, [*TEXTS[:9], {"image": "nothing.png"}, TEXTS[10]])
    before = states(tmp_path)
    assert len(before) == 2
    found = embed(coma, tmp_path)
    after = states(tmp_path)
    assert len(after) == 3 and before.items() < after.items()
    assert torch.allclose(found.take(np.arange(11)), embed_items(*coma, TEXTS), atol=1e-6)

    changed = [TEXTS[0], "another", *TEXTS[2:]]
    assert torch.allclose(embed(coma, tmp_path, changed).take(np.arange(11)), embed_items(*coma, changed), atol=1e-6)
    kept = states(tmp_path)
    assert len(kept) == 3 and len(kept.items() & after.items()) == 2
    embed(coma, tmp_path, changed, made_by="other")
    assert not states(tmp_path).keys() & kept.keys()


def test_a_picture_that_was_changed_is_embedded_anew(make_coma: Callable, picture: Callable, tmp_path: Path) -> None:
    coma, files = make_coma(), [tmp_path / f"{number}.png" for number in range(6)]
    for number, file in enumerate(files):
        picture(28, 28, number).save(file)
    items = [[{"role": "user", "content": [{"type": "image", "image": str(file)}]}] for file in files]
    embed(coma, tmp_path / "parts", items)
    before = states(tmp_path / "parts")
    picture(28, 28, 7).save(files[5])
    found = embed(coma, tmp_path / "parts", items)
    assert torch.allclose(found.take(np.arange(6)), embed_items(*coma, items), atol=1e-6)
    assert len(states(tmp_path / "parts").items() & before.items()) == 1


def test_a_damaged_file_is_named(make_coma: Callable, tmp_path: Path) -> None:
    coma = make_coma()
    embed(coma, tmp_path)
    file = sorted(tmp_path.iterdir())[1]
    whole = file.read_bytes()
    array = np.load(file)
    array[2, 3] = np.nan
    for content in (whole[:-100], whole[:20], b"", b"no array at all", whole[:128] + array.tobytes()):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{file.name} is damaged .*: remove it, and the same command makes it"):
            embed(coma, tmp_path)
    file.unlink()
    assert len(embed(coma, tmp_path)) == 11 and file.read_bytes() == whole


def test_an_item_is_called_by_its_name(make_coma: Callable, tmp_path: Path) -> None:
    texts = [*TEXTS[:9], {"image": "nothing.png"}, TEXTS[10]]

    class Named(list):
        def name(self, place: int) -> str:
            return f"Row {2 * place}: query"

    options = {"made_by": "m", "shard_rows": 4}
    with pytest.raises(ValueError, match="^Row 18: query: cannot decode the image 'nothing.png'"):
        embed_in_shards(*make_coma(), Named(texts), list(range(11)), tmp_path, **options)


def test_a_full_disk_is_said_and_leaves_nothing(make_coma: Callable, tmp_path: Path) -> None:
    """A limit on the size of files stands for it."""
    coma, limits = make_coma(), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"000000000000-\w+.npy cannot be written: .*File too large"):
            embed(coma, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
