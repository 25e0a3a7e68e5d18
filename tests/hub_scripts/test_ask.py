"""`coma embed --memory` keeps what questions are answered from, and `coma ask` answers them without an image."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hub_scripts.ask import answer_from_memory, ask_index
from hub_scripts.common.loading import load_model
from hub_scripts.common.terminal import one_line
from hub_scripts.embed import embed_table
from hub_scripts.embedding.store import memory_at
from hub_scripts.embedding.stored_memory import StoredMemory
from hub_scripts.hub.training_record import TRAINING_FILE
from hub_scripts.search import search_index
from modeling_coma import ComaForEmbedding
from trainers.encoding.likelihood import as_answer, likelihoods_from_memory


QUESTION = "what is around it?"


@pytest.fixture(scope="module")
def answering(coma_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says of itself that it went through stage 1."""
    folder = shutil.copytree(coma_folder, tmp_path_factory.mktemp("answering") / "model")
    (folder / TRAINING_FILE).write_text(json.dumps([{"stage": "compression"}, {"stage": "contrastive"}]))
    return folder


@pytest.fixture(scope="module")
def images(picture: Callable) -> dict[str, Image.Image]:
    return {f"{place}.png": picture(56 + 28 * (place % 3), 56 + 28 * (place % 2), place) for place in range(9)}


@pytest.fixture(scope="module")
def make_index(
    answering: Path, images: dict[str, Image.Image], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`make_index("i.parquet", precision="int8")`: an index with memories, whose images are gone."""

    def make(name: str, **options: object) -> Path:
        folder = tmp_path_factory.mktemp("index")
        (folder / "photos").mkdir()
        for file, image in images.items():
            image.save(folder / "photos" / file)
        embed_table(answering, folder / "photos", folder / name, memory=True, part_rows=4, **options)
        shutil.rmtree(folder / "photos")
        return folder / name

    return make


@pytest.fixture(scope="module")
def index(make_index: Callable) -> Path:
    return make_index("i.parquet")


def test_it_answers_as_the_image_itself_when_that_is_gone(
    index: Path, answering: Path, images: dict[str, Image.Image], coma_command: Callable
) -> None:
    coma = model, processor = load_model(str(answering), device="cpu")
    nearest = search_index(index, QUESTION, model=coma, k=9)
    memories = [model.compress(**processor.process([images[hit.row["id"]]])) for hit in nearest]
    dialogue = as_answer(processor, QUESTION, "What is this?")
    likely = [likelihoods_from_memory(model, memory, dialogue).item() for memory in memories]
    for k in (1, 9):
        answered = ask_index(index, QUESTION, model=coma, k=k, rerank=True, max_new_tokens=9)
        order = np.argsort([-one for one in likely[:k]])
        assert [hit.row for hit in answered.candidates] == [nearest[place].row for place in order]
        assert answered.hit.score == pytest.approx(likely[order[0]], abs=1e-3)
        assert answered.text == answer_from_memory(coma, memories[order[0]], QUESTION, 9)
        plain = ask_index(index, QUESTION, model=coma, k=k, max_new_tokens=9)
        assert plain.candidates == nearest[:k] and plain.text == answer_from_memory(coma, memories[0], QUESTION, 9)
    code, text, error = coma_command("ask", index, QUESTION, "--rerank", "-k", 9, "--max-new-tokens", 9)
    assert code == 0, error
    assert text == f"{answered.hit.row['id']}  likelihood {answered.hit.score:.3f}\n{one_line(answered.text)}\n"


@pytest.mark.parametrize(("precision", "away"), [("float16", 1e-3), ("ubinary", 1 / 127)])
def test_a_memory_comes_back(make_index: Callable, answering: Path, images: dict, precision: str, away: float) -> None:
    path = make_index("folder", precision=precision)
    stored = StoredMemory.of(json.loads(pq.read_schema(path / "part-00000.parquet").metadata[b"coma"]))
    model, processor = load_model(str(answering), device="cpu")
    names = sorted(images)
    places = np.array([7, 0, 3])
    found = stored.form.unpack(memory_at(path, places), model.device, model.dtype)
    with torch.no_grad():
        memory = model.compress(**processor.process([images[names[place]] for place in places]))
    assert torch.equal(found.next_position, memory.next_position)
    for one, other in zip(found.layers, memory.layers, strict=True):
        for numbers, expected in zip(one, other, strict=True):
            most = expected.abs().amax(dim=-1, keepdim=True)
            assert ((numbers - expected).abs() <= away * most + 1e-6).all() and numbers.shape == expected.shape
    assert stored.num_bytes == (1536 if precision == "float16" else 768 + 4 * 48)


def test_the_rest_of_an_index_is_as_without_it_and_the_command_says_what_there_is(
    answering: Path, coma_command: Callable, tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("a red apple\na green tree\n")
    code, text, error = coma_command("embed", answering, tmp_path / "t.txt", tmp_path / "m.parquet", "--memory")
    assert code == 0, error
    assert "and the memory of each, 1536 bytes a row, for questions" in text
    embed_table(answering, tmp_path / "t.txt", tmp_path / "one.parquet")
    kept, one = (pq.read_table(tmp_path / name) for name in ("m.parquet", "one.parquet"))
    vectors = [np.array(table["embedding"].to_pylist()) for table in (kept, one)]
    assert np.abs(vectors[0] - vectors[1]).max() < 1e-6
    assert kept.drop_columns(["embedding", "memory", "memory_position"]).equals(one.drop_columns("embedding"))


def test_it_goes_on_where_it_was(answering: Path, tmp_path: Path) -> None:
    rows = ['{"text": "a red apple"}', '{"text": "a green tree"}', '{"text": ""}']
    data, out = tmp_path / "t.jsonl", tmp_path / "i.parquet"
    data.write_text("\n".join(rows))
    with pytest.raises(ValueError, match="^Row 2"):
        embed_table(answering, data, out, part_rows=1, memory=True)
    with pytest.raises(ValueError, match=r"memory \(\{'kind': 'cache'.*, now None\)"):
        embed_table(answering, data, out, part_rows=1)
    data.write_text("\n".join([*rows[:2], '{"text": "it"}']))
    made = embed_table(answering, data, out, part_rows=1, memory=True)
    assert (made.num_rows, made.num_embedded) == (3, 1)
    assert memory_at(out, np.arange(3)).positions.min() > 4


def test_a_number_that_is_nan_is_no_likelihood_and_no_answer(index: Path, answering: Path) -> None:
    coma = load_model(str(answering), device="cpu")
    head = coma[0].get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone().index_fill_(0, torch.tensor([5]), torch.nan))
    with pytest.raises(ValueError, match=r"likelihood .* row \d of .*i.parquet is not finite; try --dtype float32"):
        ask_index(index, QUESTION, model=coma, rerank=True)
    with pytest.raises(ValueError, match="logits that are NaN; try --dtype float32"):
        ask_index(index, QUESTION, model=coma)


def test_a_model_whose_memory_is_of_the_other_kind_is_refused(index: Path, answering: Path) -> None:
    model, processor = load_model(str(answering), device="cpu")
    weights, model.config.memory = model.state_dict(), "states"
    other = ComaForEmbedding(model.config).eval()
    other.load_state_dict(weights, strict=False)
    with pytest.raises(ValueError, match="of the kind 'cache', and this model answers from 'states'"):
        ask_index(index, QUESTION, model=(other, processor))


def test_what_cannot_be_asked_is_refused(
    index: Path, answering: Path, coma_folder: Path, make_coma: Callable, tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("a red apple\n")
    out = tmp_path / "i.parquet"
    with pytest.raises(ValueError, match="coma pretrain.*--any-memory"):
        embed_table(coma_folder, tmp_path / "t.txt", out, memory=True)
    with pytest.raises(ValueError, match="give that, too"):
        embed_table(coma_folder, tmp_path / "t.txt", out, any_memory=True)
    embed_table(coma_folder, tmp_path / "t.txt", out)
    with pytest.raises(ValueError, match="i.parquet keeps no memory of its rows: ask .*--memory"):
        ask_index(out, QUESTION)
    with pytest.raises(ValueError, match="was made by another model"):
        ask_index(index, QUESTION, model=make_coma("qwen2_5_vl", 3))
    with pytest.raises(ValueError, match="k=0"):
        ask_index(index, QUESTION, k=0)
    for question, message in ((" ", "blank"), ("what <|im_end|>", "cannot be embedded")):
        with pytest.raises(ValueError, match=message):
            ask_index(index, question, model=answering)
