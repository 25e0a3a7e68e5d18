"""What both trainers share: arguments of `Trainer`, models and processors that fit, checkpoints that are whole."""

import inspect
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import Trainer, TrainingArguments

from trainers.adapters import lora_config
from trainers.base import last_checkpoint
from trainers.compression import ComaCompressionConfig, ComaCompressionTrainer
from trainers.contrastive import ComaContrastiveConfig, ComaContrastiveTrainer


TRAINERS = [ComaCompressionTrainer, ComaContrastiveTrainer]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_arguments_are_those_of_trainer_in_its_order(trainer):
    of_hf = list(inspect.signature(Trainer.__init__).parameters.values())
    ours = list(inspect.signature(trainer.__init__).parameters.values())
    positional = [one.name for one in ours if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert positional == [one.name for one in of_hf][: len(positional)] and positional[-1] == "processing_class"
    assert {one.default for one in ours if one.name in positional[2:]} == {None}
    more = [one.name for one in ours if one.kind is one.KEYWORD_ONLY]
    assert more[0] == "peft_config" and not set(more) & {one.name for one in of_hf}


@pytest.fixture
def saved(make_coma, tmp_path):
    """A folder with a model and its processor."""
    for part in make_coma():
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_folder_is_enough(trainer, saved, tmp_path, monkeypatch, compression_rows, contrastive_rows):
    monkeypatch.chdir(tmp_path)
    made = trainer(str(saved))
    assert type(made.args) is trainer.config_class and made.coma.dtype == torch.float32
    assert made.processing_class.compression_token_ids == made.coma.config.compression_token_ids
    rows = (compression_rows if trainer is ComaCompressionTrainer else contrastive_rows)(number=2)
    settings = {"max_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    args = trainer.config_class(tmp_path / "out", **settings, per_device_train_batch_size=2)
    adapter = lora_config(str(saved), r=2)
    assert adapter.trainable_token_indices == lora_config(made.coma).trainable_token_indices
    named = trainer(saved, args, None, rows, rows, peft_config=adapter)
    named.train()
    assert named.model.peft_config["default"].base_model_name_or_path == str(saved)
    assert named.evaluate()["eval_loss"] > 0


def test_what_cannot_be_loaded_is_named(saved, make_coma, tmp_path):
    model, processor = make_coma()
    with pytest.raises(ValueError, match="not loaded from a folder that has a processor: pass processing_class"):
        ComaCompressionTrainer(model)
    with pytest.raises(ValueError, match="args must be a ComaContrastiveConfig, got a ComaCompressionConfig"):
        ComaContrastiveTrainer(model, ComaCompressionConfig(tmp_path, use_cpu=True), processing_class=processor)
    with pytest.raises(ValueError, match="args must be a ComaCompressionConfig, got a TrainingArguments"):
        ComaCompressionTrainer(model, TrainingArguments(tmp_path, use_cpu=True), processing_class=processor)
    model.backbone.config.save_pretrained(tmp_path / "backbone")
    with pytest.raises(ValueError, match="backbone is a qwen2_5_vl model and no CoMa model: make one of it by `coma"):
        ComaCompressionTrainer(str(tmp_path / "backbone"))


def test_an_adapter_is_no_model(saved, tmp_path):
    args = ComaContrastiveConfig(tmp_path / "out", report_to="none", use_cpu=True)
    base = ComaContrastiveTrainer(str(saved), args).model
    ComaContrastiveTrainer(base, args, peft_config=lora_config(base, r=2)).save_model(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match="adapter is an adapter, no model: load it upon its base"):
        ComaContrastiveTrainer(str(tmp_path / "adapter"), args)


def test_processor_and_model_must_belong_together(make_coma, compression_trainer):
    model, _ = make_coma("qwen2_5_vl", 4)
    _, processor = make_coma("qwen2_5_vl", 8)
    with pytest.raises(ValueError, match="The model has 4 compression tokens, the processor 8"):
        compression_trainer((model, processor))


def test_a_processor_is_no_collator(make_coma, compression_trainer):
    coma = make_coma()
    with pytest.raises(ValueError, match="data_collator is a processor: pass it as processing_class"):
        compression_trainer(coma, data_collator=coma[1])


def test_an_interrupted_checkpoint_is_passed_over(make_coma, compression_trainer, compression_rows, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    trainer = compression_trainer(make_coma(), compression_rows(), **settings)
    trainer.train()
    folder = tmp_path / "out"
    assert last_checkpoint(folder) == str(folder / "checkpoint-3")
    (folder / "checkpoint-3" / "trainer_state.json").unlink()
    expected = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    again = compression_trainer(make_coma(), compression_rows(), **settings)
    again.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in again.state.log_history if "loss" in entry] == [1, 2, 3]
    assert all(torch.equal(p, expected[name]) for name, p in again.model.named_parameters())
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="no complete checkpoint"):
        again.train(resume_from_checkpoint=True)


def test_checkpoints_load_by_themselves(make_coma, compression_trainer, compression_rows):
    from transformers import AutoModel, AutoProcessor

    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trainer = compression_trainer(make_coma(), compression_rows(), **settings)
    trainer.train()
    folder = Path(trainer.args.output_dir, "checkpoint-1")
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    inputs = processor.process(["a red apple"])
    with torch.no_grad():
        assert torch.equal(model(**inputs).embeddings, trainer.model.eval()(**inputs).embeddings)


def test_streamed_rows_train(make_coma, compression_trainer, compression_rows):
    """Pixels are packed over rows: nobody may cut them up by the number of rows."""
    stream = IterableDataset.from_generator(lambda: iter(compression_rows(8)))
    losses = []
    for dataset in (stream, compression_rows(8)):
        trainer = compression_trainer(make_coma(), dataset, per_device_train_batch_size=8, max_steps=1)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_rows_of_a_data_set_reach_the_collator_undecoded_and_numbered(make_coma, compression_trainer):
    from trainers.data.emoji import emoji_dialogues, load_emoji

    dataset = emoji_dialogues(load_emoji(["noto"]).select(range(6)), turns=1)
    assert isinstance(dataset, Dataset)
    trainer = compression_trainer(make_coma(), dataset, eval_dataset={"few": dataset.select([3])})
    row = trainer.train_dataset[4]
    assert row["row"] == 4 and isinstance(row["images"][0]["bytes"], bytes)
    assert trainer.eval_dataset["few"][0]["row"] == 0
