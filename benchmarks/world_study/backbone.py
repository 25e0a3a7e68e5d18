"""The backbone of all arms: a small Qwen3-VL that learns to look and to speak in this world."""

import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers import TrainerCallback

from benchmarks.world_study.examination import Exam
from benchmarks.world_study.fast_processor import WorldProcessor
from benchmarks.world_study.pictures import draw_picture
from benchmarks.world_study.questions import as_messages, ask_several, whole_description
from benchmarks.world_study.random_backbone import CHAT_TEMPLATE, text_config, vision_config, write_random
from benchmarks.world_study.scenes import draw_scene
from benchmarks.world_study.settings import DESCRIPTIONS, RATE, TEMPERATURE, TURNS, Sizes, common_settings
from benchmarks.world_study.tower import teach_tower
from trainers.backbone import model_from_backbone
from trainers.compression.collator import ComaCompressionCollator
from trainers.compression.config import ComaCompressionConfig
from trainers.compression.trainer import ComaCompressionTrainer


LEARNING_RATE = 1.5e-3  # at the usual width; a wider backbone learns at less
CURVE_POINTS = 20


class Lessons(Dataset):
    """
    What the backbone learns from: questions, and some descriptions, every row about another scene.

    Args:
        length (`int`): number of rows.
        turns (`int`): questions about a scene.
    """

    def __init__(self, length: int, turns: int = 8, seed: int = 0) -> None:
        self.length, self.turns, self.seed = length, turns, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Any]:
        draw = random.Random(f"{self.seed}-{number}")
        scene = draw_scene(draw)
        if draw.random() < DESCRIPTIONS:
            asked = [whole_description(scene)]
        else:
            asked = ask_several(scene, draw, self.turns)
        return {"images": [draw_picture(scene)], "text": None, "messages": as_messages(asked)}


class Curve(TrainerCallback):
    """
    Right answers about unseen scenes in the course of training, and the processor time without that of looking; kept
    in a file, so that an interrupted training goes on with it.
    """

    def __init__(self, look: Callable[[], dict[str, float]], every: int, file: Path) -> None:
        self.look, self.every, self.file = look, max(1, every), file
        self.points = json.loads(file.read_text()) if file.exists() else []
        self.started = time.process_time()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.points = [point for point in self.points if point["step"] <= state.global_step]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            before = self.points[-1]["seconds"] if self.points else 0.0
            seconds = round(before + time.process_time() - self.started, 1)
            self.points.append({"step": state.global_step, "seconds": seconds, **self.look()})
            self.started = time.process_time()
            print("backbone:", self.points[-1], flush=True)
            self.file.write_text(json.dumps(self.points, indent=1))


def make_backbone(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """
    Trains the backbone, if the folder has none: first its tower, then all the rest in full view of the image (paper,
    figure 1a). A training that was interrupted goes on.

    Args:
        folder (`Path`): where it is, or is to be.
        sizes ([`Sizes`]): of the study.

    Returns:
        `dict`: `recipe` and `weights`, by which it is known, and its `curve` with the seconds of processor time.
    """
    known = folder / "backbone.json"
    if known.exists():
        found = json.loads(known.read_text())
        if found["recipe"] != recipe(sizes):
            raise SystemExit(f"{folder} has a backbone of another recipe, {found['recipe']}: give another --folder.")
        return found
    write_random(folder, sizes)
    model, processor = model_from_backbone(str(folder), 1)
    fast = WorldProcessor.of(processor)
    collate = ComaCompressionCollator(fast, compression_instruction=False)
    exam = Exam(fast, sizes.exam)
    steps, every = sizes.backbone_steps, max(1, sizes.backbone_steps // CURVE_POINTS)
    training = folder / "training"
    training.mkdir(exist_ok=True)
    begun = any(training.glob("checkpoint-*/trainer_state.json"))
    if not begun:
        right = teach_tower(model.backbone, fast, sizes.tower_steps, sizes.tower_batch)
        print(f"backbone: of what its tower says {right}% is right", flush=True)
    curve = Curve(lambda: exam.answers(model, "full"), every, training / "curve.json")
    trainer = ComaCompressionTrainer(
        model,
        ComaCompressionConfig(
            **common_settings(str(training), 0, save_steps=every),
            max_steps=steps,
            per_device_train_batch_size=sizes.backbone_batch,
            learning_rate=LEARNING_RATE * Sizes.width / sizes.width,
        ),
        lambda batch: {**collate(batch), "dialogue_view": "full"},
        Lessons(steps * sizes.backbone_batch),
        processing_class=processor,
        callbacks=[curve],
    )
    trainer.train(resume_from_checkpoint=begun)
    model.backbone.save_pretrained(folder)
    found = {"recipe": recipe(sizes), "weights": _digest(folder), "curve": curve.points}
    known.write_text(json.dumps(found, indent=1))
    shutil.rmtree(training)
    return found


def recipe(sizes: Sizes) -> str:
    """What decides the backbone and the world: the same on every machine, where weights differ in their last bits."""
    rows = Lessons(40)
    parts = [text_config(sizes), vision_config(sizes), CHAT_TEMPLATE, LEARNING_RATE, DESCRIPTIONS]
    parts += [sizes.tower_steps, sizes.tower_batch, sizes.backbone_steps, sizes.backbone_batch]
    parts += [(row["images"][0].tobytes(), row["messages"]) for row in (rows[number] for number in range(len(rows)))]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def study(sizes: Sizes) -> str:
    """What decides everything but the arm and the seed: that recipe, and how both stages are trained."""
    parts = [sizes, RATE, TEMPERATURE, TURNS]
    return f"{recipe(sizes)}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:6]}"


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]
