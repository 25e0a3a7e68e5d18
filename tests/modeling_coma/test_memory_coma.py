"""K columns of cache stand for an input: answers and texts come from them alone, whatever else the model has done."""

import pytest
import torch
from transformers import DynamicCache

from modeling_coma import CompressionMemory
from tests.checkpointing import set_checkpointing


K = 4
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
one_backbone = pytest.mark.parametrize("model_type", ["qwen2_5_vl"])  # where another would show nothing new
QUESTIONS = ["what is this?", "is it red? and what is around it?", "a?", "what?", "leaves?", "where is the sky?", "x"]


@pytest.fixture
def dialogues(coma, mixed_dialogues, pad):
    _, processor = coma
    return pad(processor.process_dialogues(mixed_dialogues))


def prompts(processor, pad, rows: list[int], side: str = "left") -> tuple[torch.Tensor, torch.Tensor]:
    """Ragged dialogues that end where the model is to speak; the second has an earlier turn."""
    messages = [[{"role": "user", "content": QUESTIONS[row]}] for row in range(len(QUESTIONS))]
    messages[1] = [{"role": "user", "content": "red?"}, {"role": "assistant", "content": "no"}, *messages[1]]
    padded = pad(processor.process_dialogues([messages[row] for row in rows], add_generation_prompt=True), side)
    return padded["dialogue_input_ids"], padded["dialogue_attention_mask"]


def greedy_oracle(model, memory: CompressionMemory, ids: torch.Tensor, steps: int) -> list[int]:
    """Without any cache of its own: the whole dialogue is answered again for every token.

    A label after the last token makes `answer` return the state that predicts what comes there.
    """
    said = []
    for _ in range(steps):
        so_far = torch.cat([ids, torch.tensor(said, dtype=torch.long)])
        asked = torch.cat([so_far, torch.tensor([0])])[None]
        labels = torch.full_like(asked, -100)
        labels[0, -1] = 0
        output = model.answer(memory, asked, torch.ones_like(asked), labels)
        said.append(int(model.get_output_embeddings()(output.answer_states[-1]).argmax()))
        if said[-1] == model.config.eos_token_id:
            break
    return said


def assert_same(one: CompressionMemory, other: CompressionMemory) -> None:
    torch.testing.assert_close(one.compression_states, other.compression_states, **CLOSE)
    assert torch.equal(one.next_position, other.next_position)
    assert len(one.layers) == len(other.layers)
    for pair, other_pair in zip(one.layers, other.layers, strict=True):
        torch.testing.assert_close(pair, other_pair, **CLOSE)


def test_answering_a_memory_is_the_forward(coma, mixed_inputs, dialogues):
    model, processor = coma
    batch = processor.process(mixed_inputs)
    expected = model(**batch, **dialogues)
    output = model.answer(model.compress(**batch), *dialogues.values())
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(output.answer_states, expected.answer_states)
    assert torch.equal(output.embeddings, expected.embeddings)


def test_shape_and_size(coma, mixed_inputs):
    model, processor = coma
    text = model.config.get_text_config()
    memory = model.compress(**processor.process(mixed_inputs))
    head_dim = text.hidden_size // text.num_attention_heads
    assert len(memory) == len(mixed_inputs) and len(memory.layers) == text.num_hidden_layers
    for keys, values in memory.layers:
        assert keys.shape == values.shape == (len(mixed_inputs), text.num_key_value_heads, K, head_dim)
    numbers = 2 * text.num_hidden_layers * len(mixed_inputs) * text.num_key_value_heads * K * head_dim
    assert memory.num_bytes == 4 * numbers
    assert memory.next_position.shape == (len(mixed_inputs),)


def test_neither_batch_nor_padding_changes_a_memory(coma, mixed_inputs):
    model, processor = coma
    with torch.no_grad():
        memory = model.compress(**processor.process(mixed_inputs))
        assert_same(model.compress(**processor.process(mixed_inputs, padding_side="right")), memory)
        for row, item in enumerate(mixed_inputs):
            assert_same(model.compress(**processor.process([item])), memory.select(torch.tensor([row])))


@one_backbone
def test_select_takes_rows_in_any_order_with_repeats(coma, mixed_inputs, dialogues):
    model, processor = coma
    memory = model.compress(**processor.process(mixed_inputs))
    rows = torch.tensor([4, 0, 4, 2])
    chosen = memory.select(rows)
    assert len(chosen) == 4
    assert torch.equal(chosen.compression_states, memory.compression_states[rows])
    of_rows = [value[rows] for value in dialogues.values()]
    inputs = processor.process([mixed_inputs[row] for row in rows])
    expected = model(**inputs, **dict(zip(dialogues, of_rows, strict=True)))
    torch.testing.assert_close(model.answer(chosen, *of_rows).loss, expected.loss, **CLOSE)


@one_backbone
def test_use_leaves_a_memory_as_it_was(coma, mixed_inputs, dialogues, pad):
    """A cache grows while it is used; the memory may be asked again."""
    model, processor = coma
    memory = model.compress(**processor.process(mixed_inputs))
    cache = memory.to_cache()
    assert isinstance(cache, DynamicCache) and cache.get_seq_length() == K
    before = [(keys.clone(), values.clone()) for keys, values in memory.layers]
    first = model.answer(memory, *dialogues.values()).loss
    model.generate_from_memory(memory, *prompts(processor, pad, list(range(7))), max_new_tokens=3, do_sample=False)
    for (keys, values), (old_keys, old_values) in zip(memory.layers, before, strict=True):
        assert torch.equal(keys, old_keys) and torch.equal(values, old_values)
    assert torch.equal(model.answer(memory, *dialogues.values()).loss, first)


def test_answers_of_a_memory_do_not_see_the_image(coma, picture, dialogues):
    """Once compressed, another image may pass through the model: the answers stay; another memory changes them."""
    model, processor = coma
    a, b = (processor.process([{"image": picture(84, 56, seed), "text": "it"}]) for seed in (1, 2))
    row = [value[2:3] for value in dialogues.values()]
    memory = model.compress(**a)
    expected = model.answer(memory, *row).answer_states
    other = model.compress(**b)
    assert torch.equal(model.answer(memory, *row).answer_states, expected)
    assert (model.answer(other, *row).answer_states - expected).abs().max() > 1e-2


def test_gradients_flow_through_a_memory_or_stop_where_it_is_detached(coma, mixed_inputs, dialogues):
    model, processor = coma
    memory = model.compress(**processor.process(mixed_inputs))
    patches = model.backbone.model.visual.patch_embed.proj.weight
    (gradient,) = torch.autograd.grad(model.answer(memory, *dialogues.values()).loss, patches, retain_graph=True)
    assert gradient.abs().max() > 0
    layers = [(keys.detach(), values.detach()) for keys, values in memory.layers]
    detached = CompressionMemory(layers, memory.next_position, memory.compression_states.detach())
    loss = model.answer(detached, *dialogues.values()).loss
    assert torch.autograd.grad(loss, patches, allow_unused=True) == (None,)


@one_backbone
def test_checkpointing_keeps_no_memory_and_says_so(coma, mixed_inputs):
    model, processor = coma
    set_checkpointing(model.train())
    with pytest.raises(ValueError, match=r"No cache was filled: `eval\(\)`"):
        model.compress(**processor.process(mixed_inputs))
    assert len(model.eval().compress(**processor.process(mixed_inputs))) == len(mixed_inputs)


def test_generation_is_greedy_decoding_by_recomputation(coma, mixed_inputs, pad):
    model, processor = coma
    memory = model.compress(**processor.process(mixed_inputs))
    rows = list(range(len(mixed_inputs)))
    ids, mask = prompts(processor, pad, rows)
    texts = model.generate_from_memory(memory, ids, mask, max_new_tokens=6, do_sample=False)
    assert texts.shape == (len(rows), 6)
    assert len({tuple(text.tolist()) for text in texts}) > 3  # they are not all the same
    with torch.no_grad():
        for row in rows:
            expected = greedy_oracle(model, memory.select(torch.tensor([row])), ids[row][mask[row] == 1], 6)
            assert texts[row, : len(expected)].tolist() == expected
            single = model.generate_from_memory(
                memory.select(torch.tensor([row])), *prompts(processor, pad, [row]), max_new_tokens=6, do_sample=False
            )
            assert single[0].tolist() == texts[row].tolist()


def test_generation_depends_on_nothing_done_before(coma, mixed_inputs, pad):
    """The backbone remembers position offsets of its last batch; they must not leak into anything."""
    model, processor = coma
    options = {"max_new_tokens": 5, "do_sample": False}
    images, texts = processor.process(mixed_inputs[4:6]), processor.process(["it", "a red apple"])
    ids = prompts(processor, pad, [0, 1])
    embeddings = [model(**batch).embeddings for batch in (images, texts)]
    of_images, of_texts = model.compress(**images), model.compress(**texts)
    first = model.generate_from_memory(of_images, *ids, **options)
    second = model.generate_from_memory(of_texts, *ids, **options)
    assert not torch.equal(first, second)
    assert torch.equal(model.generate_from_memory(of_images, *ids, **options), first)
    model.generate_from_memory(
        of_texts.select(torch.tensor([0])), *prompts(processor, pad, [0]), **options
    )  # another batch size
    assert torch.equal(model.generate_from_memory(of_images, *ids, **options), first)
    for batch, expected in zip((images, texts), embeddings, strict=True):
        assert torch.equal(model(**batch).embeddings, expected)
    assert torch.equal(model.generate_from_memory(model.compress(**images), *ids, **options), first)


@one_backbone
def test_an_answer_ends_at_its_end_of_turn(coma, mixed_inputs, pad):
    model, processor = coma
    memory = model.compress(**processor.process(mixed_inputs[:2]))
    ids = prompts(processor, pad, [0, 1])
    free = model.generate_from_memory(memory, *ids, max_new_tokens=6, do_sample=False)
    stop = int(free[0, 2])
    ended = model.generate_from_memory(memory, *ids, max_new_tokens=6, do_sample=False, eos_token_id=stop)
    after = free[0].tolist().index(stop) + 1
    assert ended[0, :after].tolist() == free[0, :after].tolist()
    assert set(ended[0, after:].tolist()) <= {model.config.pad_token_id}
    assert model.config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")


@one_backbone
def test_a_model_in_training_generates_the_same(coma, mixed_inputs, pad):
    model, processor = coma
    memory, ids = model.compress(**processor.process(mixed_inputs[:2])), prompts(processor, pad, [0, 1])
    expected = model.generate_from_memory(memory, *ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.train().generate_from_memory(memory, *ids, max_new_tokens=4, do_sample=False), expected)
    assert not expected.requires_grad


@one_backbone
def test_padding_on_the_right_is_refused(coma, mixed_inputs, pad):
    model, processor = coma
    memory = model.compress(**processor.process(mixed_inputs[:2]))
    with pytest.raises(ValueError, match="padded on the left; a row here ends with padding"):
        model.generate_from_memory(memory, *prompts(processor, pad, [0, 1], side="right"), max_new_tokens=2)


def test_padding_of_dialogues_is_never_seen(coma, mixed_inputs, pad):
    model, processor = coma
    memory, (ids, mask) = model.compress(**processor.process(mixed_inputs[:2])), prompts(processor, pad, [0, 1])
    expected = model.generate_from_memory(memory, ids, mask, max_new_tokens=4, do_sample=False)
    assert (mask == 0).any()
    other = torch.where(mask == 0, 33, ids)
    assert torch.equal(model.generate_from_memory(memory, other, mask, max_new_tokens=4, do_sample=False), expected)
