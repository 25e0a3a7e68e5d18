"""One arm with one seed: stage 1 if it has one, stage 2, and what came out."""

from __future__ import annotations

import copy
import json
import math
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from benchmarks.world_study.arms import Arm
from benchmarks.world_study.examination import Exam
from benchmarks.world_study.fast_processor import WorldProcessor
from benchmarks.world_study.pictures import draw_picture
from benchmarks.world_study.questions import as_messages, ask_several, describe, whole_description
from benchmarks.world_study.scenes import Scene, draw_scene
from benchmarks.world_study.settings import (
    DESCRIPTIONS,
    LEAST_CARRIED,
    RATE,
    TEMPERATURE,
    TURNS,
    Sizes,
    common_settings,
)
from benchmarks.world_study.tasks import Pairs, make_tasks, precision
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.adapters import lora_config, merge_adapter
from trainers.backbone import model_from_backbone
from trainers.compression.collator import ComaCompressionCollator
from trainers.compression.config import ComaCompressionConfig
from trainers.compression.trainer import ComaCompressionTrainer
from trainers.experimental import (
    ExperimentalContrastiveConfig,
    ExperimentalContrastiveTrainer,
    JointContrastiveCollator,
)


# A step of stage 1 in steps of stage 2, by processor time: 0.180 s and 0.207 s, `benchmarks.world_study.speed`.
COST_OF_STAGE_1 = 0.87


SEVERAL = ("mixed", "images and texts")  # forms whose dialogues are those of several turns, or some of them


class Dialogues(Dataset):
    """
    Rows of stage 1, each about a scene of its own: several questions, one, or a description. With texts, every second
    scene is not drawn but described, so that both sides of a pair have been compressed before they are matched.
    """

    def __init__(self, form: str, length: int, seed: int | str) -> None:
        self.form, self.length, self.seed = form, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Any]:
        draw = random.Random(f"{self.form} {self.seed} {number}")
        scene = draw_scene(draw)
        row = {"images": [draw_picture(scene)], "text": None, "messages": dialogue(self.form, scene, draw)}
        if self.form == "images and texts" and number % 2:
            row |= {"images": [], "text": describe(scene)}
        return row


class JointPairs(Pairs):
    """Pairs with a dialogue about their queries."""

    def __init__(self, number: int, length: int, seed: int, form: str = "multi-turn") -> None:
        super().__init__(number, length, seed)
        self.form = form

    def pair(self, number: int) -> dict[str, Any]:
        row = super().pair(number)
        draw = random.Random(f"pairs {self.seed} {number}")  # the same scene
        return {**row, "messages": dialogue(self.form, draw_scene(draw), draw)}


def dialogue(form: str, scene: Scene, draw: random.Random) -> list[dict[str, str]]:
    """Several questions with their answers, one, or a description; or the first or the last of these, if mixed."""
    if form == "caption" or (form == "mixed" and draw.random() < DESCRIPTIONS):
        return as_messages([whole_description(scene)])
    return as_messages(ask_several(scene, draw, TURNS["multi-turn" if form in SEVERAL else form]))


def run(arm: Arm, seed: int, sizes: Sizes, backbone: Path, scratch: Path) -> dict[str, Any]:
    """
    Trains and examines an arm.

    Args:
        arm ([`Arm`]): what is special about it.
        seed (`int`): of the data, and of what is drawn in training.
        sizes ([`Sizes`]): of the study.
        backbone (`Path`): folder of the common backbone.
        scratch (`Path`): a stage 1 that several arms have in common is trained once and kept here.

    Returns:
        `dict`: `ind` and `ood`, P@1 of every task, with budgets those by states, too; `carried` after stage 1, the
        loss per answer token from the row's own tokens, another row's and none, and whether it `counts`; `answers`
        from the tokens alone, by kind, before and after stage 2; seconds of processor time.
    """
    model, processor, compressed = begin(arm, seed, sizes, backbone, scratch)
    model.config.pooling = arm.pooling
    fast = WorldProcessor.of(processor)
    exam = Exam(fast, sizes.exam)
    before = exam.answers(model, "compressed")
    started = time.process_time()
    model = match(arm, seed, sizes, model, fast)
    seconds = time.process_time() - started
    ind, ood = make_tasks(sizes.queries)
    carried = compressed["carried"]
    by_states = {
        f"{name}, by states": precision(model, fast, tasks, states=True)
        for name, tasks in (("ind", ind), ("ood", ood))
        if arm.budgets
    }
    return {
        "ind": precision(model, fast, ind),
        "ood": precision(model, fast, ood),
        **by_states,
        "carried": carried,
        "counts": not arm.stage_1 or carried["shuffled"] - carried["own"] >= LEAST_CARRIED,
        "answers": {"before stage 2": before, "after stage 2": exam.answers(model, "compressed")},
        "seconds": {"stage 1": round(compressed["seconds"], 1), "stage 2": round(seconds, 1)},
    }


def begin(
    arm: Arm, seed: int, sizes: Sizes, backbone: Path, scratch: Path
) -> tuple[ComaForEmbedding, ComaProcessor, dict[str, Any]]:
    """The model before stage 2: after stage 1, with what was found then, or the backbone."""
    torch.manual_seed(seed)  # the rows of the compression tokens are drawn
    if not arm.stage_1:
        model, processor = model_from_backbone(str(backbone), arm.tokens, memory=arm.memory)
        return model, processor, {"seconds": 0.0, "carried": None}
    place = scratch / "stage-1" / f"{arm.stage_1_key} {seed}"
    if not (place / "found.json").exists():
        keep_compressed(arm, seed, sizes, backbone, place)
    compressed = json.loads((place / "found.json").read_text())
    return ComaForEmbedding.from_pretrained(place), ComaProcessor.from_pretrained(place), compressed


def keep_compressed(arm: Arm, seed: int, sizes: Sizes, backbone: Path, place: Path) -> None:
    """Stage 1, kept with how much its tokens carry."""
    model, processor = model_from_backbone(str(backbone), arm.tokens, memory=arm.memory)
    fast = WorldProcessor.of(processor)
    steps = max(1, round(arm.stage_1 * sizes.unit))
    started = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        config = ComaCompressionConfig(
            **common_settings(scratch, seed),
            max_steps=steps,
            per_device_train_batch_size=sizes.batch,
            per_device_eval_batch_size=64,
            learning_rate=RATE[arm.training],
            cross_entropy_weight=float(not arm.kl),
            kl_weight=float(arm.kl),
        )
        trainer = ComaCompressionTrainer(
            model,
            config,
            ComaCompressionCollator(fast, compression_instruction=False),
            Dialogues(arm.dialogues, steps * sizes.batch, seed),
            Dialogues("multi-turn", 4 * sizes.exam, "carried"),
            processing_class=processor,
            peft_config=_adapter(arm, model),
            teacher=copy.deepcopy(model) if arm.kl and arm.training == "full" else None,
        )
        trainer.train()
        seconds = time.process_time() - started
        found = trainer.evaluate()
        model = trainer.model if arm.training == "full" else merge_adapter(trainer.model)
    model.save_pretrained(place)
    processor.save_pretrained(place)
    losses = {"own": "eval_loss", "shuffled": "eval_loss_shuffled_tokens", "none": "eval_loss_without_tokens"}
    carried = {name: round(found[metric], 4) for name, metric in losses.items()}
    (place / "found.json").write_text(json.dumps({"seconds": seconds, "carried": carried}))


def steps_of_stage_2(arm: Arm, sizes: Sizes) -> int:
    """One epoch, or the least that is needed; more where the cost of a stage 1 is spent here."""
    usual = max(sizes.least_steps, math.ceil(arm.pairs / sizes.cut / sizes.pairs_batch))
    return usual + round(arm.extra * sizes.unit * COST_OF_STAGE_1)


def match(arm: Arm, seed: int, sizes: Sizes, model: ComaForEmbedding, processor: ComaProcessor) -> ComaForEmbedding:
    """Stage 2."""
    steps = steps_of_stage_2(arm, sizes)
    answers = ComaCompressionCollator(processor, compression_instruction=False) if arm.joint else None
    rows = {"number": arm.pairs // sizes.cut, "length": steps * sizes.pairs_batch, "seed": seed}
    with tempfile.TemporaryDirectory() as scratch:
        config = ExperimentalContrastiveConfig(
            **common_settings(scratch, seed),
            max_steps=steps,
            per_device_train_batch_size=sizes.pairs_batch,
            learning_rate=arm.rate * RATE[arm.training],
            temperature=TEMPERATURE,
            bidirectional=True,
            joint_weight=float(arm.joint),
            late_interaction_budgets=arm.budgets.split() or None,
        )
        trainer = ExperimentalContrastiveTrainer(
            model,
            config,
            JointContrastiveCollator(processor, dialogues=answers),
            JointPairs(**rows, form=arm.dialogues) if arm.joint else Pairs(**rows),
            processing_class=processor,
            peft_config=_adapter(arm, model),
        )
        trainer.train()
    return (trainer.model if arm.training == "full" else merge_adapter(trainer.model)).eval()


def _adapter(arm: Arm, model: ComaForEmbedding) -> Any:
    """LoRA as in the paper, without what costs more than it does at this width: DoRA and dropout."""
    return None if arm.training == "full" else lora_config(model, use_dora=False, lora_dropout=0.0)
