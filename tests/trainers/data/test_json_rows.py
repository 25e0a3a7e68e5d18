"""JSON in which nothing is lost: repeated keys, further lists and other encodings are said, with the row."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trainers.data import json_rows
from trainers.data.corpus import Columns, open_corpus
from trainers.data.dialogues import load_dialogues
from trainers.data.llava import load_llava
from trainers.data.pairs import PairColumns, load_pairs, load_triplets
from trainers.data.rows import BadRows
from trainers.data.tables import open_records


TALK = '"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'
LLAVA = '"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]'
# How rows are loaded; a good row; the same with a key twice, at the top or inside; that key.
REPEATED: dict[str, tuple[Callable, str, str, str]] = {
    "pairs": (load_pairs, '{"query": "a", "positive": "b"}', '{"query": "a", "positive": "b", "query": "c"}', "query"),
    "an item": (
        load_pairs,
        '{"query": "a", "positive": "b"}',
        '{"query": "a", "positive": {"text": "b", "image": null, "text": "c"}}',
        "text",
    ),
    "columns": (
        lambda path, **policy: load_pairs(path, PairColumns(query_text="q", positive_text="p"), **policy),
        '{"q": "a", "p": "b"}',
        '{"q": "a", "p": "b", "q": "a"}',
        "q",
    ),
    "triplets": (
        load_triplets,
        '{"anchor": "a", "positive": "b"}',
        '{"anchor": "a", "positive": "b", "positive": "c"}',
        "positive",
    ),
    "messages": (
        load_dialogues,
        f'{{"text": "t", {TALK}}}',
        f'{{"text": "t", {TALK.replace("{", chr(123) + chr(34) + "role" + chr(34) + ": 1, ")}}}',
        "role",
    ),
    "llava": (
        load_llava,
        f'{{"image": "a.png", {LLAVA.replace("q", "<image>q")}}}',
        f'{{"image": "a.png", "image": "b.png", {LLAVA.replace("q", "<image>q")}}}',
        "image",
    ),
}


@pytest.mark.parametrize(("load", "good", "bad", "key"), REPEATED.values(), ids=REPEATED)
def test_a_repeated_key(tmp_path: Path, load: Callable, good: str, bad: str, key: str) -> None:
    (tmp_path / "t.jsonl").write_text(f"{good}\n{bad}\n{good}\n")
    message = f"Row 1 of t.jsonl is bad: line 2: found the key '{key}' twice in an object, expected every key once"
    with pytest.raises(ValueError, match=f"^{message}"):
        load(tmp_path / "t.jsonl")
    bad_rows = BadRows("skip")
    assert len(load(tmp_path / "t.jsonl", on_bad_row=bad_rows)) == 2 and list(bad_rows.reasons) == [1]
    (tmp_path / "t.json").write_text(f"[{good}, {bad}, {good}]")
    with pytest.raises(ValueError, match=f"t.json: its row 1 found the key '{key}' twice"):
        load(tmp_path / "t.json")


def test_a_repeated_key_of_what_is_embedded(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n{"text": "b", "text": "c"}\n{"text": "d"}\n')
    corpus = open_corpus(tmp_path / "t.jsonl", Columns())
    rows = corpus.read(0, 3)
    assert [row["text"] for row in rows] == ["a", None, "d"]
    assert rows[1]["error"].startswith("Row 1 of t.jsonl: line 2: found the key 'text' twice")


@pytest.mark.parametrize("rest", ['[{"text": "b"}]', "x", ",", "]", "\n\n{}", "\0"])
def test_what_follows_a_list_is_not_lost(tmp_path: Path, rest: str) -> None:
    (tmp_path / "t.json").write_text('[{"text": "a"}] \n' + rest)
    with pytest.raises(ValueError, match=r"t\.json: after its list, found .*, expected the end"):
        list(open_records(tmp_path / "t.json").rows())
    with pytest.raises(ValueError, match="after its list"):
        open_corpus(tmp_path / "t.json", Columns())


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_marks_and_other_encodings(tmp_path: Path, kind: str) -> None:
    content = '[{"text": "ü"}]' if kind == "json" else '{"text": "ü"}\n'
    path = tmp_path / f"t.{kind}"
    path.write_text(content, encoding="utf-8-sig")
    assert (
        list(open_records(path).rows())
        == [{"text": "ü"}]
        == [{"text": open_corpus(path, Columns()).read(0, 1)[0]["text"]}]
    )
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "cp1252"):
        path.write_text(content, encoding=encoding)
        assert list(open_records(path).rows()) == [{"text": "ü"}]
    path.write_text(content, encoding="utf-32")
    with pytest.raises(ValueError, match=f"t.{kind} is UTF-32"):
        list(open_records(path).rows())


def test_what_is_nested_too_deep(tmp_path: Path) -> None:
    for depth in (900, 5_000, 200_000):
        deep = "[" * depth + "]" * depth
        (tmp_path / "t.jsonl").write_text(f'{{"query": "a", "positive": "b"}}\n{{"query": {deep}, "positive": "b"}}\n')
        with pytest.raises(ValueError, match="^Row 1 of t.jsonl is bad: "):
            load_pairs(tmp_path / "t.jsonl")
        assert len(load_pairs(tmp_path / "t.jsonl", on_bad_row="skip")) == 1
        (tmp_path / "t.json").write_text(f'[{{"query": {deep}, "positive": "b"}}]')
        with pytest.raises(ValueError, match=r"t\.json"):
            load_pairs(tmp_path / "t.json")


def test_half_a_character_is_a_bad_row(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "\ud800"}, {"text": "b", "image": "\udfff.png"}, {"text": "c", "id": "\ud800"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = open_corpus(tmp_path / "t.jsonl", Columns()).read(0, 4)
    assert [row["error"] is None for row in found] == [True, False, False, False]
    for number, column in ((1, "text"), (2, "image"), (3, "id")):
        assert found[number]["error"].startswith(f"Row {number} of t.jsonl: column {column}: found ")
        assert "not UTF-8" in found[number]["error"] and found[number]["error"].isascii()


def test_the_first_rows_of_a_list_are_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the beginning ends, rows and errors are those of the whole file."""
    rows = [{"n": number, "of": [" ,]", 1.5]} for number in range(4)]
    file = tmp_path / "t.json"
    for text in (json.dumps(rows), json.dumps(rows, indent=2), json.dumps([*rows, 12.5, rows[0]])):
        file.write_text(text)
        whole = list(map(str, json.loads(text)))
        for length in range(len(text) + 1):
            monkeypatch.setattr(json_rows, "BEGINNING", length)
            found = [str(row) if isinstance(row, dict) else "12.5" for row in json_rows.json_rows(file)]
            assert found == whole
    monkeypatch.setattr(json_rows, "BEGINNING", 80)
    file.write_text(json.dumps(rows)[:-9])
    read = json_rows.json_rows(file)
    assert [next(read), next(read)] == rows[:2]
    with pytest.raises(ValueError, match="t.json: its row 3 is not JSON"):
        list(read)
