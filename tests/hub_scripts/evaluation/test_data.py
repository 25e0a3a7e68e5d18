"""Sets that are evaluated are read as what is trained on: literally, and what is bad is named with file and row."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hub_scripts.evaluation.data import NamedSet, PairOptions, open_sets
from tests.mmeb_folders import v1_rows, write_mmeb


NAME = "ImageNet-1K"


def the_set(folder: Path, name: str = NAME) -> NamedSet:
    (one,) = open_sets([str(folder)], {name})
    return one


@pytest.fixture
def rows(tmp_path: Path) -> list[dict]:
    return v1_rows(NAME, tmp_path)


def write(folder: Path, lines: list[str]) -> None:
    (folder / f"{NAME}.jsonl").write_text("\n".join(lines))


def test_texts_are_read_as_they_stand(tmp_path: Path, rows: list[dict]) -> None:
    """A reader that guesses types makes times of them."""
    texts = [f"2020-01-0{number} 00:00:00" for number in range(1, 7)]
    rows = [{**row, "qry_text": text, "qry_img_path": ""} for row, text in zip(rows, texts, strict=True)]
    write(tmp_path, [json.dumps(row) for row in rows])
    task = the_set(tmp_path).read()
    assert [task.items[int(place)][0]["content"][0]["text"] for place in task.queries] == texts


BAD = {
    "a repeated key": ('{"qry_text": "a", "qry_text": "b"}', "found the key 'qry_text' twice"),
    "no JSON": ("no json", "not JSON"),
    "no object": ("[1]", "found list"),
    "half a character": (r'{"qry_text": "\ud800"}', "column qry_text: .*not UTF-8"),
    "half of one in a list": (r'{"tgt_text": ["a", "\ud800"]}', "column tgt_text: .*not UTF-8"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named_with_its_file(tmp_path: Path, rows: list[dict], line: str, message: str) -> None:
    write(tmp_path, [json.dumps(rows[0]), line, json.dumps(rows[1])])
    with pytest.raises(ValueError, match=rf"^Row 1 of \S+{NAME}\.jsonl is bad: .*{message}"):
        the_set(tmp_path).read()


def test_files_that_would_not_be_read(tmp_path: Path, rows: list[dict]) -> None:
    write_mmeb(tmp_path, [NAME])
    hidden = tmp_path / NAME / "._test-00000-of-00001.parquet"
    hidden.write_bytes(b"of macOS")
    assert len(the_set(tmp_path).read().queries) == len(rows)
    (tmp_path / NAME / "test.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(ValueError, match="has .parquet and .jsonl files, and one of the two would not be read"):
        the_set(tmp_path).read()
    write(tmp_path, [json.dumps(rows[0])])
    with pytest.raises(ValueError, match=f"has the set {NAME} twice, {NAME} and {NAME}.jsonl"):
        the_set(tmp_path)
    for file in (tmp_path / NAME).iterdir():
        file.unlink()
    assert len(the_set(tmp_path).read().queries) == 1  # of the file: a folder without tables may hold its images


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_mmeb(tmp_path, [NAME, "ViDoRe_arxivqa"])
    for file in tmp_path.rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[:-50])
    for name in (NAME, "ViDoRe_arxivqa"):
        with pytest.raises(ValueError, match=r"\.parquet cannot be read as Parquet"):
            the_set(tmp_path, name).read()


def test_visual_documents_as_lines(tmp_path: Path) -> None:
    """Queries and judgements may be lines; pages are bytes, which JSON does not have."""
    write_mmeb(tmp_path, ["ViDoRe_arxivqa"])
    digest = the_set(tmp_path, "ViDoRe_arxivqa").read().digest
    folder = tmp_path / "ViDoRe_arxivqa"
    for table in ("queries", "qrels"):
        (file,) = (folder / table).glob("*.parquet")
        rows = pq.read_table(file).to_pylist()
        file.unlink()
        (folder / table / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert the_set(tmp_path, "ViDoRe_arxivqa").read().digest == digest
    (folder / "queries" / "test.jsonl").write_text('{"query-id": 1, "query": "a"}\n{"query-id": "b", "query": "c"}')
    with pytest.raises(ValueError, match="queries: a column has values of several types"):
        the_set(tmp_path, "ViDoRe_arxivqa").read()


def test_a_page_that_is_a_path_is_refused(tmp_path: Path) -> None:
    """It would begin at the folder in which the command happens to be run."""
    write_mmeb(tmp_path, ["ViDoRe_arxivqa"])
    (file,) = (tmp_path / "ViDoRe_arxivqa" / "corpus").glob("*.parquet")
    table = pq.read_table(file)
    pages = table.to_pylist()
    pages[2]["image"] = {"bytes": None, "path": "noto/2.png"}
    pq.write_table(pa.Table.from_pylist(pages, table.schema), file)
    with pytest.raises(ValueError, match="^Row 2 of the corpus of ViDoRe_arxivqa, image: found the path 'noto/2.png'"):
        the_set(tmp_path, "ViDoRe_arxivqa").read()
    pq.write_table(pa.Table.from_pylist([{**page, "image": "noto/0.png"} for page in pages]), file)
    with pytest.raises(ValueError, match="^The corpus of ViDoRe_arxivqa, image: found .*string"):
        the_set(tmp_path, "ViDoRe_arxivqa").read()


def test_columns_of_pairs_are_named_as_for_training(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("title,body\na,x\nb,y\n")
    (tmp_path / "plain.csv").write_text("query,positive\na,x\nb,y\n")
    named, plain = {"query_text": "title", "positive_text": "body"}, None
    read = [
        open_sets([str(tmp_path / f"{name}.csv")], pairs=PairOptions(columns=columns))[0].read()
        for name, columns in (("shop", named), ("plain", plain))
    ]
    assert read[0].items == read[1].items and read[0].digest == read[1].digest
    with pytest.raises(ValueError, match=r"Name the columns of .*shop\.csv"):
        open_sets([str(tmp_path / "shop.csv")])[0].read()


def test_columns_that_name_nothing_are_refused(tmp_path: Path) -> None:
    write_mmeb(tmp_path, [NAME])
    for place in (str(tmp_path), "emoji"):
        with pytest.raises(ValueError, match="query_text cannot act: no table of pairs is evaluated"):
            open_sets([place], {NAME} if place != "emoji" else None, pairs=PairOptions({"query_text": "q"}))


def test_columns_of_pairs_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Dataset.from_dict({"title": ["a", "b"], "body": ["x", "y"]})
    monkeypatch.setattr("hub_scripts.evaluation.data.get_dataset_config_names", lambda name: ["default"])
    monkeypatch.setattr("hub_scripts.evaluation.data.load_dataset", lambda *args, **kwargs: shop)
    (one,) = open_sets(["org/shop"], pairs=PairOptions({"query_text": "title", "positive_text": "body"}))
    assert one.name == "shop" and len(one.read().queries) == 2 and set(one.sources()) == {None}
