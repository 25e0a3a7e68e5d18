"""Files of strangers, by every command: a German export as it is, what is to be said, and how large images may be."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_from_disk

from hub_scripts.finetune import _load as load_pairs_of
from hub_scripts.finetune import _parse as parse_finetune
from hub_scripts.pretrain import _load as load_dialogues_of
from hub_scripts.pretrain import _parse as parse_pretrain


FRENCH = "query;positive;Bild;Preis\ncrème;dessert;fotos\\{0}.png;1,20\nmère;famille;fotos\\{1}.png;2,10\n"
GERMAN = FRENCH.replace("crème", "Käse").replace("mère", "Größe")


@pytest.fixture
def export(tmp_path: Path, picture: Callable) -> Callable[[str], Path]:
    """Writes a table in cp1252 beside images of 400 x 200 pixels, with paths as Windows has them."""
    (tmp_path / "fotos").mkdir()
    for number in range(2):
        picture(400, 200, number).save(tmp_path / "fotos" / f"{number}.png")

    def write(text: str) -> Path:
        (tmp_path / "t.csv").write_bytes(text.format(0, 1).encode("cp1252"))
        return tmp_path / "t.csv"

    return write


SAID = ["--encoding", "cp1252", "--csv-separator", ";"]


def test_what_is_embedded(coma_folder: Path, coma_command: Callable, export: Callable, tmp_path: Path) -> None:
    out, words = tmp_path / "out.parquet", ["--text-column", "query", "--image-column", "Bild"]
    for text, said, expected in ((GERMAN, [], ["Käse", "Größe"]), (FRENCH, SAID, ["crème", "mère"])):
        table = export(text)
        code, _, error = coma_command("embed", coma_folder, table, out, *words, *said)
        assert code == 0, error
        assert pq.read_table(out)["text"].to_pylist() == expected
        out.unlink()
    code, _, error = coma_command("embed", coma_folder, table, out, *words)
    assert code == 1 and "'crème' as cp1252, 'crčme' as cp1250: give --encoding" in error


def test_what_is_trained_on(coma_folder: Path, export: Callable, tmp_path: Path) -> None:
    """In a file of settings and on the command line; the same options are those of both stages."""
    data, out = export(FRENCH), str(tmp_path / "out")
    (tmp_path / "my.yaml").write_text("encoding: cp1252\ncsv_separator: ;\nmax_image_pixels: 5000\nuse_cpu: true\n")
    begin = ["--config", str(tmp_path / "my.yaml"), "--model", str(coma_folder), "--output_dir", out]
    arguments, _ = parse_finetune([*begin, "--data", str(data)])
    assert arguments.max_image_pixels == 5000
    assert load_pairs_of(str(data), arguments, "raise")["query"][0]["text"] == "crème"
    names = ["--images", "Bild", "--question", "query", "--answer", "positive"]
    arguments, _ = parse_pretrain([*begin, "--data", str(data), *names])
    assert load_dialogues_of(str(data), arguments, "raise")["messages"][0][0]["content"] == "crème"
    for parse in (parse_finetune, parse_pretrain):
        with pytest.raises(ValueError, match="encoding, csv_separator cannot act without a table of text"):
            parse([*begin, "--data", "emoji", *SAID])


def test_mined_and_evaluated(coma_folder: Path, coma_command: Callable, export: Callable, tmp_path: Path) -> None:
    data, names = export(FRENCH), ["--query-text", "query", "--positive-image", "Bild"]
    code, _, error = coma_command("mine", coma_folder, data, tmp_path / "mined", *names, *SAID, "--number", 1)
    assert code == 0, error
    assert [item["text"] for item in load_from_disk(tmp_path / "mined")["query"]] == ["crème", "mère"]
    code, _, error = coma_command("evaluate", coma_folder, data, "--output", tmp_path / "results", *SAID)
    assert code == 0, error
    assert "t" in json.loads((tmp_path / "results" / "results.json").read_text())["metrics"]["retrieval"]
    code, _, error = coma_command("evaluate", coma_folder, "emoji", "--output", tmp_path / "others", *SAID)
    assert code == 1 and "emoji is no file of text" in error


@pytest.mark.slow
def test_how_large_images_may_be(coma_folder: Path, coma_command: Callable, export: Callable, tmp_path: Path) -> None:
    """One more pixel than the limit: each command names the option, by which it then passes."""
    data, photos, index = export(GERMAN), tmp_path / "fotos", tmp_path / "index.parquet"
    names = ["--query-text", "query", "--positive-image", "Bild"]
    commands: list[list] = [
        ["embed", coma_folder, photos, index],
        ["search", coma_folder, index, "--image", photos / "0.png"],
        ["mine", coma_folder, data, tmp_path / "mined", *names, "--number", 1],
    ]
    for words in commands:
        code, _, error = coma_command(*words, "--max-image-pixels", 79_999)
        assert code == 1 and "400x200 pixels are over the limit of 79999; shrink it, or raise" in error, error
        assert "(--max-image-pixels)" in error
        code, _, error = coma_command(*words, "--max-image-pixels", 80_000)
        assert code == 0, error
