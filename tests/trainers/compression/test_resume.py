"""A training that stops and goes on is the training that never stopped: data order, dropout, optimizer, counts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from trainers.adapters import lora_config
from trainers.compression.collator import ComaCompressionCollator


ROOT = Path(__file__).resolve().parents[3]


class Collator:
    """Rows are numbers here, so that a data set has a column of lengths."""

    def __init__(self, processor, rows):
        self.collator, self.rows = ComaCompressionCollator(processor).counting_images(), rows

    def __call__(self, numbered):
        return self.collator([self.rows[row["number"]] for row in numbered])


def final(trainer, **kwargs):
    trainer.train(**kwargs)
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    logs = {entry["step"]: entry for entry in trainer.state.log_history if "loss" in entry}
    return weights, {step: [entry[name] for name in NAMES] for step, entry in logs.items()}


GROUPED = {"train_sampling_strategy": "group_by_length", "length_column_name": "tokens"}
NAMES = ("loss", "grad_norm", "learning_rate", "images_seen", "tokens_seen")


@pytest.mark.parametrize(
    ("grouped", "stop"),
    [
        pytest.param(False, 2, id="shuffled, in the first epoch", marks=pytest.mark.slow),
        pytest.param(False, 5, id="shuffled, in the second epoch", marks=pytest.mark.slow),
        pytest.param(True, 2, id="grouped by length, in the first epoch", marks=pytest.mark.slow),
        pytest.param(True, 5, id="grouped by length, in the second epoch", marks=pytest.mark.slow),
    ],
)
def test_resumed_steps_are_the_steps_that_would_have_come(
    make_coma, compression_trainer, compression_rows, tmp_path, grouped, stop
):
    """12 rows, 4 of a step: an epoch has 3 steps. LoRA drops out, so random states count too."""
    rows = compression_rows(12)
    dataset = Dataset.from_list([{"number": n, "tokens": 40 + 9 * n} for n in range(12)])

    def trainer(**settings):
        model, processor = make_coma()
        settings |= GROUPED if grouped else {}
        settings |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 7}
        settings |= {"save_strategy": "steps", "save_steps": stop, "peft_config": lora_config(model)}
        collator = Collator(processor, rows)
        return compression_trainer((model, processor), dataset, data_collator=collator, **settings)

    weights, logs = final(trainer())
    torch.manual_seed(12345)
    resumed, resumed_logs = final(trainer(), resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{stop}"))
    assert all(torch.equal(weight, resumed[name]) for name, weight in weights.items())
    assert set(resumed_logs) == set(logs) == set(range(1, 8))
    assert resumed_logs == logs
    assert logs[6][3:] == [2 * number for number in logs[3][3:]]  # all rows twice


SCRIPT = """
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.compression import ComaCompressionConfig, ComaCompressionTrainer
from trainers.data.emoji import emoji_dialogues, load_emoji
from trainers.adapters import lora_config

folder, out, slow = sys.argv[1:4]
torch.set_num_threads(1)
model, processor = ComaForEmbedding.from_pretrained(folder), ComaProcessor.from_pretrained(folder)


class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("step", state.global_step, flush=True)
        if slow == "slow":
            import time

            time.sleep(0.3)


config = ComaCompressionConfig(
    output_dir=out, report_to="none", use_cpu=True, disable_tqdm=True, per_device_train_batch_size=4, max_steps=12,
    num_train_epochs=2, save_strategy="steps", save_steps=2, learning_rate=1e-3, dataloader_num_workers=1,
)
dataset = emoji_dialogues(load_emoji(["noto"]).select(range(30)), turns=2)
trainer = ComaCompressionTrainer(
    model, config, None, dataset, None, processor, peft_config=lora_config(model), callbacks=[Slow()]
)
checkpoints = list(Path(out).glob("checkpoint-*/trainer_state.json"))
trainer.train(resume_from_checkpoint=bool(checkpoints))
trainer.save_model(out)
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_nothing_had_been(make_coma, tmp_path):
    model, processor = make_coma()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "train.py").write_text(SCRIPT)

    def start(out, speed):
        command = [sys.executable, str(tmp_path / "train.py"), str(tmp_path / "model"), str(tmp_path / out), speed]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)

    whole = start("whole", "fast")
    whole.communicate(timeout=300)
    assert whole.returncode == 0
    killed = start("killed", "slow")
    deadline = time.monotonic() + 200
    for line in killed.stdout:
        assert time.monotonic() < deadline
        if line == "step 7\n":
            break
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "adapter_model.safetensors").exists()
    again = start("killed", "fast")
    output, _ = again.communicate(timeout=300)
    steps = [int(line.split()[1]) for line in output.splitlines() if line.startswith("step ")]
    assert again.returncode == 0 and steps == list(range(7, 13))

    expected, found = (load_file(tmp_path / out / "adapter_model.safetensors") for out in ("whole", "killed"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    states = (tmp_path / out / "checkpoint-12" / "trainer_state.json" for out in ("whole", "killed"))
    first, second = (json.loads(state.read_text())["stateful_callbacks"]["SeenInputs"] for state in states)
    assert first == second and first["attributes"]["images_seen"] > 40
