"""Malformed WebDataset shards: a sample is an image and a text with its number."""

import gzip
import io
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.malformed.cases import Case
from tests.malformed.images import picture
from tests.malformed.tables import ROWS, Rows, at_most
from trainers.data.pairs import PairColumns
from trainers.data.webdataset import stream_pairs


__all__ = ["shard_cases"]

Sample = list[tuple[str, bytes | None]]  # names of members and contents; `None` for a link or a FIFO
NO_MORE_JSON = [b"[]", b"{", b'{"a": 1, "a": 2}', b'{"txt": "x"}', b"[" * 2000]


def read(path: Path, policy: str) -> tuple[Rows, set[int]]:
    rows = stream_pairs(path, PairColumns(query_image="image", positive_text="txt"), on_bad_row=policy)
    return [(row["row"].rpartition("/")[2], row["positive"]["text"]) for row in rows], set()


def written(draw: random.Random, samples: list[Sample]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in (member for sample in samples for member in sample):
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.linkname = draw.choice([tarfile.SYMTYPE, tarfile.FIFOTYPE]), "/etc/passwd"
            else:
                entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content or b""))
    return stream.getvalue()


def bad_sample(draw: random.Random, sample: Sample) -> Sample:
    (image, data), (text, content) = sample
    return draw.choice(
        [
            [(image, data)],
            [(text, content)],
            [(image, data), (text, draw.choice([b"\xff\xfe", b"", b" \n", b"x\0"]))],
            [(image, b""), (text, content)],
            [*sample, draw.choice(sample)],
            [*sample, (text.replace("txt", "json"), draw.choice(NO_MORE_JSON))],
            [(image, data), (text, None)],
        ]
    )


def shard_cases(number: int, draw: random.Random, folder: Path) -> Iterator[Case]:
    buffer = io.BytesIO()
    picture(draw).save(buffer, "PNG")
    for place in range(number):
        rows = [(f"{row:04}", f"⟦{row}⟧ {draw.choice(['an apple', 'ümlaut'])}") for row in range(ROWS)]
        samples: list[Sample] = [
            [(f"{key}.png", buffer.getvalue()), (f"{key}.txt", text.encode())] for key, text in rows
        ]
        path = folder / f"{place}.tar"
        if place % 2:
            yield from damaged_shard(draw, rows, written(draw, samples), path)
            continue
        bad = draw.randrange(ROWS)
        samples[bad] = bad_sample(draw, samples[bad])
        path.write_bytes(written(draw, samples))
        named = rf"{place}\.tar/{rows[bad][0]}"
        yield Case(f"{path.name}, raise", lambda f=path: read(f, "raise"), named=named)
        good = [row for number, row in enumerate(rows) if number != bad]
        check = lambda found, good=good: None if found[0] == good else f"{found!r:.300}"  # noqa: E731
        yield Case(f"{path.name}, skip", lambda f=path: read(f, "skip"), check)


def damaged_shard(draw: random.Random, rows: Rows, data: bytes, path: Path) -> Iterator[Case]:
    """A shard that was cut, is none, or has another bit: it is refused, or all but the sample of the bit is there."""
    sample, changed = data.rindex(b"ustar") // ROWS, bytearray(data)
    place = draw.randrange(data.rindex(b"\x89PNG"))
    changed[place] ^= 1 << draw.randrange(8)
    near = {place // sample - 1, place // sample, place // sample + 1}
    cut = data[: draw.randrange(1, data.rindex(b"ustar"))]
    others = [gzip.compress(data)[: draw.randrange(1, 300)], b"", b"no tar", b"\0" * 100, data + data]
    content, check = draw.choice([(cut, None), (draw.choice(others), None), (bytes(changed), at_most(rows, near))])
    path.write_bytes(content)
    yield Case(f"{path.name}, damaged", lambda f=path: read(f, "raise"), check, rf"{path.stem}\.tar")
