"""`coma embed --engine ray` makes what the local engine makes, whatever happens to its actors. On a real cluster."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hub_scripts.embed import EmbeddedTable, embed_table
from hub_scripts.embedding.engine import LocalEngine
from hub_scripts.embedding.model_settings import ModelSettings
from hub_scripts.embedding.ray_cluster import RayOptions, ray_cluster, room_for
from hub_scripts.embedding.remote_inputs import find_inputs
from hub_scripts.embedding.store import memory_at, read_vectors
from trainers.data.corpus import Columns, open_corpus
from trainers.encoding.shards import open_shard


pytestmark = pytest.mark.extras

ROOT = Path(__file__).resolve().parents[3]
TEXTS = [f"{'a little ' * (place % 7)}apple number {place}" for place in range(40)]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def corpus_of(kind: str, folder: Path, picture: Callable[..., Image.Image]) -> Path:
    """Nine rows of texts and images, of which the third cannot be decoded and the sixth has nothing in it."""
    images = [io.BytesIO() for _ in range(9)]
    for place, file in enumerate(images):
        picture(28 + 28 * (place % 3), 56, place).save(file, "PNG")
    contents = [file.getvalue() for file in images]
    contents[2], contents[5] = b"no image", b""
    texts = [f"apple {place}" if place % 2 else None for place in range(9)]
    texts[5] = None
    if kind == "tar":
        for shard in range(3):
            with tarfile.open(folder / f"{shard}.tar", "w") as tar:
                for place in range(3 * shard, 3 * shard + 3):
                    members = {f"{place}.png": contents[place], f"{place}.txt": (texts[place] or "x").encode()}
                    for name, content in members.items():
                        info = tarfile.TarInfo(name)
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
        return folder / "*.tar"
    if kind == "parquet":
        table = pa.table({"id": [f"n{place}" for place in range(9)], "text": texts, "image": contents})
        pq.write_table(table, folder / "t.parquet", row_group_size=2)
        return folder / "t.parquet"
    (folder / "images").mkdir()
    for place, content in enumerate(contents):
        (folder / "images" / f"{place}.png").write_bytes(content)
    if kind == "folder":
        return folder / "images"
    rows = [{"text": text, "image": f"images/{place}.png"} for place, text in enumerate(texts)]
    rows[5] = {"text": None, "image": None}
    return write_jsonl(folder / "t.jsonl", rows)


def same_indexes(one: Path, other: Path) -> bool:
    """Whether two indexes have the same rows, the same metadata, and vectors that differ by 1e-6 at most."""
    assert sorted(file.name for file in one.iterdir()) == sorted(file.name for file in other.iterdir())
    metadata = [pq.read_schema(folder / "part-00000.parquet").metadata for folder in (one, other)]
    found, expected = (list(read_vectors(folder)) for folder in (one, other))
    rows = [pa.concat_tables(piece.rows for piece in pieces) for pieces in (found, expected)]
    vectors = [np.concatenate([piece.embeddings for piece in pieces]) for pieces in (found, expected)]
    if b'"vectors"' in metadata[0][b"coma"]:
        several = [pq.read_table(folder)["vectors"].combine_chunks() for folder in (one, other)]
        assert np.abs(np.subtract(*(column.flatten().to_numpy() for column in several))).max() <= 1e-6
        memories = [memory_at(folder, np.arange(len(several[0]))) for folder in (one, other)]
        assert (memories[0].numbers - memories[1].numbers).abs().max() <= 1e-2
    return rows[0].equals(rows[1]) and np.abs(vectors[0] - vectors[1]).max() <= 1e-6 and metadata[0] == metadata[1]


def on_ray(*names: object, num_actors: int = 1, **options: object) -> EmbeddedTable:
    return embed_table(*names, engine="ray", ray=RayOptions(num_actors=num_actors), **options)


@pytest.mark.parametrize(("kind", "num_actors"), [("folder", 1), ("jsonl", 2), ("parquet", 1), ("tar", 1)])
def test_it_makes_what_the_local_engine_makes(
    kind: str, num_actors: int, cluster: None, coma_folder: Path, tmp_path: Path, picture: Callable
) -> None:
    data = corpus_of(kind, tmp_path, picture)
    several = {"vectors": 2, "any_vectors": True, "memory": True, "any_memory": True} if kind == "parquet" else {}
    options = {"on_error": "skip", "part_rows": 2, **several}
    local = embed_table(coma_folder, data, tmp_path / "local", **options)
    made = on_ray(coma_folder, data, tmp_path / "ray", num_actors=num_actors, **options)
    assert made[:2] == local[:2] and made.num_skipped == local.num_skipped > 0 and made.num_rows >= 7
    assert same_indexes(tmp_path / "ray", tmp_path / "local")
    listed = [(tmp_path / f"{name}.skipped.jsonl").read_text() for name in ("local", "ray")]
    assert listed[0] == listed[1] and not (tmp_path / "ray.parts").exists()


def test_one_engine_goes_on_where_the_other_was_stopped(
    cluster: None, coma_folder: Path, coma_command: Callable, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "t.jsonl", [{"text": text} for text in [*TEXTS[:20], " ", *TEXTS[21:]]])
    words = [coma_folder, data, tmp_path / "ray"]
    options = ["--part-rows", "4", "--engine", "ray", "--num-actors", "1", "--workers", "0"]
    code, text, error = coma_command("embed", *words, *options)
    assert code == 1 and not text and "error: Row 20 is empty" in error.splitlines()[-1]
    assert "or add --on-error skip" in error and "Traceback" not in error
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "ray.parts").glob("*.arrow")}
    assert len(kept) == 5  # one actor goes through the rows in their order
    write_jsonl(data, [{"text": text} for text in TEXTS])
    code, text, error = coma_command("embed", *words, *options)
    assert code == 0 and f"\n{len(TEXTS) - 20} embedded now" in text, error
    embed_table(coma_folder, data, tmp_path / "local", part_rows=4)
    assert same_indexes(tmp_path / "ray", tmp_path / "local")


def test_parts_of_another_model_are_refused(
    cluster: None, coma_folder: Path, coma_command: Callable, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "t.jsonl", [{"text": "an apple"}, {"text": " "}])
    with pytest.raises(ValueError, match="Row 1 is empty"):
        embed_table(coma_folder, data, tmp_path / "out", part_rows=1, dtype="bfloat16")
    code, _, error = coma_command("embed", coma_folder, data, tmp_path / "out", "--engine", "ray", "--part-rows", 1)
    assert code == 1 and "was begun with another dtype ('bfloat16', now 'float32')" in error.splitlines()[-1]


def engine_with(coma_folder: Path, data: Path, num_actors: int, before: Callable[[dict], None]):
    """The engine over a corpus that does something before it reads a row, in the process of the actor."""
    from hub_scripts.embedding.ray_engine import RayEngine

    source = find_inputs(data)
    corpus = open_corpus(source.path, Columns())
    fill = corpus.fill

    def watched(row: dict, record: dict) -> None:
        before(record)
        fill(row, record)

    settings = ModelSettings(str(coma_folder))
    return RayEngine(settings, replace(corpus, fill=watched), source, RayOptions(num_actors=num_actors))


def test_an_actor_that_is_killed_is_replaced_and_no_row_is_lost_or_doubled(
    cluster: None, coma_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, marks = write_jsonl(tmp_path / "t.jsonl", [{"text": text} for text in TEXTS]), tmp_path / "marks"
    marks.mkdir()

    def die_once(record: dict) -> None:
        mark = marks / record["text"]
        if record["text"] in (TEXTS[9], TEXTS[30]) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    parts = tmp_path / "parts"
    options = {"made_by": "m", "shard_rows": 4, "skip_errors": False}
    with engine_with(coma_folder, data, 2, die_once) as engine:
        files, num_embedded = engine.embed(parts, **options)
    assert num_embedded == len(TEXTS) and len(list(marks.iterdir())) == 2
    assert sorted(parts.iterdir()) == files and len(files) == 10
    expected, _ = LocalEngine(ModelSettings(str(coma_folder)), open_corpus(data, Columns())).embed(
        tmp_path / "expected", **options
    )
    for file, other in zip(files, expected, strict=True):
        found, wanted = open_shard(file), open_shard(other)
        assert found.drop_columns("embedding").equals(wanted.drop_columns("embedding"))
        assert found.schema.metadata == wanted.schema.metadata
        vectors = [table["embedding"].combine_chunks().flatten().to_numpy() for table in (found, wanted)]
        assert np.abs(vectors[0] - vectors[1]).max() <= 1e-6


def test_rows_that_kill_whoever_reads_them_are_named(
    cluster: None, coma_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub_scripts.embedding.ray_engine.MOST_DEATHS", 2)
    data = write_jsonl(tmp_path / "t.jsonl", [{"text": text} for text in TEXTS[:6]])

    def die(record: dict) -> None:
        if record["text"] == TEXTS[4]:
            os.kill(os.getpid(), signal.SIGKILL)

    with (
        engine_with(coma_folder, data, 1, die) as engine,
        pytest.raises(OSError, match="2 actors have died, one after the other, of the part that begins with row 4"),
    ):
        engine.embed(tmp_path / "parts", made_by="m", shard_rows=2, skip_errors=True)
    assert len(list((tmp_path / "parts").iterdir())) == 2


def test_what_cannot_be_is_said_in_a_line(cluster: None, coma_folder: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "t.jsonl", [{"text": "an apple"}])
    names = (coma_folder, data, tmp_path / "out")
    with pytest.raises(ValueError, match="room for 2 actors of 1 CPU each, and not for 99"):
        on_ray(*names, num_actors=99)
    with pytest.raises(ValueError, match="room for 0 actors of 0.5 GPUs each, and not for 1"):
        embed_table(*names, engine="ray", ray=RayOptions(gpus_per_actor=0.5))
    with pytest.raises(ValueError, match="device='cuda:1' cannot act on many machines"):
        on_ray(*names, device="cuda:1")
    with pytest.raises(ValueError, match="uses a cluster of Ray already"):
        embed_table(*names, engine="ray", ray=RayOptions(address="auto"))
    with pytest.raises(ValueError, match="There is no folder"):  # in the actor
        on_ray(tmp_path / "nothing", *names[1:])
    assert not (tmp_path / "out.parts").exists()


def test_no_cluster_at_an_address(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(ConnectionError, match="There is no cluster of Ray at 127.0.0.1:9: .*refused"),
        ray_cluster("127.0.0.1:9"),
    ):
        pass


@pytest.mark.parametrize(
    ("machines", "options", "expected"),
    [
        ([{"CPU": 8}], RayOptions(), (1, 8, 0)),
        ([{"CPU": 8}, {"CPU": 4}], RayOptions(), (2, 4, 0)),
        ([{"CPU": 8}, {"CPU": 4}], RayOptions(num_actors=5), (5, 1, 0)),
        ([{"CPU": 8, "GPU": 4}, {"CPU": 4}], RayOptions(), (4, 1, 1)),
        ([{"CPU": 8, "GPU": 3}] * 2, RayOptions(gpus_per_actor=2), (2, 1, 2)),
        ([{"CPU": 8, "GPU": 1}] * 2, RayOptions(gpus_per_actor=0.5), (4, 1, 0.5)),
        ([{"CPU": 8, "GPU": 4}], RayOptions(num_actors=2, gpus_per_actor=0), (2, 4, 0)),
    ],
)
def test_room(machines: list, options: RayOptions, expected: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": machine} for machine in machines])
    assert room_for(options, on_cpu=False) == expected


def test_a_cluster_of_its_own_is_quiet_and_reached_by_nobody_else(coma_folder: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "t.jsonl", [{"text": text} for text in TEXTS])
    command = [sys.executable, "-m", "hub_scripts.cli", "embed", str(coma_folder), str(data), str(tmp_path / "out")]
    addresses: set[str] = set()
    with subprocess.Popen(
        [*command, "--engine", "ray", "--part-rows", "2", "--workers", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None:
            if (tmp_path / "out.parts").exists():
                addresses |= listening(psutil.Process(process.pid))
            time.sleep(0.1)
        text, error = process.communicate()
    assert process.returncode == 0, error
    assert [line.partition(" ")[0] for line in text.splitlines()] == ["40", "40"]
    assert all(line.startswith("Embedding: ") for line in error.splitlines() if line), error
    assert addresses and addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def listening(process: psutil.Process) -> set[str]:
    """The addresses at which a process and those that it has started listen."""
    found = set()
    for child in [process, *process.children(recursive=True)]:
        try:
            found |= {each.laddr.ip for each in child.net_connections("inet") if each.status == psutil.CONN_LISTEN}
        except psutil.NoSuchProcess:
            continue
    return found
