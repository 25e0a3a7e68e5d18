"""A memory of states: dialogues are answered from K vectors through a projection, from nothing else of an input."""

import copy
import dataclasses

import pytest
import torch
from transformers import AutoModel, AutoProcessor, GenerationConfig

from modeling_coma import ComaConfig, ComaForEmbedding, CompressionMemory
from modeling_coma.states_coma import pad_left
from tests.checkpointing import set_checkpointing
from trainers.backbone import model_from_backbone


K, STEPS = 4, 5
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SIDES = [("left", "right"), ("left", "left"), ("right", "right"), ("right", "left")]
one_backbone = pytest.mark.parametrize("model_type", ["qwen2_5_vl"])  # where another would show nothing new


@pytest.fixture(scope="module")
def made(make_backbone):
    return {}, lambda model_type: model_from_backbone(make_backbone(model_type), K, memory="states")


@pytest.fixture
def coma(made, model_type):
    """A model of every backbone, whose projection is no longer the one that it began with."""
    models, make = made
    if model_type not in models:
        models[model_type] = make(model_type)
        weight = models[model_type][0].memory_projection.weight
        with torch.no_grad():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    return copy.deepcopy(models[model_type])


def without_dialogue(batch: dict) -> dict:
    return {name: value for name, value in batch.items() if "dialogue" not in name and name != "labels"}


def dialogue_of(batch: dict) -> dict:
    return {name: value for name, value in batch.items() if name not in without_dialogue(batch)}


@pytest.fixture
def rows(coma, mixed_inputs, mixed_dialogues, pad):
    """Every row of the batch alone, without padding."""
    _, processor = coma
    return [
        {**processor.process([one], compression_instruction=True), **pad(processor.process_dialogues([dialogue]))}
        for one, dialogue in zip(mixed_inputs, mixed_dialogues, strict=True)
    ]


def test_the_memory_is_the_states_and_no_more(coma, batch):
    model, _ = coma
    memory = model.compress(**without_dialogue(batch()))
    size, count = model.config.hidden_size, len(batch()["input_ids"])
    assert memory.layers == [] and memory.num_columns == K
    assert memory.compression_states.shape == (count, K, size)
    assert memory.num_bytes == count * K * size * 4
    assert torch.equal(memory.compression_states, model(**without_dialogue(batch())).compression_states)
    some = memory.select(torch.tensor([2, 0, 2]))
    assert len(some) == 3 and torch.equal(some.compression_states[1], memory.compression_states[0])


@torch.no_grad()
def test_answers_are_those_of_the_stock_backbone_behind_soft_tokens(coma, batch, rows):
    """Of each row alone: projected states, then the dialogue, at positions that go on from the input."""
    model, _ = coma
    states = []
    for row in rows:
        memory = model.compress(**without_dialogue(row))
        embedded = model.get_input_embeddings()(row["dialogue_input_ids"])
        soft = memory.compression_states @ model.memory_projection.weight.T
        positions = torch.arange(-K, embedded.shape[1]) + memory.next_position
        hidden = model.backbone.model(
            inputs_embeds=torch.cat([soft, embedded], dim=1), position_ids=positions.expand(3, 1, -1), use_cache=False
        ).last_hidden_state
        states.append(hidden[0, K - 1 : -1][row["labels"][0] != -100])
    for sides in SIDES:
        torch.testing.assert_close(model(**batch(*sides)).answer_states, torch.cat(states), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("view", ["compressed", "full"])
def test_a_batch_is_its_rows(coma, batch, rows, view):
    model, _ = coma
    alone = [model(**row, dialogue_view=view) for row in rows]
    for sides in SIDES:
        output = model(**batch(*sides), dialogue_view=view)
        torch.testing.assert_close(output.answer_states, torch.cat([one.answer_states for one in alone]), **CLOSE)
        torch.testing.assert_close(output.embeddings, torch.cat([one.embeddings for one in alone]), **CLOSE)


def test_the_full_view_is_that_of_a_model_with_a_cache(coma, batch):
    model, _ = coma
    with torch.no_grad():
        full, compressed = (model(**batch(), dialogue_view=view) for view in ("full", "compressed"))
        model.config.memory = "cache"
        expected = model(**batch(), dialogue_view="full")
    torch.testing.assert_close(full.answer_states, expected.answer_states, **CLOSE)
    torch.testing.assert_close(full.embeddings, compressed.embeddings, **CLOSE)
    assert abs(full.loss - compressed.loss) > 1e-3


@torch.no_grad()
def test_two_images_with_equal_states_give_equal_answers(coma, picture, pad):
    """What the states do not say of an image cannot be answered."""
    model, processor = coma
    turn = [{"role": "user", "content": "what is this?"}, {"role": "assistant", "content": "an apple"}]
    dialogue = pad(processor.process_dialogues([turn]))
    one, other = (model.compress(**processor.process([picture(seed=seed)])) for seed in (1, 2))
    assert (one.compression_states - other.compression_states).abs().max() > 1e-2
    answers = [model.answer(memory, **dialogue).answer_states for memory in (one, other)]
    assert (answers[0] - answers[1]).abs().max() > 1e-4
    same = dataclasses.replace(other, compression_states=one.compression_states)
    assert torch.equal(model.answer(same, **dialogue).answer_states, answers[0])


def test_pixels_reach_the_loss_through_the_states_alone(coma, picture, pad):
    model, processor = coma
    turn = [{"role": "user", "content": "what is this?"}, {"role": "assistant", "content": "an apple"}]
    dialogue = pad(processor.process_dialogues([turn]))
    batch = dict(processor.process([picture(seed=1)]))
    batch["pixel_values"].requires_grad_()
    memory = model.compress(**batch)
    model.answer(memory, **dialogue).loss.backward(retain_graph=True)
    assert batch["pixel_values"].grad.abs().sum() > 0
    assert model.memory_projection.weight.grad.abs().sum() > 0
    batch["pixel_values"].grad = None
    cut = dataclasses.replace(memory, compression_states=memory.compression_states.detach())
    model.answer(cut, **dialogue).loss.backward()
    assert batch["pixel_values"].grad is None


@one_backbone
def test_the_states_of_the_last_layer_are_trained(coma, batch):
    """With a cache they are not: nothing looks at them."""
    model, _ = coma
    for memory, is_trained in (("states", True), ("cache", False)):
        model.config.memory = memory
        kept = model.compress(**without_dialogue(batch()))
        loss = model.answer(kept, **dialogue_of(batch())).loss
        (gradient,) = torch.autograd.grad(loss, kept.compression_states, allow_unused=True)
        assert bool(gradient is not None and gradient.abs().sum() > 0) is is_trained


def test_checkpointing_changes_nothing(coma, batch, run):
    model, _ = coma
    found = []
    for checkpointing in (False, True):
        model.zero_grad()
        output = run(model, batch(), checkpointing)
        output.loss.backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        found.append((output.loss, output.embeddings, gradients))
    torch.testing.assert_close(found[1], found[0], **CLOSE)
    assert "memory_projection.weight" in found[0][2]


@pytest.fixture
def asked(coma, mixed_inputs, pad):
    """A model, the memory of three rows (text, image, both), and ragged questions, padded on the left."""
    model, processor = coma
    questions = ["what is this?", "is it red? and what is around it?", "a?"]
    dialogues = [[{"role": "user", "content": question}] for question in questions]
    padded = pad(processor.process_dialogues(dialogues, add_generation_prompt=True), "left")
    with torch.no_grad():
        memory = model.compress(**processor.process(mixed_inputs[:3]))
    return model, memory, padded["dialogue_input_ids"], padded["dialogue_attention_mask"]


@torch.no_grad()
def greedy(model, memory: CompressionMemory, ids: torch.Tensor, steps: int = STEPS) -> list[int]:
    """Every next token from answering the dialogue again. A label behind the end makes `answer` give its state."""
    said = ids
    for _ in range(steps):
        longer = torch.cat([said, said.new_zeros(1)])[None]
        labels = torch.full_like(longer, -100)
        labels[0, -1] = 0
        states = model.answer(memory, longer, torch.ones_like(longer), labels).answer_states
        said = torch.cat([said, model.get_output_embeddings()(states).argmax(-1)])
    return said[len(ids) :].tolist()


def test_generation_is_greedy_by_recomputation(asked):
    model, memory, ids, mask = asked
    expected = [greedy(model, memory.select(torch.tensor([i])), ids[i][mask[i] == 1]) for i in range(3)]
    options = {"do_sample": False, "eos_token_id": None}
    for limit in ({"max_new_tokens": STEPS}, {"max_length": ids.shape[1] + STEPS}):
        found = model.generate_from_memory(memory, ids, mask, **limit, **options)
        assert found.tolist() == expected
        config = GenerationConfig(**limit, **options)
        assert model.generate_from_memory(memory, ids, mask, generation_config=config).tolist() == expected
    output = model.generate_from_memory(
        memory, ids, mask, max_new_tokens=STEPS, return_dict_in_generate=True, **options
    )
    assert output.sequences.tolist() == expected
    assert model.backbone.model.rope_deltas is None  # nothing of a call stays on the model


@one_backbone
def test_settings_of_generation_are_heard(asked):
    model, memory, ids, mask = asked
    options = {"do_sample": False, "max_new_tokens": STEPS}
    several = model.generate_from_memory(memory, ids, mask, num_beams=3, num_return_sequences=2, **options)
    assert several.shape == (6, STEPS)
    one = model.generate_from_memory(memory.select(torch.tensor([1])), ids[1:2], mask[1:2], num_beams=3, **options)
    assert torch.equal(several[2:3], one)
    # Some settings go by the tokens of the dialogue, which `generate` has beside their embeddings: here they are
    # wanted again.
    free = model.generate_from_memory(memory, ids, mask, **options)
    wanted = model.generate_from_memory(memory, ids, mask, repetition_penalty=1e-6, **options)
    assert all(wanted[row, 0] in ids[row][mask[row] == 1] for row in range(3))
    assert not all(free[row, 0] in ids[row][mask[row] == 1] for row in range(3))
    said = int(free[1, 0])
    later = model.generate_from_memory(memory, ids, mask, eos_token_id=said, min_length=ids.shape[1] + 3, **options)
    assert not (later[:, :3] == said).any()


@one_backbone
def test_a_memory_of_another_number_of_rows_is_refused(asked):
    model, memory, ids, mask = asked
    for function in (model.answer, model.generate_from_memory):
        with pytest.raises(ValueError, match="3 dialogues cannot be answered from a memory of 1 rows"):
            function(memory.select(torch.tensor([0])), ids, mask)


@one_backbone
def test_nothing_is_answered_from_nothing(asked):
    """A memory without columns is none: `evaluate_compression` asks what is answered then."""
    model, memory, ids, mask = asked
    labels = torch.full_like(ids, -100)
    labels[:, -1] = 5
    nothing = dataclasses.replace(memory, compression_states=memory.compression_states[:, :0])
    output = model.answer(nothing, ids, mask, labels)
    assert output.embeddings is None
    positions = memory.next_position[:, None] + (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        alone = model.backbone.model(input_ids=ids, attention_mask=mask, position_ids=positions.expand(3, -1, -1))
    torch.testing.assert_close(output.answer_states, alone.last_hidden_state[:, -2], **CLOSE)


def test_padding_between_parts_moves_to_the_left():
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [0, 1, 0, 1, 0]])  # as many rows as axes of positions
    ids = torch.arange(15).view(3, 5)
    positions, embeddings = torch.stack([ids, ids + 100, ids + 200]), ids[..., None].expand(3, 5, 2).float()
    moved, places = pad_left({"ids": ids, "positions": positions, "inputs_embeds": embeddings, "other": 7}, mask)
    assert moved["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 1, 1]]
    assert moved["ids"].tolist() == [[2, 4, 0, 1, 3], [5, 6, 7, 8, 9], [10, 12, 14, 11, 13]]
    assert torch.equal(moved["positions"], torch.stack([moved["ids"] + 100 * axis for axis in range(3)]))
    assert torch.equal(moved["inputs_embeds"][..., 1], moved["ids"].float())
    assert moved["other"] == 7 and torch.equal(moved["ids"].gather(1, places), ids)


@one_backbone
def test_the_form_is_in_the_config(coma, make_coma):
    model, _ = make_coma()
    assert model.config.memory == "cache" and not hasattr(model, "memory_projection")
    assert coma[0].config.memory == "states"
    with pytest.raises(ValueError, match="memory='rows' does not exist; choose 'cache' or 'states'"):
        ComaConfig(model.config.backbone_config.to_dict(), [1, 2], memory="rows")


@one_backbone
def test_a_projection_that_nothing_is_known_of_is_the_identity(coma):
    fresh = ComaForEmbedding(coma[0].config)
    assert torch.equal(fresh.memory_projection.weight, torch.eye(coma[0].config.hidden_size))


@one_backbone
def test_a_folder_has_the_projection(coma, tmp_path):
    """It loads here; test_remote_code.py loads one in a process that does not know this package."""
    model, processor = coma
    folder = tmp_path / "model"
    model.save_pretrained(folder), processor.save_pretrained(folder)
    again = AutoModel.from_pretrained(folder)
    assert torch.equal(again.memory_projection.weight, model.memory_projection.weight)
    processor = AutoProcessor.from_pretrained(folder)
    ids = processor.process_dialogues([[{"role": "user", "content": "what is this?"}]], add_generation_prompt=True)
    ids = torch.tensor(ids["input_ids"])
    found = []
    for one in (model, again):
        with torch.no_grad():
            memory = one.compress(**processor.process(["a red apple"]))
        options = {"max_new_tokens": 6, "do_sample": False}
        answer = one.generate_from_memory(memory, ids, torch.ones_like(ids), **options)
        found.append(f"{memory.compression_states.sum().item()}\n{answer.tolist()}\n")
    assert found[0] == found[1]


@one_backbone
def test_checkpointing_does_not_keep_it_from_answering(asked):
    """There is no cache that would be passed over."""
    model, memory, ids, mask = asked
    labels = torch.full_like(ids, -100)
    labels[:, -1] = 5
    expected = model.answer(memory, ids, mask, labels).loss
    set_checkpointing(model.train())
    torch.testing.assert_close(model.answer(memory, ids, mask, labels).loss, expected, **CLOSE)
