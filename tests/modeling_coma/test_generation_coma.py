"""Settings of `generate`: from a memory they give what they give from the whole sequence, or they are refused.

The oracles keep no cache and no state: every next token comes from answering the whole dialogue again.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import GenerationConfig

from modeling_coma.generation_coma import ARGUMENTS, REFUSED, sequences_per_row
from tests.checkpointing import set_checkpointing


STEPS = 5
one_backbone = pytest.mark.parametrize("model_type", ["qwen2_5_vl"])  # where another would show nothing new
QUESTIONS = ["what is this?", "is it red? and what is around it?", "a?"]


@pytest.fixture
def asked(coma, mixed_inputs, pad):
    """A model, the memory of three rows (text, image, both), and ragged questions, padded on the left."""
    model, processor = coma
    rows = processor.process_dialogues(
        [[{"role": "user", "content": question}] for question in QUESTIONS], add_generation_prompt=True
    )
    padded = pad(rows, "left")
    with torch.no_grad():
        memory = model.compress(**processor.process(mixed_inputs[:3]))
    return model, memory, padded["dialogue_input_ids"], padded["dialogue_attention_mask"]


@torch.no_grad()
def log_probabilities(model, memory, ids: torch.Tensor) -> torch.Tensor:
    """Of every token to come next, from one row of memory. A label behind the end makes `answer` return its state."""
    ids = torch.cat([ids, ids.new_zeros(1)])[None]
    labels = torch.full_like(ids, -100)
    labels[0, -1] = 0
    states = model.answer(memory, ids, torch.ones_like(ids), labels).answer_states
    return model.get_output_embeddings()(states[-1]).log_softmax(-1)


def greedy(model, memory, ids: torch.Tensor, steps: int = STEPS) -> list[int]:
    said = ids
    for _ in range(steps):
        said = torch.cat([said, log_probabilities(model, memory, said).argmax()[None]])
    return said[len(ids) :].tolist()


def beams(model, memory, ids: torch.Tensor, width: int, steps: int = STEPS) -> list[list[int]]:
    """The best sequences of beam search, best first, where nothing ends before its time."""
    kept = [(0.0, ids)]
    for _ in range(steps):
        longer = []
        for score, sequence in kept:
            values, tokens = log_probabilities(model, memory, sequence).topk(2 * width)
            pairs = zip(values.tolist(), tokens, strict=True)
            longer += [(score + value, torch.cat([sequence, token[None]])) for value, token in pairs]
        kept = sorted(longer, key=lambda pair: -pair[0])[:width]
    return [sequence[len(ids) :].tolist() for _, sequence in kept]


def rows_of(memory, ids, mask):
    return [(memory.select(torch.tensor([row])), ids[row][mask[row] == 1]) for row in range(len(ids))]


def test_greedy_search_is_recomputation(asked):
    model, memory, ids, mask = asked
    texts = model.generate_from_memory(memory, ids, mask, max_new_tokens=STEPS, do_sample=False, eos_token_id=None)
    assert texts.tolist() == [greedy(model, *row) for row in rows_of(memory, ids, mask)]
    assert len({tuple(text) for text in texts.tolist()}) == 3


@pytest.mark.parametrize("width", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_beam_search_is_recomputation(asked, width):
    model, memory, ids, mask = asked
    options = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "num_beams": width}
    expected = [beams(model, *row, width) for row in rows_of(memory, ids, mask)]
    best = model.generate_from_memory(memory, ids, mask, **options)
    assert best.tolist() == [sequences[0] for sequences in expected]
    every = model.generate_from_memory(memory, ids, mask, num_return_sequences=width, **options)
    assert every.tolist() == [sequence for sequences in expected for sequence in sequences]
    first = [greedy(model, *row) for row in rows_of(memory, ids, mask)]
    assert width == 2 or best.tolist() != first  # else this shows nothing


@one_backbone
def test_samples_are_of_their_own_row(asked):
    """With next to no temperature, every sample is the greedy answer of its row."""
    model, memory, ids, mask = asked
    options = {"max_new_tokens": STEPS, "eos_token_id": None}
    expected = model.generate_from_memory(memory, ids, mask, do_sample=False, **options)
    samples = model.generate_from_memory(
        memory, ids, mask, do_sample=True, temperature=1e-4, num_return_sequences=3, **options
    )
    assert torch.equal(samples, expected.repeat_interleave(3, dim=0))
    torch.manual_seed(0)
    wild = model.generate_from_memory(
        memory, ids, mask, do_sample=True, temperature=5.0, top_k=0, num_return_sequences=3, **options
    )
    assert len({tuple(text) for text in wild.tolist()}) == 9


@one_backbone
@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_dict_has_the_new_tokens_and_their_scores(asked, num_beams):
    model, memory, ids, mask = asked
    options = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "num_beams": num_beams}
    expected = model.generate_from_memory(memory, ids, mask, **options)
    output = model.generate_from_memory(
        memory, ids, mask, return_dict_in_generate=True, output_scores=True, output_logits=True, **options
    )
    assert torch.equal(output.sequences, expected)
    assert len(output.scores) == len(output.logits) == STEPS
    if num_beams == 1:
        assert torch.equal(torch.stack(output.logits, dim=1).argmax(-1), expected)
        row = rows_of(memory, ids, mask)[1]
        scores = output.logits[0][1].log_softmax(-1)
        torch.testing.assert_close(scores, log_probabilities(model, *row), atol=1e-5, rtol=1e-5)


@one_backbone
def test_lengths_count_the_dialogue_and_not_the_memory(asked):
    model, memory, ids, mask = asked
    options = {"do_sample": False, "eos_token_id": None}
    expected = model.generate_from_memory(memory, ids, mask, max_new_tokens=4, **options)
    assert torch.equal(model.generate_from_memory(memory, ids, mask, max_length=ids.shape[1] + 4, **options), expected)


@one_backbone
def test_a_generation_config_says_the_same_as_arguments(asked):
    model, memory, ids, mask = asked
    free = model.generate_from_memory(memory, ids, mask, max_new_tokens=STEPS, do_sample=False)
    stop = int(free[0, 1])
    settings = {"max_new_tokens": STEPS, "do_sample": False, "num_beams": 2, "num_return_sequences": 2}
    for more in ({}, {"eos_token_id": stop, "pad_token_id": 7}):
        config = GenerationConfig(**settings, **more)
        before = config.to_dict()
        found = model.generate_from_memory(memory, ids, mask, generation_config=config)
        assert torch.equal(found, model.generate_from_memory(memory, ids, mask, **settings, **more))
        assert config.to_dict() == before
    config = GenerationConfig(max_new_tokens=STEPS, do_sample=False, eos_token_id=stop, pad_token_id=7)
    ended = model.generate_from_memory(memory, ids, mask, generation_config=config)
    assert 7 in ended[0].tolist() and 7 not in free[0].tolist()


@one_backbone
def test_the_settings_of_the_backbone_are_heard(asked):
    """A checkpoint brings its own; `use_cache=False` in it is about training."""
    model, memory, ids, mask = asked
    options = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None}
    expected = model.generate_from_memory(memory, ids, mask, num_beams=3, **options)
    model.backbone.generation_config.num_beams = 3
    model.backbone.generation_config.use_cache = False
    model.backbone.config.get_text_config().use_cache = False
    assert torch.equal(model.generate_from_memory(memory, ids, mask, **options), expected)
    config = GenerationConfig(**options)
    assert torch.equal(model.generate_from_memory(memory, ids, mask, generation_config=config), expected)
    model.backbone.generation_config.prompt_lookup_num_tokens = 2
    with pytest.raises(ValueError, match="`prompt_lookup_num_tokens=2` cannot be used with a memory"):
        model.generate_from_memory(memory, ids, mask, **options)


VALUES = dict.fromkeys(REFUSED, 2)
VALUES |= {"use_cache": False, "cache_implementation": "static", "cache_config": {}, "use_mtp": True}
VALUES |= {"dola_layers": "low", "token_healing": True, "custom_generate": "transformers-community/dola"}


@one_backbone
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_a_memory_cannot_serve_is_refused_by_name(asked, name):
    model, memory, ids, mask = asked
    message = f"`{name}=.*` cannot be used with a memory: .*. Leave it out."
    with pytest.raises(ValueError, match=message):
        model.generate_from_memory(memory, ids, mask, max_new_tokens=2, **{name: VALUES[name]})
    if hasattr(config := GenerationConfig(max_new_tokens=2), name):
        setattr(config, name, VALUES[name])
        with pytest.raises(ValueError, match=message):
            model.generate_from_memory(memory, ids, mask, generation_config=config)
    expected = model.generate_from_memory(memory, ids, mask, max_new_tokens=2)
    for neutral in (REFUSED[name][0], None):
        assert torch.equal(
            model.generate_from_memory(memory, ids, mask, max_new_tokens=2, **{name: neutral}), expected
        )


@one_backbone
@pytest.mark.parametrize(
    "name", ["max_new_token", "pixel_values", "inputs_embeds", "position_ids", "attention_mask", "cache", "input_ids"]
)
def test_what_nothing_knows_is_refused_by_name(asked, name):
    model, memory, ids, mask = asked
    with pytest.raises(TypeError, match=f"generate_from_memory has no argument {name}: .*streamer"):
        model.generate_from_memory(memory, ids, mask, max_new_tokens=2, **{name: ids})
    model.generate_from_memory(memory, ids, mask, max_new_tokens=2, **{name: None})


def test_every_setting_of_transformers_is_known():
    """What a new version adds and reads the cache would show here: it is looked at, and named in one of the two."""
    settings = vars(GenerationConfig())
    assert set(ARGUMENTS).isdisjoint(settings)
    assert sequences_per_row({}, GenerationConfig()) == 1
    kwargs = {"num_beams": 2, "num_return_sequences": 3, "do_sample": True}
    assert sequences_per_row(kwargs, GenerationConfig(num_beams=5)) == 3
    about_caches = {name for name in settings if "cache" in name or "assistant_early" in name or "lookup" in name}
    assert about_caches <= REFUSED.keys()


@one_backbone
def test_a_streamer_hears_the_dialogue_and_the_answer(asked):
    model, memory, ids, mask = asked
    heard = []

    class Streamer:
        def put(self, tokens):
            heard.append(tokens.tolist())

        def end(self):
            heard.append("end")

    text = model.generate_from_memory(
        memory.select(torch.tensor([1])), ids[1:2], mask[1:2], max_new_tokens=3, do_sample=False, streamer=Streamer()
    )
    assert heard == [ids[1:2].tolist(), *[[token] for token in text[0].tolist()], "end"]


@one_backbone
def test_several_threads_on_one_model_hear_their_own_answers(asked):
    """Each dialogue of each thread has its own positions: nothing of them may stay on the model."""
    model, memory, ids, mask = asked
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    jobs = [torch.tensor([row, row]) if row % 2 else torch.tensor([row]) for row in range(3)] * 8

    def answer(rows: torch.Tensor) -> list:
        return model.generate_from_memory(memory.select(rows), ids[rows], mask[rows], **options).tolist()

    expected = [answer(rows) for rows in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, jobs)) == expected
    assert model.backbone.model.rope_deltas is None


@one_backbone
def test_a_memory_of_another_number_of_rows_is_refused(asked):
    model, memory, ids, mask = asked
    one = memory.select(torch.tensor([0]))
    for function in (model.answer, model.generate_from_memory):
        with pytest.raises(ValueError, match="3 dialogues cannot be answered from a memory of 1 rows"):
            function(one, ids, mask)


@one_backbone
def test_checkpointing_does_not_pass_a_memory_over_in_silence(asked):
    model, memory, ids, mask = asked
    set_checkpointing(model.train())
    for function in (model.answer, model.generate_from_memory):
        with pytest.raises(ValueError, match="checkpointing would pass the memory over"):
            function(memory, ids, mask)
    assert model.eval().generate_from_memory(memory, ids, mask, max_new_tokens=2).shape == (3, 2)
