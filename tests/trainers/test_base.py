"""What both trainers share: means that are means, models and processors that fit, checkpoints that are whole."""

import shutil
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset

from trainers.base import Meter, last_checkpoint


def test_the_meter_divides_sums_by_counts_and_rates_by_time():
    meter = Meter(Accelerator(cpu=True))
    meter.add("accuracy", torch.tensor(3), 4)
    meter.add("accuracy", 1, torch.tensor(4))
    meter.add_rate("tokens_per_second", 300)
    with meter.paused():
        time.sleep(0.3)
    time.sleep(0.1)
    found = meter.flush()
    assert found["accuracy"] == 0.5
    assert 1500 < found["tokens_per_second"] < 3000
    assert meter.flush() == {}


def test_processor_and_model_must_belong_together(make_coma, compression_trainer):
    model, _ = make_coma("qwen2_5_vl", 4)
    _, processor = make_coma("qwen2_5_vl", 8)
    with pytest.raises(ValueError, match="The model has 4 compression tokens, the processor 8"):
        compression_trainer((model, processor))


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


def test_there_is_no_mean_of_nothing():
    """An accuracy of no answers is not 0."""
    meter = Meter(Accelerator(cpu=True))
    meter.add("accuracy", torch.tensor(0), torch.tensor(0))
    meter.add_rate("tokens_per_second", 0)
    assert meter.flush() == {"tokens_per_second": 0}
