"""A digest tells contents apart, and is the same for the same content in another place and under another name."""

import hashlib
import os
from pathlib import Path

from datasets import Dataset

from hub_scripts.common.data_digest import BLOCK, data_digest


def test_of_a_file_it_is_that_of_b2sum(tmp_path: Path) -> None:
    content = b'{"query": "a"}\n' * 100_000
    first, second = tmp_path / "a.jsonl", tmp_path / "other" / "b.jsonl"
    second.parent.mkdir()
    first.write_bytes(content)
    second.write_bytes(content)
    expected = hashlib.blake2b(content, digest_size=16).hexdigest()
    assert data_digest(str(first)) == data_digest(str(second)) == f"blake2b-128:{expected}"
    second.write_bytes(content[:-2] + b"]\n")
    assert data_digest(str(second)) != data_digest(str(first))


def test_of_a_large_file_blocks_are_read_and_it_says_so(tmp_path: Path) -> None:
    """The beginning, the end and the size count; what is read stays within the limit."""
    file, content = tmp_path / "a.tar", bytearray(os.urandom(4 * BLOCK))
    file.write_bytes(content)
    digests = {data_digest(str(file), most_read=2 * BLOCK)}
    for changed in (bytes([content[0] ^ 1]) + content[1:], content[:-1] + bytes([content[-1] ^ 1]), content + b"x"):
        file.write_bytes(changed)
        digests.add(data_digest(str(file), most_read=2 * BLOCK))
    assert len(digests) == 4 and all(digest.startswith("blake2b-128 of samples:") for digest in digests)


def test_of_a_folder_and_of_shards(tmp_path: Path) -> None:
    Dataset.from_dict({"query": ["a", "b"]}).save_to_disk(tmp_path / "saved")
    whole = data_digest(str(tmp_path / "saved"))
    (tmp_path / "saved").rename(tmp_path / "moved")
    (tmp_path / "moved" / "notes.txt").write_text("mine")
    assert data_digest(str(tmp_path / "moved")) == whole
    for number in range(2):
        (tmp_path / f"{number}.tar").write_bytes(b"shard" * number)
    shards = data_digest(str(tmp_path / "*.tar"))
    (tmp_path / "1.tar").write_bytes(b"Shard")
    assert None not in (whole, shards) and len({whole, shards, data_digest(str(tmp_path / "*.tar"))}) == 3


def test_what_is_no_file_has_none(tmp_path: Path) -> None:
    assert data_digest("emoji") is None and data_digest(str(tmp_path / "none.jsonl")) is None
