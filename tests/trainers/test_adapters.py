"""What the helpers train and freeze."""

import pytest
import torch
from peft import PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_coma import ComaForEmbedding
from trainers.adapters import add_adapter, freeze_vision_of_adapter, lora_config, merge_adapter
from trainers.vision_side import freeze_vision


def test_the_recipe_adapts_the_attention_of_the_language_model_and_the_compression_tokens(coma):
    model, _ = coma
    adapted = get_peft_model(model, lora_config(model))
    trainable = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    layers = model.config.get_text_config().num_hidden_layers
    assert len(trainable) == layers * 4 * 3 + 1  # A, B and magnitude of q, k, v, o; tokens
    assert all("language_model" in name for name in trainable)
    tokens = next(p for name, p in trainable.items() if "trainable_tokens" in name)
    assert tokens.shape == (4, model.config.hidden_size)
    config = adapted.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_dora) == (16, 64, 0.1, True)


def test_fields_of_the_recipe_can_be_replaced(make_coma):
    model, _ = make_coma()
    config = lora_config(model, r=2, use_dora=False, target_modules=["q_proj"], lora_dropout=0.0)
    assert (config.r, config.use_dora, config.target_modules, config.lora_dropout) == (2, False, {"q_proj"}, 0.0)


@pytest.mark.parametrize("train_merger", [False, True])
def test_the_vision_tower_is_frozen_and_its_merger_if_wanted(coma, train_merger):
    model, _ = coma
    freeze_vision(model, train_merger)
    for name, parameter in model.named_parameters():
        in_tower = ".visual." in name
        assert parameter.requires_grad is (not in_tower or (train_merger and ".merger." in name)), name


@pytest.fixture(params=["compression", "contrastive"])
def train(request, make_coma, tmp_path):
    """`train(peft_config, **settings)`: a trainer of either stage after two steps, from `base`, saved in `out`."""
    rows = request.getfixturevalue(f"{request.param}_rows")(number=4)
    make_trainer = request.getfixturevalue(f"{request.param}_trainer")
    model, processor = make_coma()
    model.save_pretrained(tmp_path / "base")

    def run(peft_config=None, **settings):
        base = ComaForEmbedding.from_pretrained(tmp_path / "base")
        settings = {"peft_config": peft_config or lora_config(base, r=2), "learning_rate": 0.01, **settings}
        trainer = make_trainer((base, processor), rows, **settings)
        trainer.train()
        trainer.save_model()
        return trainer

    return run


@torch.no_grad()
def embed(model, trainer, picture):
    inputs = trainer.processing_class.process(["a red apple", picture(56, 56, 3)])
    return model.eval()(**inputs).embeddings


TOWER = pytest.param({"freeze_vision": False}, "tower", marks=pytest.mark.slow)
NOTHING = pytest.param({}, "nothing", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("settings", "moved"),
    [({"train_merger": True}, "merger"), TOWER, NOTHING],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_adapter_trains_of_the_tower_what_the_settings_say(train, settings, moved, tmp_path, picture):
    trainer = train(**settings)
    before = ComaForEmbedding.from_pretrained(tmp_path / "base")
    expected = embed(trainer.model, trainer, picture)
    by_peft = PeftModel.from_pretrained(ComaForEmbedding.from_pretrained(tmp_path / "base"), tmp_path / "out")
    by_transformers = AutoModel.from_pretrained(tmp_path / "out")
    for again in (by_peft, by_transformers):
        assert (embed(again, trainer, picture) - expected).abs().max() < 1e-6
    merged = merge_adapter(trainer.model)
    assert (embed(merged, trainer, picture) - expected).abs().max() < 1e-5
    tower = {name for name, _ in before.named_parameters() if ".visual." in name}
    changed = {name for name in tower if not torch.equal(before.get_parameter(name), merged.get_parameter(name))}
    merger = {name for name in tower if ".merger." in name}
    assert changed == {"merger": merger, "tower": tower, "nothing": set()}[moved]


@pytest.mark.slow
def test_what_is_trained_of_the_tower_is_resumed(train, tmp_path):
    steps = {"save_strategy": "steps", "save_steps": 1, "train_merger": True, "lr_scheduler_type": "constant"}
    train(**steps)
    expected = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert any(".visual.merger." in name for name in expected)
    trainer = train(**steps, max_steps=1)
    trainer.args.max_steps = 2
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    trainer.save_model()
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    "task_type",
    [
        None,
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in (TaskType.CAUSAL_LM, TaskType.FEATURE_EXTRACTION, TaskType.SEQ_CLS)
        ),
    ],
)
def test_any_task_type_is_trained_saved_and_loaded(train, task_type, tmp_path, picture, make_coma):
    trainer = train(lora_config(make_coma()[0], r=2, task_type=task_type))
    expected = embed(trainer.model, trainer, picture)
    base = ComaForEmbedding.from_pretrained(tmp_path / "base")
    assert (embed(base, trainer, picture) - expected).abs().max() > 1e-4
    merged = merge_adapter(trainer.model)
    assert (embed(merged, trainer, picture) - expected).abs().max() < 1e-5


def test_an_adapter_upon_a_frozen_tower_is_refused(make_coma):
    model, _ = make_coma()
    for settings in ({"target_modules": "all-linear"}, {"target_modules": ["qkv"]}, {"modules_to_save": ["visual"]}):
        with pytest.raises(ValueError, match="freeze_vision is set, and the adapter would train"):
            add_adapter(model, lora_config(model, r=2, use_dora=False, **settings))
    adapted = add_adapter(model, lora_config(model, r=2, use_dora=False, target_modules="all-linear"), False)
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad and ".visual." in name}
    assert trained and all("lora_" in name for name in trained)


def test_a_model_with_an_adapter_is_frozen_or_refused(make_coma):
    model, _ = make_coma()
    language = get_peft_model(model, lora_config(model, r=2))
    for settings in ({"freeze_vision": False}, {"train_merger": True}):
        with pytest.raises(ValueError, match="The adapter trains nothing of the vision tower"):
            freeze_vision_of_adapter(language, **settings)
    freeze_vision_of_adapter(language)

    model, _ = make_coma()
    everywhere = get_peft_model(model, lora_config(model, r=2, modules_to_save=["visual.merger"]))
    for settings, trains in (({"train_merger": True}, True), ({"freeze_vision": False}, True), ({}, False)):
        freeze_vision_of_adapter(everywhere, **settings)
        names = [name for name, weight in everywhere.named_parameters() if weight.requires_grad]
        assert any(".visual.merger." in name for name in names) is trains
        assert not any("original_module" in name for name in names)
