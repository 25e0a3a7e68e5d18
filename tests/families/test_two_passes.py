"""Stage 1 in every family of attention alone: what a dialogue sees of an input are its K columns of cache.

Two passes through a cache, one pass behind a mask, and rows taken one by one without padding are the same; windows
are shorter than the inputs here, and than most dialogues.
"""

import pytest
import torch
import torch.nn.functional as F

from modeling_coma.backbone_coma import token_types
from tests.checkpointing import set_checkpointing
from tests.families.folders import FAMILIES, STRANGERS


HYBRIDS = ("lfm2_vl", "minicpmv4_6", "qwen3_5")  # layers without columns of keys and values
every_family = pytest.mark.parametrize(
    "family", [family for family in (*FAMILIES, *STRANGERS) if family not in HYBRIDS]
)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
K, STEPS = 4, 4
SAID = [
    [("what is this?", "an apple")],
    [("what is around it?", "leaves, and a little sky"), ("red?", "no")],
    [("a?", "a")],
]


@pytest.fixture(scope="session")
def items(picture):
    wide, high = picture(84, 56, 1), picture(56, 112, 2)
    return ["a red apple", {"image": high, "text": "what is this?"}, {"image": [wide, picture(28, 28, 3)]}]


@pytest.fixture
def coma(family, family_coma):
    return family_coma(family)


@pytest.fixture
def make_batch(coma, items, pad):
    """`make_batch(side, dialogue_side, rows)`: inputs and dialogues of these rows, padded on these sides."""
    _, processor = coma
    roles = ("user", "assistant")
    dialogues = [
        [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]
        for turns in SAID
    ]

    def make(side="left", dialogue_side="right", rows=(0, 1, 2)):
        inputs = processor.process([items[row] for row in rows], padding_side=side)
        said = processor.process_dialogues([dialogues[row] for row in rows])
        return {**inputs, **pad(said, dialogue_side)}

    return make


def loss_and_gradients(model, batch, checkpointing=False, **options):
    set_checkpointing(model.train(), checkpointing)
    model.zero_grad()
    loss = model(**batch, **options).loss
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], **CLOSE)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5 * max(scale, 1.0), rtol=1e-4, msg=name)


@every_family
def test_two_passes_are_one_behind_a_mask_in_loss_and_every_gradient(coma, make_batch):
    model, _ = coma
    expected = loss_and_gradients(model, make_batch())
    decoder = {name for name, _ in model.backbone.get_decoder().named_parameters(prefix="backbone.model")}
    assert len(expected[1]) > len(decoder) / 2
    for side in ("left", "right"):
        for dialogue_side in ("left", "right"):
            batch = make_batch(side, dialogue_side)
            assert_same(loss_and_gradients(model, batch, checkpointing=True), expected)
            assert_same(loss_and_gradients(model, batch), expected)


@every_family
def test_a_batch_is_its_rows(coma, make_batch):
    model, _ = coma
    batch = make_batch()
    counts = (batch["labels"] != -100).sum(dim=1)
    with torch.no_grad():
        losses = torch.stack([model(**make_batch(rows=[row])).loss for row in range(3)])
        torch.testing.assert_close(model(**batch).loss, (losses * counts).sum() / counts.sum(), **CLOSE)
    assert losses.std() > 1e-3


@every_family
def test_the_full_view_is_the_stock_backbone_without_the_tokens(coma, make_batch, items):
    model, processor = coma
    sums, count = 0.0, 0
    for row in range(3):
        batch = make_batch(rows=[row])
        ids = torch.cat([batch["input_ids"][:, :-K], batch["dialogue_input_ids"]], dim=1)
        images = {name: batch[name] for name in processor.image_inputs if name in batch}
        types = token_types(model.backbone, ids == model.config.backbone_config.image_token_id)
        with torch.no_grad():
            logits = model.backbone(input_ids=ids, **types, **images).logits[0, -batch["labels"].shape[1] - 1 : -1]
        is_answer = batch["labels"][0] != -100
        sums += F.cross_entropy(logits[is_answer], batch["labels"][0][is_answer], reduction="sum")
        count += is_answer.sum()
    for side in ("left", "right"):
        for dialogue_side in ("left", "right"):
            with torch.no_grad():
                output = model(**make_batch(side, dialogue_side), dialogue_view="full")
            torch.testing.assert_close(output.loss, sums / count, **CLOSE)
    assert abs(model(**make_batch()).loss - sums / count) > 1e-3, "the compressed view is another"


@torch.no_grad()
def greedy(model, memory, ids):
    """The answer without a cache or a state: all of the dialogue is read again for every token."""
    said = ids[None]
    for _ in range(STEPS):
        labels = F.pad(torch.full_like(said, -100), (0, 1), value=0)
        longer = F.pad(said, (0, 1))
        state = model.answer(memory, longer, torch.ones_like(longer), labels).answer_states[-1]
        said = torch.cat([said, model.get_output_embeddings()(state).argmax()[None, None]], dim=1)
    return said[0, len(ids) :].tolist()


@every_family
def test_an_answer_from_memory_is_recomputation_alone_and_in_a_batch(coma, make_batch, pad):
    model, processor = coma
    questions = [[{"role": "user", "content": turns[0][0]}] for turns in SAID]
    rows = pad(processor.process_dialogues(questions, add_generation_prompt=True), "left")
    ids, mask = rows["dialogue_input_ids"], rows["dialogue_attention_mask"]
    with torch.no_grad():
        memory = model.compress(**{name: v for name, v in make_batch().items() if name not in {*rows}})
    assert memory.num_columns == K
    found = model.generate_from_memory(memory, ids, mask, max_new_tokens=STEPS, do_sample=False, eos_token_id=None)
    alone = [(memory.select(torch.tensor([row])), ids[row][mask[row] == 1]) for row in range(3)]
    assert found.tolist() == [greedy(model, *row) for row in alone]
    assert len({tuple(answer) for answer in found.tolist()}) > 1
