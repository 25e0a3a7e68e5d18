"""Tables as programs export them are read as they are, by every reader, and what was found is said once."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from trainers.data.corpus import Columns, open_corpus
from trainers.data.dialogues import DialogueColumns, load_dialogues
from trainers.data.pairs import PairColumns, load_pairs, load_triplets
from trainers.data.rows import BadRows
from trainers.data.tables import open_records
from trainers.data.text_format import TextFormat


ROWS = [("Käse, jung", "Größe 5; rund"), ('ein "Möbel"', "für\nzwei"), ("Öl\t1", "5 € | Stück")]


def write(
    path: Path, separator: str = ",", encoding: str = "utf-8", first: str = "", names: tuple = ("q", "p")
) -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        file.write(first)
        csv.writer(file, delimiter=separator).writerows([names, *ROWS])
    return path


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the log says about formats."""
    return lambda: [record.message for record in caplog.records if "text_format" in record.name]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_separators_and_encodings(tmp_path: Path, suffix: str, separator: str, encoding: str, said: Callable) -> None:
    path = write(tmp_path / f"t.{suffix}", separator, encoding)
    records = open_records(path)
    assert records.columns == ["q", "p"] and list(records.rows()) == [{"q": q, "p": p} for q, p in ROWS]
    list(open_records(path).rows())
    usual = {"csv": ",", "tsv": "\t"}[suffix]
    expected = [] if encoding.startswith("utf-8") else [f"read as {encoding}"]
    expected += [] if separator == usual else [f"separated by {separator!r}"]
    assert len(said()) == bool(expected)  # once for a file
    assert all(words in line for line in said() for words in [str(path), *expected])


def test_a_german_excel_export_in_every_reader(tmp_path: Path) -> None:
    """Semicolons, cp1252, commas in numbers, the line `sep=;` and paths of Windows."""
    (tmp_path / "fotos").mkdir()
    (tmp_path / "fotos" / "Käse 1.jpg").write_bytes(b"x")
    content = "sep=;\r\nanchor;positive;Preis;Bild\r\nKäse;schöner Käse;1,20;fotos\\Käse 1.jpg\r\n"
    (tmp_path / "t.csv").write_bytes(content.encode("cp1252"))
    file, image = tmp_path / "t.csv", str(tmp_path / "fotos" / "Käse 1.jpg")
    pairs = load_pairs(file, PairColumns(query_text="anchor", positive_image="Bild", source="Preis"))
    row = pairs.with_format("arrow")[:].to_pylist()[0]
    assert (row["query"]["text"], row["positive"]["image"]["path"], row["source"]) == ("Käse", image, "1,20")
    assert load_triplets(file)["positive"][0]["text"] == "schöner Käse"
    columns = DialogueColumns(images="Bild", question="anchor", answer="positive")
    talk = load_dialogues(file, columns=columns).with_format("arrow")[:].to_pylist()[0]
    assert talk["images"][0]["path"] == image and talk["messages"][1]["content"] == "schöner Käse"
    (read,) = open_corpus(file, Columns(text="positive", image="Bild")).read(0, 1)
    assert (read["text"], read["image"], read["path"]) == ("schöner Käse", image, "fotos\\Käse 1.jpg")


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"sep=;\na;b\n1;2\n1;2;3\n")
    (bad,) = [row for row in open_records(tmp_path / "t.csv").rows() if isinstance(row, ValueError)]
    assert str(bad).startswith("line 4: found 3 values")


def test_what_is_said_goes_before_what_is_found(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("a;b,c\ncrème;1,2\n".encode("cp1252"))
    for given, name, value in (
        (TextFormat("cp1252", ";"), "a", "crème"),
        (TextFormat("cp1250", ";"), "a", "crčme"),
        (TextFormat("cp1252", ","), "a;b", "crème;1"),
    ):
        (row,) = open_records(tmp_path / "t.csv", given).rows()
        assert row[name] == value
    first, second = (open_records(tmp_path / "t.csv", TextFormat(name, ";")) for name in ("cp1252", "cp1250"))
    assert first.identity != second.identity  # what is kept of one is not taken for the other
    (tmp_path / "t.tsv").write_text("a;b\n1;2\n")
    assert open_records(tmp_path / "t.tsv", TextFormat(separator=r"\t")).columns == ["a;b"]


def test_bytes_that_an_encoding_lacks_are_bad_rows(tmp_path: Path) -> None:
    for encoding, bad in (("utf-8", b"caf\xe9"), ("cp1252", b"a\x81"), ("gb18030", b"a\xff"), ("ascii", "é".encode())):
        (tmp_path / "t.csv").write_bytes(b"q,p\na,b\n" + bad + b",b\nc,d\n")
        bad_rows = BadRows("skip")
        columns = PairColumns(query_text="q", positive_text="p")
        rows = load_pairs(tmp_path / "t.csv", columns, None, bad_rows, TextFormat(encoding))
        assert [row["text"] for row in rows["query"]] == ["a", "c"] and list(bad_rows.reasons) == [1]


def test_a_file_of_utf_16_that_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("q,p\na,b\nc,d".encode("utf-16")[:-1])
    rows = load_pairs(tmp_path / "t.csv", PairColumns(query_text="q", positive_text="p"), on_bad_row="skip")
    assert [row["text"] for row in rows["query"]] == ["a"]


def test_what_cannot_act_or_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "photos").mkdir()
    Dataset.from_dict({"a": ["1"]}).to_parquet(tmp_path / "t.parquet")
    for name, given, message in (
        ("t.csv", TextFormat("cp9999"), "no encoding 'cp9999'"),
        ("t.csv", TextFormat(separator=";;"), "separator ';;' is not one sign"),
        ("t.csv", TextFormat(separator="a"), "separator 'a' is not one sign"),
        ("t.jsonl", TextFormat(separator=";"), "t.jsonl has no separator, and ';' cannot act"),
        ("t.parquet", TextFormat("cp1252"), "t.parquet is no file of text"),
        ("photos", TextFormat("cp1252"), "a folder of images is no file of text"),
    ):
        with pytest.raises(ValueError, match=message):
            open_corpus(tmp_path / name, Columns(text="a"), text_format=given)
    with pytest.raises(ValueError, match="a data set is no file of text"):
        load_pairs(Dataset.from_dict({"query": ["a"], "positive": ["b"]}), text_format=TextFormat("cp1252"))


def test_a_separator_in_a_name_of_a_column(tmp_path: Path) -> None:
    """The rows tell; where they do not, somebody must."""
    (tmp_path / "t.csv").write_text('name,"size; kg"\na,1\nb,2\n')
    assert open_records(tmp_path / "t.csv").columns == ["name", "size; kg"]
    (tmp_path / "t.csv").write_text("name;price, EUR\na;1\nb;2\n")
    assert open_records(tmp_path / "t.csv").columns == ["name", "price, EUR"]
    (tmp_path / "t.csv").write_text("name;price, EUR\na;1,20\nb;2,10\n")
    with pytest.raises(ValueError, match=r"t\.csv: its fields could be separated by ',' or ';': say which"):
        open_records(tmp_path / "t.csv")
    assert len(list(open_records(tmp_path / "t.csv", TextFormat(separator=";")).rows())) == 2
