"""The name of a cache is decided once, by what a function takes."""

from pathlib import Path

import pytest
import torch
from transformers import GenerationMixin
from transformers.masking_utils import create_masks_for_generate

from modeling_coma.cache_coma import cache_argument


ROOT = Path(__file__).resolve().parents[2]
OLD = "past_" + "key_values"
one_backbone = pytest.mark.parametrize("model_type", ["qwen2_5_vl"])  # where another would show nothing new


def test_the_name_is_that_of_the_signature():
    def new(hidden, cache=None): ...
    def both(hidden, cache=None, **kwargs): ...
    def hidden(hidden, **kwargs): ...

    old = eval(f"lambda hidden, {OLD}=None: None")
    renaming = eval(f"lambda hidden, {OLD}=None, cache=None: None")
    assert cache_argument(old) == OLD
    assert [cache_argument(function) for function in (new, both, renaming, hidden)] == ["cache"] * 4


def test_what_this_version_calls_it_is_taken(coma, mixed_inputs, recwarn):
    """Every place where a cache is named; a wrong name warns, raises or, behind `**kwargs`, changes the answers."""
    model, processor = coma
    names = [
        type(model.backbone.model).forward,
        GenerationMixin.prepare_inputs_for_generation,
        create_masks_for_generate,
    ]
    assert {cache_argument(function) for function in names} <= {"cache", OLD}
    ids = torch.ones(len(mixed_inputs), 3, dtype=torch.long)
    memory = model.compress(**processor.process(mixed_inputs))
    model.answer(memory, ids, torch.ones_like(ids))
    model.generate_from_memory(memory, ids, torch.ones_like(ids), max_new_tokens=2)
    model(**processor.process(mixed_inputs), dialogue_input_ids=ids, dialogue_view="full")
    assert not [warning for warning in recwarn if issubclass(warning.category, FutureWarning)]


def test_no_other_file_knows_the_old_name():
    files = [
        file
        for room in ("modeling_coma", "trainers", "hub_scripts", "tests", "benchmarks", "docs")
        for pattern in ("*.py", "*.md")
        for file in (ROOT / room).rglob(pattern)
    ]
    assert len(files) > 100
    knowing = {str(file.relative_to(ROOT)) for file in files if OLD in file.read_text(encoding="utf-8")}
    assert knowing == {"modeling_coma/cache_coma.py"}
