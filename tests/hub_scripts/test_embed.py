"""`coma embed` writes every row in its place, and goes on after whatever stopped it."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hub_scripts.cli import main
from hub_scripts.common.folders import save_model
from hub_scripts.embed import embed_table
from hub_scripts.embedding.ray_cluster import RayOptions
from modeling_coma import ComaForEmbedding, ComaProcessor
from tests.pdf_files import write_pdf


TEXTS = [f"{'a little ' * (place % 7)}apple number {place}" for place in range(40)]


@pytest.fixture
def photos(tmp_path: Path, picture: Callable[..., Image.Image]) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for place in range(7):
        picture(28 + 28 * (place % 4), 56, place).save(folder / f"{'more/' if place % 2 else ''}{place}.png")
    return folder


def embeddings_in(path: Path) -> np.ndarray:
    return np.stack(pq.read_table(path)["embedding"].to_numpy())


def expected(folder: Path, items: list) -> np.ndarray:
    model, processor = ComaForEmbedding.from_pretrained(folder), ComaProcessor.from_pretrained(folder)
    with torch.no_grad():
        return np.concatenate([model(**processor.process([item])).embeddings.numpy() for item in items])


def test_folder_of_pictures(coma_folder: Path, coma_command: Callable, photos: Path, tmp_path: Path) -> None:
    (photos / "notes.md").touch()
    out = tmp_path / "new.parquet"
    (photos / "broken.png").touch()
    left_alone = f"{photos}: 1 files are left alone: notes.md (no image)"
    assert coma_command("embed", coma_folder, photos, out, "--part-rows", 3)[:2] == (1, f"{left_alone}\n")
    (photos / "broken.png").unlink()
    shutil.rmtree(tmp_path / "new.parquet.parts")
    code, text, _ = coma_command("embed", coma_folder, photos, out, "--part-rows", 3, "--batch-tokens", 30)
    assert code == 0 and "7 rows of 64 numbers" in text and text.startswith(left_alone)
    table = pq.read_table(out)
    names = [f"{place}.png" for place in (0, 2, 4, 6)] + [f"more/{place}.png" for place in (1, 3, 5)]
    assert table["id"].to_pylist() == table["image"].to_pylist() == names
    assert table["row"].to_pylist() == list(range(7))
    assert (
        np.abs(embeddings_in(out) - expected(coma_folder, [Image.open(photos / name) for name in names])).max() < 1e-5
    )
    made = json.loads(pq.read_schema(out).metadata[b"coma"])
    assert (made["model"], made["num_compression_tokens"], made["dim"]) == (str(coma_folder), 4, 64)
    assert made["versions"]["torch"] == torch.__version__ and made["dtype"] == "float32"
    assert [file.name for file in tmp_path.iterdir() if file != photos] == ["new.parquet"]
    code, _, error = coma_command("embed", coma_folder, photos, out)
    assert code == 1 and "nothing is overwritten" in error


def test_table_of_texts_and_pictures(coma_folder: Path, coma_command: Callable, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("title,file,sku\nan apple,0.png,x1\nonly text,,x2\n,more/1.png,x3\n")
    options = ["--text-column", "title", "--image-column", "file", "--id-column", "sku", "--image-root", photos]
    code, _, _ = coma_command("embed", coma_folder, tmp_path / "t.csv", tmp_path / "out.parquet", *options)
    assert code == 0
    table = pq.read_table(tmp_path / "out.parquet").drop_columns("embedding").to_pydict()
    assert table == {
        "row": [0, 1, 2],
        "id": ["x1", "x2", "x3"],
        "text": ["an apple", "only text", None],
        "image": ["0.png", None, "more/1.png"],
    }
    items = [{"image": str(photos / "0.png"), "text": "an apple"}, "only text", {"image": str(photos / "more/1.png")}]
    assert np.abs(embeddings_in(tmp_path / "out.parquet") - expected(coma_folder, items)).max() < 1e-5


def test_pages_of_a_pdf(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    pdf, out = write_pdf(tmp_path / "report.pdf", ["an apple", "a pear", ""]), tmp_path / "out.parquet"
    words = ["embed", coma_folder, pdf, out]
    assert coma_command(*words)[0] == 0
    table = pq.read_table(out).drop_columns("embedding").to_pydict()
    names = ["report.pdf#1", "report.pdf#2", "report.pdf#3"]
    assert table == {"row": [0, 1, 2], "id": names, "text": ["an apple", "a pear", None], "image": names}
    images = [{"image": f"{tmp_path / name}"} for name in names]
    assert np.abs(embeddings_in(out) - expected(coma_folder, images)).max() < 1e-5
    assert np.abs(embeddings_in(out)[0] - embeddings_in(out)[1]).max() > 1e-4  # pages, and not words


def test_a_changed_pdf_is_embedded_again(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"image": "a.pdf#1"}\n{"image": "a.pdf#7"}\n')
    write_pdf(tmp_path / "a.pdf", ["an apple"])
    words = ["embed", coma_folder, tmp_path / "t.jsonl", tmp_path / "out.parquet", "--part-rows", 1]
    code, _, error = coma_command(*words)
    assert code == 1 and "Row 1: cannot decode" in error and "there is no page 7: it has 1" in error
    write_pdf(tmp_path / "a.pdf", ["a pear"] * 7)
    assert "\n2 embedded now" in coma_command(*words)[1]


def test_from_python(coma_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "t.txt").write_text("an apple\n \na pear\n")
    names = (str(coma_folder), tmp_path / "t.txt", tmp_path / "out.parquet")
    with pytest.raises(ValueError, match="Row 1 is empty"):
        embed_table(*names, part_rows=1)
    made = embed_table(coma_folder, *names[1:], part_rows=1, on_error="skip")  # a path is a name, too
    assert (made.num_rows, made.num_embedded, made.num_skipped) == (2, 1, 1)
    assert made.model["dim"] == 64 and not capsys.readouterr().out
    assert np.abs(embeddings_in(names[2]) - expected(coma_folder, ["an apple", "a pear"])).max() < 1e-5
    assert not (tmp_path / "out.parquet.parts").exists()
    for wrong in ({"on_error": "ignore"}, {"part_rows": 0}):
        with pytest.raises(ValueError, match="is raise or skip, and part_rows="):
            embed_table(*names, **wrong)


def test_a_table_that_became_shorter_leaves_nothing(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("an apple\na pear\n \n")
    words = ["embed", coma_folder, tmp_path / "t.txt", tmp_path / "out.parquet", "--part-rows", 1]
    assert coma_command(*words)[0] == 1
    (tmp_path / "t.txt").write_text("an apple\n")
    assert "\n0 embedded now" in coma_command(*words)[1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.parquet", "t.txt"]


def test_killed_and_started_again_it_goes_on(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    words = ["embed", coma_folder, tmp_path / "t.txt", tmp_path / "out.parquet", "--part-rows", 1, "--workers", 0]
    process = in_another_process(words, tmp_path / "errors")
    while process.is_alive() and len(list(tmp_path.glob("out.parquet.parts/*.arrow"))) < 3:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert not (tmp_path / "out.parquet").exists()
    kept = len(list(tmp_path.glob("out.parquet.parts/*.arrow")))
    assert 3 <= kept < len(TEXTS)

    code, text, _ = coma_command(*words)
    assert code == 0 and f"{len(TEXTS)} rows" in text and f"\n{len(TEXTS) - kept} embedded now" in text
    table = pq.read_table(tmp_path / "out.parquet")
    assert (table["row"].to_pylist(), table["text"].to_pylist()) == (list(range(len(TEXTS))), TEXTS)
    assert np.abs(embeddings_in(tmp_path / "out.parquet") - expected(coma_folder, TEXTS)).max() < 1e-5


def test_a_bad_row_stops_or_is_listed(
    coma_folder: Path, coma_command: Callable, photos: Path, tmp_path: Path, picture: Callable
) -> None:
    (photos / "2.png").write_bytes(b"no image")
    out = tmp_path / "out.parquet"
    words = ["embed", coma_folder, photos, out, "--part-rows", 1, "--workers", 0]
    code, _, error = coma_command(*words)
    assert code == 1 and "error: Row 1: cannot decode" in error and not out.exists()

    skipping = [*words[:3], tmp_path / "skipping.parquet", "--on-error", "skip", "--workers", 1]
    code, text, _ = coma_command(*skipping)
    assert code == 0 and "6 rows of" in text and "1 rows skipped" in text
    assert pq.read_table(skipping[3])["row"].to_pylist() == [0, 2, 3, 4, 5, 6]
    (skipped,) = (tmp_path / "skipping.parquet.skipped.jsonl").read_text().splitlines()
    assert json.loads(skipped)["id"] == "2.png" and json.loads(skipped)["row"] == 1

    picture(56, 56, 2).save(photos / "2.png")  # mended, the same command goes on after row 0
    code, text, _ = coma_command(*words)
    assert code == 0 and "\n6 embedded now" in text
    others = np.delete(embeddings_in(out), 1, axis=0)
    assert np.abs(others - embeddings_in(skipping[3])).max() < 1e-5


def test_parts_of_other_rows_or_settings_are_not_kept(
    coma_folder: Path, coma_command: Callable, photos: Path, tmp_path: Path, picture: Callable
) -> None:
    (photos / "more" / "5.png").write_bytes(b"no image")  # the last row
    words = ["embed", coma_folder, photos, tmp_path / "out.parquet", "--part-rows", 1, "--workers", 0]
    assert coma_command(*words)[0] == 1
    picture(84, 84, 77).save(photos / "0.png")
    picture(84, 84, 78).save(photos / "more" / "5.png")
    assert "\n2 embedded now" in coma_command(*words)[1]
    (tmp_path / "out.parquet").unlink()

    (photos / "more" / "5.png").write_bytes(b"no image")
    assert coma_command(*words)[0] == 1
    (photos / "more" / "5.png").unlink()
    code, _, error = coma_command(*words, "--dtype", "bfloat16")
    assert code == 1 and "was begun with another dtype ('float32', now 'bfloat16')" in error
    shutil.rmtree(tmp_path / "out.parquet.parts")
    assert "\n6 embedded now" in coma_command(*words, "--dtype", "bfloat16")[1]


def test_nothing_to_embed(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(" \n \n")
    words = ["embed", coma_folder, tmp_path / "t.txt", tmp_path / "out.parquet", "--on-error", "skip"]
    code, _, error = coma_command(*words)
    assert code == 1 and "None of the 2 rows could be embedded. Row 0 is empty" in error
    assert not (tmp_path / "out.parquet").exists()


def test_another_kind_of_model_is_refused(make_backbone: Callable, coma_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("x\n")
    code, _, error = coma_command("embed", make_backbone(), tmp_path / "t.txt", tmp_path / "out.parquet")
    assert code == 1 and "qwen2_5_vl model and no CoMa model" in error


def in_another_process(
    words: list[object], errors: Path, first: Callable[[], object] = lambda: None
) -> multiprocessing.Process:
    """The command in a copy of this process, which need not import torch again; its standard error in a file."""

    def run() -> None:
        torch.set_num_threads(1)  # the threads of OpenMP are not copied, and would be waited for
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        first()
        sys.exit(main([str(word) for word in words]))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def test_of_two_at_once_one_writes(coma_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    words = ["embed", coma_folder, tmp_path / "t.txt", tmp_path / "out.parquet", "--part-rows", 2, "--workers", 0]
    barrier = multiprocessing.get_context("fork").Barrier(2)
    processes = [in_another_process(words, tmp_path / f"errors-{number}", barrier.wait) for number in range(2)]
    for process in processes:
        process.join(120)
        process.kill()
    codes = [process.exitcode for process in processes]
    assert sorted(codes) == [0, 1]
    lines = (tmp_path / f"errors-{codes.index(1)}").read_text().splitlines()
    assert len(lines) == 1 and lines[0].startswith("coma embed: error: Another process is writing")
    assert pq.read_table(tmp_path / "out.parquet")["text"].to_pylist() == TEXTS
    assert np.abs(embeddings_in(tmp_path / "out.parquet") - expected(coma_folder, TEXTS)).max() < 1e-5


def test_a_full_disk_is_one_line_and_the_work_goes_on(
    coma_folder: Path, coma_command: Callable, tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    words = ["embed", coma_folder, tmp_path / "t.txt", tmp_path / "out.parquet", "--part-rows", 20, "--workers", 0]

    def without_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))  # two parts of 20 rows fit, the index does not

    errors = tmp_path / "errors"
    process = in_another_process(words, errors, without_room)
    process.join(120)
    process.kill()
    assert process.exitcode == 1
    (line,) = errors.read_text().splitlines()[-1:]
    assert line.startswith("coma embed: error: ") and "out.parquet cannot be written: " in line
    assert not [file for file in tmp_path.rglob("*") if file.name.endswith((".writing", ".lock"))]
    assert not (tmp_path / "out.parquet").exists()
    code, text, error = coma_command(*words)
    assert code == 0, error
    assert "\n0 embedded now" in text and len(pq.read_table(tmp_path / "out.parquet")) == len(TEXTS)


def test_what_is_there_and_nobodys_is_left_alone(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("an apple\n")
    out, parts = tmp_path / "out.parquet", tmp_path / "out.parquet.parts"
    words = ["embed", coma_folder, tmp_path / "t.txt", out]
    (parts / "notes").mkdir(parents=True)
    (parts / "notes" / "mine.txt").write_text("mine")
    code, _, error = coma_command(*words)
    assert code == 1 and "not from this command" in error and (parts / "notes" / "mine.txt").read_text() == "mine"
    shutil.rmtree(parts)
    parts.write_text("mine")
    assert coma_command(*words)[0] == 1 and parts.read_text() == "mine"
    parts.unlink()

    skipped = tmp_path / "out.parquet.skipped.jsonl"
    skipped.write_text("of another run")
    code, _, error = coma_command(*words)
    assert code == 1 and f"{skipped} is there already" in error and skipped.read_text() == "of another run"
    skipped.unlink()
    out.symlink_to("nowhere")
    assert coma_command(*words)[0] == 1 and os.readlink(out) == "nowhere"
    out.unlink()
    out.mkdir()
    assert "is there already" in coma_command(*words)[2]
    out.rmdir()
    assert coma_command(*words)[0] == 0


def test_parts_are_known_by_their_columns(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    """Where no column of videos is named, as before there were any: such parts are gone on with."""
    (tmp_path / "a.jsonl").write_text('{"text": "an apple", "clip": null}\n{"text": "", "clip": null}\n')
    words = ["embed", coma_folder, tmp_path / "a.jsonl", tmp_path / "out.parquet", "--part-rows", 1]
    assert coma_command(*words)[0] == 1
    begun_with = json.loads((tmp_path / "out.parquet.parts" / "begun_with.json").read_text())
    assert begun_with["columns"] == [None, None, None]
    code, _, error = coma_command(*words, "--video-column", "clip")
    assert code == 1 and "columns ([None, None, None], now [None, None, None, 'clip'])" in error


@pytest.mark.parametrize("change", ["model", "inputs", "rows of a part", "record"])
def test_parts_of_another_run_are_refused(
    coma_folder: Path, make_coma: Callable, coma_command: Callable, tmp_path: Path, change: str
) -> None:
    """… and not made again one by one, which would lose them."""
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("an apple\n \na pear\n")  # row 1 is empty
    words = ["embed", coma_folder, tmp_path / "a.txt", tmp_path / "out.parquet", "--part-rows", 1]
    assert coma_command(*words)[0] == 1
    parts = tmp_path / "out.parquet.parts"
    before = {file.name: file.read_bytes() for file in parts.iterdir()}
    assert before.keys() == {"begun_with.json", "000000000000.arrow"}
    if change == "model":
        model, processor = make_coma("qwen2_5_vl", 4)
        model.get_input_embeddings().weight.data.mul_(-1)
        save_model(model, processor, tmp_path / "other")
        words[1] = tmp_path / "other"
    elif change == "inputs":
        words[2] = tmp_path / "b.txt"
    elif change == "rows of a part":
        words[-1] = 2
    else:
        (parts / "begun_with.json").write_bytes(before["begun_with.json"][:-9])
        before["begun_with.json"] = before["begun_with.json"][:-9]
    code, _, error = coma_command(*words)
    what = {"rows of a part": "part_rows (1, now 2)"}.get(change, f"{change} (")
    expected = "or a damaged one" if change == "record" else f"was begun with another {what}"
    assert code == 1 and expected in error.splitlines()[-1]
    assert {file.name: file.read_bytes() for file in parts.iterdir()} == before


SELDOM = [pytest.param(damage, marks=pytest.mark.slow) for damage in ("bytes", "other")]


@pytest.mark.parametrize("damage", ["cut", "empty", *SELDOM])
def test_a_damaged_part_is_made_again(coma_folder: Path, coma_command: Callable, tmp_path: Path, damage: str) -> None:
    (tmp_path / "t.txt").write_text("an apple\na pear\n \n")
    words = ["embed", coma_folder, tmp_path / "t.txt", tmp_path / "out.parquet", "--part-rows", 1]
    assert coma_command(*words)[0] == 1
    part = tmp_path / "out.parquet.parts" / "000000000000.arrow"
    data = bytearray(part.read_bytes())
    if damage == "bytes":
        place = data.find(expected(coma_folder, ["an apple"])[0, 5:9].tobytes())
        assert place > 0
        data[place : place + 4] = b"\0\0\0\0"
    part.write_bytes({"cut": data[:-100], "bytes": data, "other": b"no Parquet", "empty": b""}[damage])
    code, text, error = coma_command(*words, "--on-error", "skip")
    assert code == 0, error
    assert "2 rows of" in text and "\n1 embedded now" in text
    assert np.abs(embeddings_in(tmp_path / "out.parquet") - expected(coma_folder, ["an apple", "a pear"])).max() < 1e-5


def test_parts_with_bad_rows_are_for_skipping_only(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("an apple\n \na pear\n")
    words = ["embed", coma_folder, tmp_path / "t.txt", tmp_path / "out.parquet", "--part-rows", 2]
    (tmp_path / "out.parquet.skipped.jsonl").mkdir(parents=True)
    assert coma_command(*words)[0] == 1  # somebody's
    (tmp_path / "out.parquet.skipped.jsonl").rmdir()
    code, text, _ = coma_command(*words, "--on-error", "skip")
    assert code == 0 and "2 rows of" in text and "\n2 embedded now" in text and "1 rows skipped" in text

    for file in ("out.parquet", "out.parquet.skipped.jsonl"):
        (tmp_path / file).unlink()
    process = in_another_process([*words[:-1], 1, "--on-error", "skip"], tmp_path / "errors")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(tmp_path.glob("out.parquet.parts/*.arrow"))) < 2:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    if (tmp_path / "out.parquet.parts").exists():  # it was not quicker
        code, _, error = coma_command(*words[:-1], 1)
        assert code == 1 and "Row 1 is empty" in error


@pytest.mark.parametrize(
    "number",
    [float("nan"), *(pytest.param(number, marks=pytest.mark.slow) for number in (float("inf"), -float("inf")))],
)
def test_an_embedding_that_is_not_finite_is_an_error_of_its_row(
    make_coma: Callable, coma_command: Callable, tmp_path: Path, number: float
) -> None:
    model, processor = make_coma("qwen2_5_vl", 4)
    (token,) = processor.tokenizer("∞", add_special_tokens=False)["input_ids"][-1:]
    model.get_input_embeddings().weight.data[token] = number
    save_model(model, processor, tmp_path / "model")
    (tmp_path / "t.txt").write_text("an apple\nas much as ∞\nan apple\n")
    words = ["embed", tmp_path / "model", tmp_path / "t.txt", tmp_path / "out.parquet"]
    code, _, error = coma_command(*words)
    assert code == 1 and "Row 1: The embedding is not finite" in error
    code, text, error = coma_command(*words, "--on-error", "skip")
    assert code == 0, error
    assert pq.read_table(words[-1])["row"].to_pylist() == [0, 2] and "1 rows skipped" in text


def test_an_error_names_row_and_path(coma_folder: Path, coma_command: Callable, photos: Path, tmp_path: Path) -> None:
    deep = photos / ("a long name " * 9) / ("of a folder " * 9)
    deep.mkdir(parents=True)
    data = (photos / "0.png").read_bytes()
    (deep / "cut.png").write_bytes(data[: len(data) // 2])
    out = tmp_path / "out.parquet"
    words = ["embed", coma_folder, photos, out, "--part-rows", 3]
    name = str((deep / "cut.png").relative_to(photos))
    row = sorted([*photos.rglob("*.png")]).index(deep / "cut.png")
    code, _, error = coma_command(*words)
    assert code == 1 and f"Row {row}" in error and name in error
    assert coma_command(*words, "--on-error", "skip")[0] == 0
    (skipped,) = map(json.loads, (tmp_path / "out.parquet.skipped.jsonl").read_text().splitlines())
    assert (skipped["row"], skipped["id"], skipped["image"]) == (row, name, name)
    assert f"Row {row}" in skipped["error"] and name in skipped["error"]


def test_bad_rows_obey_the_command(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    """Of a table and of a folder: named, or listed with the reason, and the others are embedded."""
    lines = ["text,image", "a,", "b", "é \udce9,", "c,../x.png", f"d,{'x' * 5000}", "e,"]
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (28, 28)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "b.png").symlink_to("nowhere")
    (tmp_path / "photos" / os.fsdecode(b"\xff.png")).write_bytes((tmp_path / "photos" / "a.png").read_bytes())
    for source, first, good, reasons in (
        ("t.csv", "Row 1 of t.csv: line 3: found 1 values", [0, 5], ["values", "not UTF-8", "inside of", "5000 char"]),
        ("photos", "Row 1 of photos: b.png: a link that leads nowhere", [0], ["leads nowhere", "not UTF-8"]),
    ):
        out = tmp_path / f"{source}.parquet"
        code, _, error = coma_command("embed", coma_folder, tmp_path / source, out, "--workers", 0)
        assert code == 1 and f"error: {first}" in error and not out.exists()
        code, text, _ = coma_command(
            "embed", coma_folder, tmp_path / source, out, "--on-error", "skip", "--workers", 0
        )
        assert code == 0 and f"{len(reasons)} rows skipped" in text
        assert pq.read_table(out)["row"].to_pylist() == good
        skipped = [json.loads(line) for line in Path(f"{out}.skipped.jsonl").read_text().splitlines()]
        for row, words in zip(skipped, reasons, strict=True):
            assert words in row["error"] and row["error"].startswith(f"Row {row['row']} of {source}: ")


def test_the_engine_ray_needs_its_extra_and_its_options_need_it(
    coma_folder: Path, coma_command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "t.txt").write_text("an apple\n")
    words = ["embed", coma_folder, tmp_path / "t.txt", tmp_path / "out.parquet"]
    code, text, error = coma_command(*words, "--engine", "ray")
    assert (code, text, error.count("\n")) == (1, "", 1) and error.count("'coma-embedding[scale]'") == 1
    code, _, error = coma_command(*words, "--num-actors", 2, "--address", "auto")
    assert code == 1 and "address, num_actors can act with engine ray alone" in error
    assert not (tmp_path / "out.parquet.parts").exists()
    with pytest.raises(ValueError, match="engine='spark' is none of local, ray"):
        embed_table(*words[1:], engine="spark")
    for wrong in (RayOptions(num_actors=0), RayOptions(gpus_per_actor=-1.0), RayOptions(gpus_per_actor=float("nan"))):
        with pytest.raises(ValueError, match="num_actors must be 1 or more and gpus_per_actor 0 or more"):
            embed_table(*words[1:], engine="ray", ray=wrong)
