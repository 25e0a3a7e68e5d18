"""Settings out of their range are named with their value, whoever makes them."""

import math
from dataclasses import dataclass
from typing import Literal

import pytest

from trainers.compression.config import ComaCompressionConfig
from trainers.contrastive.config import ComaContrastiveConfig
from trainers.experimental.config import ExperimentalContrastiveConfig
from trainers.ranges import COUNT, POSITIVE, check_choices, check_ranges


NAN, INF = math.nan, math.inf
BOTH = [
    *(("learning_rate", value) for value in (-1e-3, NAN, INF, 0, True, "1e-4", None)),
    *(("num_train_epochs", value) for value in (-3, 0, NAN, INF)),
    *(("max_steps", value) for value in (0, -2, 2.5, True)),
    *(("per_device_train_batch_size", value) for value in (0, -1, 1.5)),
    *(("warmup_steps", value) for value in (-1, NAN, 1.5)),
    *(("adam_beta1", value) for value in (-0.1, 1.0)),
    *(("max_length", value) for value in (0, -5, 1.5)),
    *(("seed", value) for value in (-1, 2**32, 0.5)),
    *(("save_total_limit", value) for value in (0, -1)),
    ("weight_decay", -0.1),
    ("max_grad_norm", NAN),
    ("gradient_accumulation_steps", 0),
    ("per_device_eval_batch_size", 0),
    ("dataloader_num_workers", -1),
    ("logging_steps", INF),
    ("save_steps", 0),
    ("neftune_noise_alpha", -1.0),
    ("on_bad_row", "ignore"),
    ("freeze_vision", "no"),
    ("bf16", 1),
]
COMPRESSION = [
    *(("kl_weight", value) for value in (-1, NAN)),
    *(("cross_entropy_weight", value) for value in (-1, INF)),
    *(("kl_temperature", value) for value in (0, -1, NAN)),
    ("dialogue_max_length", 0),
    ("max_tokens_per_batch", -1),
]
CONTRASTIVE = [
    *(("temperature", value) for value in (0, -0.1, NAN, INF)),
    *(("sub_batch_size", value) for value in (0, -1)),
    ("mini_batch_tokens", 0),
    ("hardness", NAN),
    *(("false_negative_margin", value) for value in (-0.1, NAN)),
    ("matryoshka_dims", [16, 0]),
    ("matryoshka_dims", [16.5]),
    *(("late_interaction_budgets", value) for value in ([], "1x1", ["1"], ["0x1"], [[1, 2, 3]], [[1, 1.5]])),
    *(("late_interaction_budgets", value) for value in (["1x1", "1x1"], ["2x2", "1x4"], [[2, 2], [4, 1]])),
    ("late_interaction_weights", [1.0]),
    ("instructions", {"a": True}),
    ("instructions", '["a"]'),
    ("instructions", '{"a": "x", "a": "y"}'),
    ("source_caps", {"a": 0}),
    ("source_weights", {"a": -1.0}),
]
EXPERIMENTAL = [*(("temperature_learning_rate", value) for value in (0, NAN)), ("joint_weight", -1)]
CASES = [(kind, *case) for kind in (ComaCompressionConfig, ComaContrastiveConfig) for case in BOTH]
CASES += [(ComaCompressionConfig, *case) for case in COMPRESSION]
CASES += [(ComaContrastiveConfig, *case) for case in CONTRASTIVE]
CASES += [(ExperimentalContrastiveConfig, *case) for case in EXPERIMENTAL]


@pytest.mark.parametrize(("kind", "name", "value"), CASES, ids=str)
def test_what_is_out_of_range_is_named(kind, name, value, tmp_path):
    with pytest.raises(ValueError, match=name):
        kind(output_dir=tmp_path, report_to="none", use_cpu=True, **{name: value})


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, 2.0, 3.0], [1.0, NAN]])
def test_budgets_have_a_weight_above_0_each(weights, tmp_path):
    settings = {"late_interaction_budgets": ["1x1", "2x2"], "output_dir": tmp_path, "use_cpu": True}
    with pytest.raises(ValueError, match="late_interaction_weights must be a number above 0 for each of the 2 budg"):
        ComaContrastiveConfig(late_interaction_weights=weights, **settings)
    assert ComaContrastiveConfig(late_interaction_weights=[1, 2], **settings).late_interaction_weights == [1, 2]


def test_what_is_in_range_is_kept(tmp_path):
    settings = {"learning_rate": 1e-3, "warmup_steps": 20.0, "max_steps": -1, "adam_beta1": 0.0, "save_total_limit": 1}
    config = ComaContrastiveConfig(
        output_dir=tmp_path, use_cpu=True, **settings, sub_batch_size=2, source_caps='{"a": 3}', temperature=1e-2
    )
    assert {name: getattr(config, name) for name in settings} == settings
    assert config.source_caps == {"a": 3}
    # Only a temperature is trained: there the learning rate of the model may be 0.
    config = ExperimentalContrastiveConfig(learning_rate=0.0, temperature_learning_rate=0.1, use_cpu=True)
    assert config.learning_rate == 0


def test_none_is_fine_where_it_is_the_default():
    @dataclass
    class Settings:
        steps: int = 1
        limit: float | None = None
        kind: Literal["a", "b"] = "a"

    check_ranges(Settings(), {"steps": COUNT, "limit": POSITIVE, "of another class": COUNT})
    with pytest.raises(ValueError, match="steps must be a whole number from 1, got None"):
        check_ranges(Settings(steps=None), {"steps": COUNT})
    with pytest.raises(ValueError, match="kind must be one of a, b, got 'c'"):
        check_choices(Settings(kind="c"))
