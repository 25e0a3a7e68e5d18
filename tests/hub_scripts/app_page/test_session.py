"""What the page finds is what `coma search` finds; what it answers is read from a memory."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hub_scripts.app_page.session import Session
from hub_scripts.embed import embed_table
from hub_scripts.embedding.opened import OpenStore, open_any
from hub_scripts.index import build_index
from hub_scripts.search import search_index


def test_it_finds_what_search_finds(session: Session, emoji_index: Path) -> None:
    image = str(emoji_index.parent / session.search("apple", None, 1)[0].row["image"])
    for words, given in (("red apple", None), ("", image), ("the same in blue", image)):
        found = session.search(words, given, 7)
        assert found == search_index(emoji_index, words or None, image=given, model=session.coma, k=7)


def test_more_like_a_row_is_a_search_by_its_embedding_without_itself(session: Session, emoji_index: Path) -> None:
    row, hits = session.more_like(17, 5)
    assert row["row"] == 17 and len(hits) == 5 and all(hit.row["row"] != 17 for hit in hits)
    image = emoji_index.parent / row["image"]
    itself, *others = search_index(emoji_index, image=image, model=session.coma, k=6)
    assert itself.row["row"] == 17 and [hit.row for hit in others] == [hit.row for hit in hits]
    assert len(session.more_like(17, 100)[1]) == 59
    for number in (60, -1, 2**70):
        with pytest.raises(ValueError, match="has no row"):
            session.more_like(number, 5)


@pytest.mark.parametrize("precision", ["float16", "int8", "ubinary"])
def test_small_vectors_in_a_folder_are_as_good(
    session: Session, coma_folder: Path, tmp_path: Path, precision: str
) -> None:
    root, small = session.pictures.root, {"dims": 32, "any_dims": True, "precision": precision, "device": "cpu"}
    embed_table(coma_folder, root / "photos.csv", tmp_path / "small", **small)
    cut = Session(OpenStore(tmp_path / "small"), session.coma, root)
    row, hits = cut.more_like(17, 5)
    itself, *others = cut.search("", str(root / row["image"]), 6)
    assert itself.row["row"] == 17 and itself.score > 0.99
    assert np.allclose([hit.score for hit in hits], [hit.score for hit in others], atol=0.02)
    assert len(cut.pairs.scores) == 10_000


def test_rows_are_found_by_number_and_place(emoji_index: Path) -> None:
    table = pq.read_table(emoji_index)
    embeddings = torch.tensor(table["embedding"].to_pylist())
    places = np.array([0, 3, 59])
    assert torch.equal(OpenStore(emoji_index).vectors_at(places), embeddings[places])
    row, embedding = OpenStore(emoji_index).find_row(59)
    assert row["id"] == table["id"][59].as_py() and torch.equal(embedding, embeddings[59])


@pytest.mark.extras
def test_an_index_of_lancedb_is_as_good(session: Session, tmp_path: Path) -> None:
    build_index(session.index.path, tmp_path / "photos.index")
    other = Session(open_any(tmp_path / "photos.index"), session.coma, session.pictures.root)
    assert other.num_rows == 60 and np.allclose(other.pairs.scores, session.pairs.scores, atol=1e-6)
    places = np.array([0, 3, 59])
    assert torch.allclose(other.index.vectors_at(places), session.index.vectors_at(places), atol=1e-6)
    (row, hits), (expected_row, expected) = other.more_like(17, 5), session.more_like(17, 5)
    assert row == expected_row and [hit.row for hit in hits] == [hit.row for hit in expected]
    assert other.in_hand({"row": 3})[0] == session.in_hand({"row": 3})[0]
    for number in (60, -1, 2**70):
        with pytest.raises(ValueError, match="has no row"):
            other.more_like(number, 5)


def test_an_answer_is_that_of_the_memory_of_the_image(session: Session, picture: Callable) -> None:
    answer = session.ask(picture(56, 56, 1), "What is drawn here?")
    model, processor = session.coma
    memory = model.compress(**processor.process([picture(56, 56, 1)]))
    asked = [[{"role": "user", "content": "What is drawn here?"}]]
    ids = torch.tensor(processor.process_dialogues(asked, add_generation_prompt=True)["input_ids"])
    expected = model.generate_from_memory(memory, ids, torch.ones_like(ids), max_new_tokens=48, do_sample=False)
    assert answer.text == processor.tokenizer.decode(expected[0], skip_special_tokens=True).strip()
    assert (answer.num_columns, answer.num_bytes) == (4, memory.num_bytes)


def test_what_cannot_be_searched_or_asked_is_one_line(session: Session, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    Image.new("L", (9000, 10_000)).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match="Type some words, or give an image"):
        session.search(" \n", None, 5)
    with pytest.raises(ValueError, match="special token"):
        session.search("<|im_start|>", None, 5)
    for name, why in (("bad.png", "no format that Pillow"), ("huge.png", "9000x10000 pixels are over the limit")):
        for run in (partial(session.search, "", k=5), session.given):
            with pytest.raises(ValueError, match=why) as error:
                run(upload=str(tmp_path / name))
            assert str(tmp_path) not in str(error.value) and name in str(error.value)
    image = Image.new("RGB", (56, 56))
    with pytest.raises(ValueError, match="Type a question"):
        session.ask(image, "  ")
    with pytest.raises(ValueError, match="The question cannot be asked: "):
        session.ask(image, "<|im_start|>")
    with pytest.raises(ValueError, match="Give an image, or click a result"):
        session.in_hand(None)


def test_only_a_model_with_a_memory_answers(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session.can_answer
    monkeypatch.setattr("hub_scripts.app_page.session.keeps_keys_and_values", lambda config: False)
    assert not Session(session.index, session.coma, session.pictures.root).can_answer
