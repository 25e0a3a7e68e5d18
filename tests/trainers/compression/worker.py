"""Trainings of stage 1 that the tests start on several processes: their losses, evaluation and trained weights."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor

from modeling_coma import ComaForEmbedding, ComaProcessor
from tests.checkpointing import CHECKPOINTING
from trainers.adapters import lora_config
from trainers.compression.collator import ComaCompressionCollator
from trainers.compression.config import ComaCompressionConfig
from trainers.compression.trainer import ComaCompressionTrainer
from trainers.data.emoji import emoji_dialogues, load_emoji


COMMON = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}
COMMON |= {"lr_scheduler_type": "constant", "warmup_steps": 0, "optim": "sgd", "learning_rate": 0.2}
GROUPED = {"train_sampling_strategy": "group_by_length", "length_column_name": "tokens", "max_tokens_per_batch": 400}
KEPT = {"save_strategy": "steps", "save_steps": 5, "max_steps": 7}

# Settings of each training. A step has four rows, or `batches_per_step` batches, on all processes together.
TRAININGS: dict[str, dict[str, Any]] = {
    "adapter": {"kl_weight": 0.5, "adapter": True},
    "full": {"gradient_accumulation_steps": 2},
    "checkpointing": {CHECKPOINTING: True},
    "grouped": {**GROUPED, "batches_per_step": 2},
    "long": {**KEPT, "optim": "adamw_torch", "learning_rate": 1e-3, "adapter": True, "dropout": 0.1},
    "long grouped": {**GROUPED, **KEPT, "batches_per_step": 2},
}


def rows() -> tuple[list[dict], Dataset]:
    """16 rows of one to three turns, and a data set with their numbers and lengths."""
    emoji = load_emoji(["noto"]).select(range(16))
    dialogues = [emoji_dialogues(emoji, turns=turns).to_list() for turns in (1, 2, 3)]
    table = [{"number": n, "tokens": [12, 30 + 25 * (n % 3)]} for n in range(16)]
    return [dialogues[n % 3][n] for n in range(16)], Dataset.from_list(table)


class Collator:
    def __init__(self, processor: ComaProcessor) -> None:
        self.collator, (self.rows, _) = ComaCompressionCollator(processor).counting_images(), rows()

    def __call__(self, numbered: list[dict]) -> dict[str, torch.Tensor]:
        return self.collator([self.rows[row["number"]] for row in numbered])


def train(folder: str, out: Path, name: str, processes: int) -> dict[str, Any]:
    settings = {"max_steps": 3, **TRAININGS[name.removesuffix(" resumed")]}
    adapter, dropout = settings.pop("adapter", False), settings.pop("dropout", 0.0)
    accumulation = settings.pop("batches_per_step", 0) // processes or settings.pop("gradient_accumulation_steps", 1)
    settings |= {"gradient_accumulation_steps": accumulation, "output_dir": str(out / name.removesuffix(" resumed"))}
    model, processor = ComaForEmbedding.from_pretrained(folder), ComaProcessor.from_pretrained(folder)
    batch = 4 if "length_column_name" in settings else 4 // processes
    config = ComaCompressionConfig(
        **{**COMMON, **settings}, per_device_train_batch_size=batch, per_device_eval_batch_size=2
    )
    trainer = ComaCompressionTrainer(
        model,
        config,
        processing_class=processor,
        peft_config=lora_config(model, lora_dropout=dropout) if adapter else None,
        train_dataset=rows()[1],
        eval_dataset=rows()[1].select(range(7)),
        data_collator=Collator(processor),
    )
    checkpoint = f"{settings['output_dir']}/checkpoint-{KEPT['save_steps']}"
    trainer.train(resume_from_checkpoint=checkpoint if name.endswith(" resumed") else None)
    weights = {key: p.detach() for key, p in trainer.model.named_parameters() if p.requires_grad}
    return {
        "logs": [{k: v for k, v in log.items() if "second" not in k} for log in trainer.state.log_history],
        "evaluation": trainer.evaluate(),
        "weights": {key: p.full_tensor() if isinstance(p, DTensor) else p.clone() for key, p in weights.items()},
    }


def train_all(rank: int, processes: int, folder: str, out: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    return {name: train(folder, out, name, processes) for name in names}
