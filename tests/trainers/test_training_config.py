"""Every setting of `TrainingArguments` acts in both stages, or is refused in one sentence."""

import dataclasses
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments, integrations

from trainers.compression.config import ComaCompressionConfig
from trainers.contrastive.config import ComaContrastiveConfig
from trainers.training_config import REFUSED, REFUSED_OF_ACCELERATE, RENAMED


CONFIGS = [ComaCompressionConfig, ComaContrastiveConfig]
LOCKED = Path(__file__).parents[2] / "constraints" / "locked.txt"

# Trainer or accelerate act upon them, and nothing here stands between; those in doubt are trained with further down.
AS_IN_HF = """
output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type warmup_steps optim
weight_decay adam_beta1 adam_beta2 adam_epsilon gradient_accumulation_steps max_grad_norm bf16 fp16 tf32
activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
torch_compile torch_compile_backend neftune_noise_alpha torch_empty_cache_steps logging_strategy logging_steps
logging_first_step log_on_each_node logging_nan_inf_filter log_level log_level_replica disable_tqdm report_to run_name
project trackio_space_id trackio_bucket_id trackio_static_space_id eval_strategy eval_steps eval_delay
per_device_eval_batch_size eval_on_start save_only_model save_strategy save_steps save_on_each_node save_total_limit
enable_jit_checkpoint push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
load_best_model_at_end greater_is_better ignore_data_skip full_determinism seed data_seed use_cpu
dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
dataloader_multiprocessing_context dataloader_in_order ddp_find_unused_parameters ddp_bucket_cap_mb
ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed skip_memory_metrics
resume_from_checkpoint local_rank
""".split()
# For scripts that read them; `coma` refuses what it does not obey.
FOR_SCRIPTS = ["do_train", "do_eval", "do_predict"]
# Nothing but losses and metrics comes out of an evaluation, whether this is set or not.
ALWAYS_SO = ["prediction_loss_only"]
# Refused with some values, or beside some settings: the tests below.
SOMETIMES = """
accelerator_config auto_find_batch_size bf16_full_eval fp16_full_eval dataloader_drop_last debug lr_scheduler_kwargs
metric_for_best_model optim_args optim_target_modules torch_compile_mode
""".split()

GROUPED = {"train_sampling_strategy": "group_by_length"}
WRONG = {
    "label_smoothing_factor": 0.1,
    "remove_unused_columns": True,
    "label_names": ["labels"],
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "tokens",
    "include_num_input_tokens_seen": "all",
    "include_for_metrics": ["loss"],
    "batch_eval_metrics": True,
    "eval_do_concat_batches": False,
    "eval_use_gather_object": True,
    "eval_accumulation_steps": 1,
    "average_tokens_across_devices": False,
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True},
    "use_cache": True,
    "parallelism_config": object(),
    "restore_callback_states_from_checkpoint": True,
}


def make(kind, **settings):
    return kind(**{"output_dir": "out", "report_to": "none", "use_cpu": True, **settings})


def test_every_field_is_in_the_table():
    table = [*AS_IN_HF, *FOR_SCRIPTS, *ALWAYS_SO, *SOMETIMES, *REFUSED]
    assert len(table) == len(set(table))
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    new, installed = sorted(fields - set(table)), version("transformers")
    if new and f"transformers=={installed}" not in LOCKED.read_text().splitlines():
        pytest.xfail(f"transformers {installed} has settings that nobody has tried here: {new}")
    assert not new, "try them in both stages, then put them into the table or refuse them"
    assert REFUSED.keys() <= fields and WRONG.keys() == REFUSED.keys()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_act_is_refused(kind, name):
    if name not in kind.refused:  # stage 1 has batches of similar length
        assert kind is ComaCompressionConfig and make(kind, **GROUPED, length_column_name="n").groups_by_length
        return
    with pytest.raises(ValueError, match=f"{name}=.* cannot act here: {REFUSED[name][1][:30]}"):
        make(kind, **{name: WRONG[name]})


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"accelerator_config": {name: values[0] in (False, None)}}, f"accelerator_config {name}=")
            for name, (values, _) in REFUSED_OF_ACCELERATE.items()
        ),
        ({"accelerator_config": '{"split_batches": true}'}, "accelerator_config split_batches=True"),
        ({"accelerator_config": {"dispatch": True}}, r"settings that do not exist: \['dispatch'\]"),
        ({"lr_scheduler_kwargs": "{min_lr: 1}"}, "lr_scheduler_kwargs must be a mapping, as JSON"),
        ({"lr_scheduler_kwargs": "0.1"}, r"lr_scheduler_kwargs must be a mapping, as JSON, got '0.1'\.$"),
        ({"lr_scheduler_kwargs": '{"a":'}, r"""got '{"a":': Expecting value: line 1 column 6"""),
        ({"lr_scheduler_kwargs": '{"a": 1, "a": 2}'}, "found the key 'a' twice"),
        ({"debug": "tpu_metrics_debug"}, "tpu_metrics_debug"),
        ({"optim_args": "beta=1"}, "optim_args='beta=1' cannot act"),
        ({"optim_target_modules": "all-linear"}, "optim_target_modules cannot act"),
        ({"torch_compile": True, "torch_compile_mode": "fastest"}, "torch_compile_mode must be one of"),
    ],
    ids=str,
)
def test_some_values_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        make(kind, **settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (ComaContrastiveConfig, {"auto_find_batch_size": True}, "fewer negatives"),
        (ComaContrastiveConfig, {"sub_batch_size": 2, "train_sampling_strategy": "sequential"}, "sub_batch_size"),
        (ComaCompressionConfig, {"bf16_full_eval": True}, "full_eval"),
        (ComaCompressionConfig, {**GROUPED, "dataloader_drop_last": True}, "beside train_sampling_strategy=group_by"),
        (ComaCompressionConfig, {"length_column_name": "n"}, "length_column_name cannot act without train_sampling"),
        (ComaCompressionConfig, {"max_tokens_per_batch": 9}, "max_tokens_per_batch needs train_sampling_strategy=gr"),
        (ComaCompressionConfig, {"train_sampling_strategy": "batch_rebalance"}, "train_sampling_strategy must be one"),
        (ComaCompressionConfig, {"kl_temperature": 2.0}, "without a kl_weight"),
        (ComaContrastiveConfig, {"push_to_hub": True, "hub_token": "hf_secret"}, "^hub_token would be published"),
    ],
)
def test_some_settings_exclude_each_other(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        make(kind, **settings)


@pytest.fixture(params=["compression", "contrastive"])
def train(request, make_coma):
    """`train(**settings)`: a trainer of either stage that has trained on six rows."""
    rows = request.getfixturevalue(f"{request.param}_rows")(number=6)
    make_trainer = request.getfixturevalue(f"{request.param}_trainer")

    def run(**settings):
        if "eval_strategy" in settings:
            settings["eval_dataset"] = rows
        trainer = make_trainer(make_coma(), rows, **settings)
        trainer.rows = rows
        trainer.train()
        return trainer

    run.stage = request.param
    return run


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


@pytest.fixture(scope="module")
def weights_of():
    """`weights_of(train, settings)`, remembered: what many tests compare with is trained once."""
    known = {}

    def find(train, settings):
        key = train.stage, repr(settings)
        if key not in known:
            known[key] = weights(train(**settings))
        return known[key]

    return find


@pytest.mark.parametrize(
    "settings",
    [
        {"neftune_noise_alpha": 5.0},
        pytest.param({"train_sampling_strategy": "sequential"}, marks=pytest.mark.slow),
        pytest.param({"optim": "adafactor"}, marks=pytest.mark.slow),
        pytest.param({"data_seed": 3}, marks=pytest.mark.slow),
        {"dataloader_drop_last": True, "max_steps": 3},  # a third batch instead of the rest of the first epoch
        pytest.param(
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": '{"min_lr": 0.0009}', "max_steps": 3},
            marks=pytest.mark.slow,
        ),
        pytest.param({"max_grad_norm": 1e-3, "optim": "sgd"}, marks=pytest.mark.slow),
        {"accelerator_config": {"use_seedable_sampler": False}},
    ],
    ids=str,
)
def test_what_should_change_the_weights_does(train, weights_of, settings):
    common = {name: settings[name] for name in ("optim", "max_steps") if name in settings and len(settings) > 1}
    plain, changed = weights_of(train, common), weights(train(**settings))
    assert plain.shape == changed.shape and not torch.equal(plain, changed)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"torch_compile": True, "torch_compile_backend": "eager"}, marks=pytest.mark.study),
        pytest.param({"torch_empty_cache_steps": 1}, marks=pytest.mark.slow),
        pytest.param({"debug": "underflow_overflow"}, marks=pytest.mark.slow),
        {"skip_memory_metrics": False},
        {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 1, "dataloader_in_order": False},
        pytest.param({"enable_jit_checkpoint": True}, marks=pytest.mark.slow),
        pytest.param({"prediction_loss_only": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_what_should_not_change_the_weights_does_not(train, weights_of, settings):
    plain, changed = weights_of(train, {}), weights(train(**settings))
    assert torch.allclose(plain, changed, atol=1e-6)


def test_every_row_is_evaluated_although_training_drops_the_last(train):
    trainer = train(dataloader_drop_last=True)
    assert trainer.evaluate(trainer.rows)["eval_loss"] > 0  # of six rows, less than a batch
    assert trainer.args.dataloader_drop_last and len(trainer.get_train_dataloader()) == 1


def test_settings_of_a_schedule_that_it_does_not_know(train):
    with pytest.raises(ValueError, match="lr_scheduler_kwargs=.*cosine.*unexpected keyword argument 'slope'"):
        train(lr_scheduler_kwargs={"slope": 1})


def test_a_metric_that_is_not_measured(train):
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    with pytest.raises(ValueError, match="'eval_beauty', which is not found in the evaluation metrics"):
        train(load_best_model_at_end=True, metric_for_best_model="beauty", **steps)


@pytest.mark.parametrize("name", ["compute_metrics", "compute_loss_func", "preprocess_logits_for_metrics"])
def test_functions_that_nothing_calls_are_refused(name, make_coma, compression_rows, contrastive_rows, tmp_path):
    from trainers.compression.trainer import ComaCompressionTrainer
    from trainers.contrastive.trainer import ComaContrastiveTrainer

    model, _ = make_coma()
    trainers = (ComaCompressionTrainer, compression_rows), (ComaContrastiveTrainer, contrastive_rows)
    for (trainer, rows), kind in zip(trainers, CONFIGS, strict=True):
        with pytest.raises(ValueError, match=f"{name} would never be called"):
            trainer(model, make(kind), train_dataset=rows(number=2), **{name: lambda *_: {}})


def test_streamed_rows_have_no_order_of_ours(make_coma, compression_trainer, contrastive_trainer):
    from datasets import IterableDataset

    stream = IterableDataset.from_generator(lambda: iter(()))
    with pytest.raises(ValueError, match="group_by_length needs a data set whose rows are known"):
        compression_trainer(make_coma(), stream, **GROUPED)
    with pytest.raises(ValueError, match="sub_batch_size needs a data set whose rows are known"):
        contrastive_trainer(make_coma(), stream, sub_batch_size=2)


@pytest.mark.parametrize("kind", CONFIGS)
def test_checkpointing_has_its_old_name_too(kind):
    """Without a warning, which would be an error here; newer versions of transformers have another name for it."""
    options = {"use_reentrant": False}
    config = make(kind, gradient_checkpointing=True, gradient_checkpointing_kwargs=options)
    fields = {field.name for field in dataclasses.fields(config)} & {*RENAMED, *RENAMED.values()}
    assert {getattr(config, name) for name in fields if not name.endswith("kwargs")} == {True}
    assert all(getattr(config, name) == options for name in fields if name.endswith("kwargs"))
    off = {name: False for name in fields if not name.endswith("kwargs")}
    assert not any(getattr(dataclasses.replace(config, **off), name) for name in off)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_report_needs_its_library(kind):
    missing = [n for n in ("wandb", "swanlab", "clearml") if not getattr(integrations, f"is_{n}_available")()]
    for name in missing:
        with pytest.raises(ValueError, match=f"pip install {name}"):
            make(kind, report_to=name)
    assert make(kind, report_to="none").report_to == []
