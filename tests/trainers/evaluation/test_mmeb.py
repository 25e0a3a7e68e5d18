"""MMEB image sets are read as the benchmark means them, and what is malformed is named."""

import pytest
import torch

from tests.mmeb_folders import NUMBER, v1_rows, v2_rows
from trainers.data.mmeb.sets import SETS
from trainers.evaluation.mmeb import read_image_set
from trainers.evaluation.retrieval import score_set


ONE_OF_EACH = ("ImageNet-1K", "ChartQA", "MSCOCO_t2i", "CIRR")


def texts_of(messages):
    return "".join(block.get("text", "[image]") for block in messages[0]["content"])


@pytest.mark.parametrize("layout", [v1_rows, v2_rows])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_unique_input_is_there_once(layout, name, tmp_path):
    made = read_image_set(layout(name, tmp_path), SETS[name], tmp_path)
    assert len(made.queries) == len(made.documents) == NUMBER
    assert len(made.items) == 2 * NUMBER == len({str(item) for item in made.items})
    assert made.relevance.documents.tolist() == [[n] for n in range(NUMBER)]
    assert sorted(made.candidates[0].tolist()) == list(range(NUMBER))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_v1_and_v2_put_the_same_prompts_together(name, tmp_path):
    """The rows of the fixture say the same in both layouts, so the prompts have to be the same."""
    first, second = (read_image_set(rows(name, tmp_path), SETS[name], tmp_path) for rows in (v1_rows, v2_rows))
    for one, other in zip(first.items, second.items, strict=True):
        told, expected = texts_of(other), texts_of(one)
        if name == "CIRR" and "Represent" in told:  # without a text, these alone end without a line break
            expected = expected.removesuffix("\n")
        assert told == expected


def test_prompts_of_a_row(tmp_path):
    made = read_image_set(v2_rows("ChartQA", tmp_path), SETS["ChartQA"], tmp_path)
    content = made.items[made.queries[2]][0]["content"]
    assert [block["type"] for block in content] == ["image", "text"]
    assert content[0]["image"] == str(tmp_path / "noto/2.png") and content[1]["text"] == "\nName it: number 2\n"


def test_a_candidate_with_the_name_of_the_first_is_right(tmp_path):
    rows = v2_rows("ImageNet-1K", tmp_path)
    rows[1]["tgt_text"] = ["same", "other", "same"]
    made = read_image_set(rows[:2], SETS["ImageNet-1K"], tmp_path)
    places = {texts_of(made.items[place]): n for n, place in enumerate(made.documents)}
    assert sorted(made.candidates[1].tolist())[-2:] == sorted([places["same"], places["other"]])
    assert made.relevance.documents[1].tolist() == [places["same"]]

    rows = v2_rows("RefCOCO-Matching", tmp_path, captions=True)
    rows[0]["tgt_img_path"][1:3] = [rows[0]["tgt_img_path"][0]] * 2  # one image, three things in it
    rows[0]["tgt_text"][2] = f'"{rows[0]["tgt_text"][0]}"'  # and quotation marks make no other name
    made = read_image_set(rows, SETS["RefCOCO-Matching"], tmp_path)
    assert (made.relevance.documents[0] >= 0).sum() == 2 and (made.relevance.documents[1] >= 0).sum() == 1


def test_ranked_among_its_own_or_all(tmp_path):
    rows = v1_rows("ImageNet-1K", tmp_path)[:2]
    rows[0]["tgt_text"], rows[1]["tgt_text"] = ["apple", "pear"], ["plum", "cherry"]
    for row in rows:
        row["tgt_img_path"] = ["", ""]
    own = read_image_set(rows, SETS["ImageNet-1K"], tmp_path)
    among_all = read_image_set(rows, SETS["ImageNet-1K"], tmp_path, among_all=True)
    embeddings = torch.zeros(len(own.items), 4)
    # apple (right for 0) is beaten by cherry alone; plum (right for 1) by nothing
    for words, vector in {
        "apple": [3, 0, 0, 1],
        "pear": [1, 0, 0, 3],
        "plum": [0, 3, 0, 0],
        "cherry": [4, 0, 0, 1],
    }.items():
        place = next(n for n, item in enumerate(own.items) if texts_of(item) == words)
        embeddings[place] = torch.tensor(vector).float()
    embeddings[own.queries] = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    assert score_set(own, embeddings)["hit@1"] == 1
    scores = score_set(among_all, embeddings)
    assert (scores["hit@1"], scores["mrr"]) == (0.5, 0.75)
    assert own.digest != among_all.digest


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ImageNet-1K", {"qry_text": None}, r"Row 1 of ImageNet-1K, qry_text: found None; expected a string"),
        ("ImageNet-1K", {"tgt_text": "cat"}, r"Row 1 of ImageNet-1K, tgt_text: found 'cat'; expected a list"),
        ("ImageNet-1K", {"tgt_text": []}, r"Row 1 of ImageNet-1K, tgt_text: found \[\]; expected a list"),
        ("ImageNet-1K", {"tgt_text": ["cat", 3]}, r"Row 1 of ImageNet-1K, tgt_text: found 3 in it; expected strings"),
        ("ImageNet-1K", {"tgt_text": ["cat", " "]}, r"Row 1 of ImageNet-1K, tgt_text\[1\]: found what has neither"),
        ("ImageNet-1K", {"qry_img_path": "x.png"}, r"Row 1 of ImageNet-1K, qry_img_path: found no file .*x.png"),
        (
            "ImageNet-1K",
            {"qry_img_path": ""},
            r"Row 1 of ImageNet-1K, qry_img_path: found what has 1 marks .* no imag",
        ),
        ("MSCOCO_t2i", {"tgt_img_path": ["noto/1.png"]}, r"Row 1 of MSCOCO_t2i, tgt_img_path: found 1; expected 6"),
        (
            "MSCOCO_t2i",
            {"tgt_img_path": [""] * NUMBER},
            r"Row 1 of MSCOCO_t2i, tgt_img_path\[0\]: found what has 1 mark",
        ),
        ("MSCOCO_t2i", {"tgt_img_path": ["x.png"] * NUMBER}, r"Row 1 of MSCOCO_t2i, tgt_img_path\[0\]: found no file"),
        ("MSCOCO_t2i", {"tgt_inst": ...}, r"Row 1 of MSCOCO_t2i, tgt_inst: found columns .*; expected a column"),
    ],
)
def test_a_malformed_row_is_named(name, change, message, tmp_path):
    rows = v2_rows(name, tmp_path)
    rows[1] = {column: value for column, value in {**rows[1], **change}.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        read_image_set(rows, SETS[name], tmp_path)


def test_malformed_rows_of_v1(tmp_path):
    rows = v1_rows("MSCOCO_t2i", tmp_path)
    rows[3]["qry_text"] = "<|image_1|> without an image"
    with pytest.raises(ValueError, match="Row 3 of MSCOCO_t2i, qry_text: found what has 1 marks"):
        read_image_set(rows, SETS["MSCOCO_t2i"], tmp_path)
    with pytest.raises(ValueError, match="MSCOCO_t2i has no rows"):
        read_image_set([], SETS["MSCOCO_t2i"], tmp_path)
