"""Sliding windows count what is there: no padding between an input and its dialogue, no tokens that are not seen."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F

from modeling_coma.memory_coma import padding_first
from tests.checkpointing import set_checkpointing
from trainers.backbone import model_from_backbone


K, WINDOW = 4, 6
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SIDES = [(side, dialogue_side) for side in ("left", "right") for dialogue_side in ("left", "right")]


@pytest.fixture
def coma(make_backbone, tmp_path):
    """Two of three layers have a window shorter than every dialogue."""
    folder = tmp_path / "windows"
    shutil.copytree(make_backbone("qwen2_5_vl"), folder)
    config = json.loads((folder / "config.json").read_text())
    layers = ["sliding_attention", "sliding_attention", "full_attention"]
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": layers}
    (folder / "config.json").write_text(json.dumps(config))
    model, processor = model_from_backbone(folder, K)
    assert model.config.backbone_config.get_text_config().layer_types == layers
    return model, processor


def loss(model, batch, checkpointing=False, **options):
    set_checkpointing(model.train(), checkpointing)
    with torch.no_grad():
        return model(**batch, **options).loss


def test_two_passes_are_one_wherever_padding_is(coma, batch):
    model, _ = coma
    expected = loss(model, batch())
    for sides in SIDES:
        for checkpointing in (False, True):
            torch.testing.assert_close(loss(model, batch(*sides), checkpointing), expected, **CLOSE)
    model.backbone.config.get_text_config().sliding_window = 1000
    assert abs(loss(model, batch(), checkpointing=True) - expected) > 1e-3, "the windows matter"


def test_the_full_view_is_the_stock_backbone_without_the_tokens(coma, pad, mixed_dialogues):
    model, processor = coma
    texts = ["a red apple on a green tree, and a blue one below it", "what is this?"]
    said = processor.process_dialogues(mixed_dialogues[1:3])
    losses = []
    for row, text in enumerate(texts):
        one = {**processor.process([text]), **pad({name: said[name][row : row + 1] for name in said})}
        ids = torch.cat([one["input_ids"][:, :-K], one["dialogue_input_ids"]], dim=1)
        logits = model.backbone(input_ids=ids).logits[0, -one["labels"].shape[1] - 1 : -1]
        is_answer = one["labels"][0] != -100
        losses.append(F.cross_entropy(logits[is_answer], one["labels"][0][is_answer], reduction="none"))
    for side, dialogue_side in SIDES:
        both = {**processor.process(texts, padding_side=side), **pad(said, dialogue_side)}
        torch.testing.assert_close(loss(model, both, dialogue_view="full"), torch.cat(losses).mean(), **CLOSE)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_an_answer_does_not_depend_on_the_padding_of_its_dialogue(coma, mixed_inputs, pad, num_beams):
    model, processor = coma
    questions = ["what is this?", "is it red? and what is around it?", "a?"]
    rows = processor.process_dialogues([[{"role": "user", "content": text}] for text in questions])
    asked = pad(rows, "left")
    ids, mask = asked["dialogue_input_ids"], asked["dialogue_attention_mask"]
    with torch.no_grad():
        memory = model.compress(**processor.process(mixed_inputs[:3]))
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    options |= {"num_beams": num_beams, "num_return_sequences": num_beams}
    found = model.generate_from_memory(memory, ids, mask, **options)
    alone = []
    for row in range(3):
        said = ids[row : row + 1, mask[row] == 1]
        one = memory.select(torch.tensor([row]))
        alone.append(model.generate_from_memory(one, said, torch.ones_like(said), **options))
    assert torch.equal(found, torch.cat(alone))


def test_the_order_puts_the_padding_before_the_memory():
    mask = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 0], [0, 1, 0, 1, 0]])
    assert padding_first(mask, 2).tolist() == [[2, 3, 4, 0, 1, 5, 6], [0, 1, 2, 3, 4, 5, 6], [2, 0, 1, 3, 4, 5, 6]]
    assert padding_first(mask[1:2], 2) is None
