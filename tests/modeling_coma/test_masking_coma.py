"""The mask of one pass is the one that its file draws, wherever padding is, and so are columns and positions."""

import re

import pytest
import torch

from modeling_coma import masking_coma
from modeling_coma.backbone_coma import count_positions, token_types
from modeling_coma.masking_coma import add_dialogue, find_compression_tokens


IDS = [90, 91]
LINE = re.compile(r"\b([xcd]) +((?:[1.] ?){8})")


def drawn(view: str) -> torch.Tensor:
    """The drawing in the docstring: what each of three input tokens, two compression tokens, three others sees."""
    lines = masking_coma.__doc__.splitlines()
    found = [LINE.findall(line) for line in lines if LINE.search(line)]
    place = ("compressed", "full").index(view)
    assert [line[place][0] for line in found] == list("xxxccddd")
    return torch.tensor([[mark == "1" for mark in line[place][1].split()] for line in found])


@pytest.fixture
def backbone(make_coma):
    backbone = make_coma("qwen2_5_vl")[0].backbone
    backbone.set_attn_implementation("eager")
    return backbone


def joined(backbone, view: str, side: str = "left", dialogue_side: str = "right") -> tuple[dict, torch.Tensor]:
    """One row with two columns of padding in its input and one in its dialogue; and which columns are no padding."""
    pad, dialogue_pad = [0, 0], [0]
    ids, mask = [5, 6, 7, *IDS], [1] * 5
    ids, mask = (pad + ids, pad + mask) if side == "left" else (ids + pad, mask + pad)
    said, said_mask = [8, 9, 10], [1] * 3
    if dialogue_side == "left":
        said, said_mask = dialogue_pad + said, dialogue_pad + said_mask
    else:
        said, said_mask = said + dialogue_pad, said_mask + dialogue_pad
    ids, mask, said, said_mask = (torch.tensor([row]) for row in (ids, mask, said, said_mask))
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": count_positions(mask).expand(3, -1, -1)}
    inputs |= token_types(backbone, torch.zeros_like(ids))
    columns = find_compression_tokens(ids, mask, IDS)
    both = add_dialogue({**inputs, "other": 5}, columns, said, said_mask, view, backbone)
    return both, torch.cat([mask, said_mask], dim=1)[0].bool()


@pytest.mark.parametrize("dialogue_side", ["left", "right"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("view", ["compressed", "full"])
def test_the_mask_is_the_one_that_is_drawn(backbone, view, side, dialogue_side):
    both, is_there = joined(backbone, view, side, dialogue_side)
    visible = both["attention_mask"][0, 0] == 0
    assert torch.equal(visible[is_there][:, is_there], drawn(view))
    assert not visible[is_there][:, ~is_there].any()  # padding is never seen
    assert both["other"] == 5 and both["input_ids"][0][is_there].tolist() == [5, 6, 7, *IDS, 8, 9, 10]


@pytest.mark.parametrize(("view", "start"), [("compressed", 5), ("full", 3)])
def test_the_dialogue_stands_behind_what_it_sees(backbone, view, start):
    both, is_there = joined(backbone, view)
    assert both["position_ids"].shape[0] == 3
    assert both["position_ids"][0, 0][is_there].tolist() == [0, 1, 2, 3, 4, start, start + 1, start + 2]


def test_the_two_views_differ_where_the_dialogue_looks_at_the_input():
    differs = drawn("compressed") != drawn("full")
    assert not differs[:5].any() and not differs[5:, 5:].any() and differs[5:, :5].all()


def test_another_view_is_refused(backbone):
    with pytest.raises(ValueError, match="dialogue_view='both' does not exist; choose 'compressed' or 'full'"):
        joined(backbone, "both")


def test_positions_count_what_is_there():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 1, 0]])
    assert count_positions(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 0, 0], [0, 0, 1, 2, 0]]


def test_columns_are_found_on_either_side_of_the_padding():
    ids = torch.tensor([[0, 0, 5, 90, 91], [5, 90, 91, 0, 0], [90, 91, 0, 0, 0]])
    columns = find_compression_tokens(ids, (ids != 0).long(), IDS)
    assert columns.tolist() == [[3, 4], [1, 2], [0, 1]]
    with pytest.raises(ValueError, match="Row 2 must end with the 2 compression tokens .*; it has 1"):
        find_compression_tokens(ids, torch.tensor([[1] * 5, [1] * 5, [1, 0, 0, 0, 0]]) * (ids != 0), IDS)
    with pytest.raises(ValueError, match="Row 0 must end with the 2 compression tokens .*; it has 0"):
        find_compression_tokens(ids[:, :0], ids[:, :0], IDS)
