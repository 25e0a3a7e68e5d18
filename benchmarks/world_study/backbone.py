"""The backbone of all arms: a small Qwen3-VL that learns to look and to speak in this world."""

import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel, TrainerCallback

from benchmarks.world_study.examination import Exam
from benchmarks.world_study.fast_processor import WorldProcessor
from benchmarks.world_study.pictures import SIDE, draw_picture
from benchmarks.world_study.questions import as_messages, ask_several, describe, whole_description
from benchmarks.world_study.scenes import draw_scene
from benchmarks.world_study.settings import DESCRIPTIONS, RATE, TEMPERATURE, TURNS, Sizes, common_settings
from benchmarks.world_study.tower import teach_tower
from hub_scripts.tiny.tokenizer import train_tokenizer
from trainers.backbone import model_from_backbone
from trainers.compression.collator import ComaCompressionCollator
from trainers.compression.config import ComaCompressionConfig
from trainers.compression.trainer import ComaCompressionTrainer


LEARNING_RATE = 1.5e-3
CURVE_POINTS = 20
PATCH, MERGE = 8, 2
TOKENS = (SIDE // PATCH // MERGE) ** 2
SPARE_ROWS = 64
LARGER = {"embed_tokens": 3, "pos_embed": 10}  # the first are the output head, too
# A turn costs three tokens beside its texts: questions are many and short here.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}<|im_start|>{% else %}{{ ' ' }}{% endif %}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}{% if message.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
)
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": Sizes().layers,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "initializer_range": 0.05,
    # Published: a base of 5e6 for 64 frequencies. With 16 of them, places in a grid of 3x3 would hardly be told apart.
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 500.0,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
    },
}
VISION = {
    "depth": 2,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_heads": 3,
    "out_hidden_size": TEXT["hidden_size"],
    "patch_size": PATCH,
    "temporal_patch_size": 1,
    "spatial_merge_size": MERGE,
    "num_position_embeddings": (SIDE // PATCH) ** 2,
    "deepstack_visual_indexes": [],
    "initializer_range": 0.05,
}


def write_random(folder: Path, seed: int = 0, layers: int = Sizes().layers) -> None:
    """The backbone before it has learned anything, with a tokenizer to which each word of the world is one token."""
    draw = random.Random(seed)
    scenes = [draw_scene(draw) for _ in range(500)]
    texts = [turn["content"] for scene in scenes for turn in as_messages(ask_several(scene, draw, 99))]
    texts += [describe(scene) for scene in scenes]
    tokenizer = train_tokenizer([*texts, *(f" {text}" for text in texts)], 2048)
    tokenizer.chat_template = CHAT_TEMPLATE
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("vision_start_token_id", "vision_start"),
            ("vision_end_token_id", "vision_end"),
            ("image_token_id", "image_pad"),
            ("video_token_id", "video_pad"),
        )
    }
    text = {**_text(layers), "vocab_size": len(tokenizer) + SPARE_ROWS, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model("qwen3_vl", text_config=text, vision_config=VISION, tie_word_embeddings=True, **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    _scale(model)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    images = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": PATCH,
        "temporal_patch_size": 1,
        "merge_size": MERGE,
        "size": {"shortest_edge": SIDE**2, "longest_edge": SIDE**2},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(images, indent=1))


def _text(layers: int) -> dict[str, Any]:
    return {**TEXT, "num_hidden_layers": layers}


@torch.no_grad()
def _scale(model: PreTrainedModel) -> None:
    """
    Weights as they are drawn are of one size. So that what a token is, and where a patch lies, is not drowned in what
    random layers add to it, tables are larger, and what layers add is smaller, the deeper they are.
    """
    added = ("o_proj", "down_proj", "attn.proj", "linear_fc2")
    for name, module in model.named_modules():
        if name.endswith(tuple(LARGER)):
            module.weight.mul_(LARGER[name.rsplit(".", 1)[-1]])
        elif name.endswith(added) and "merger" not in name:
            module.weight.div_((2 * model.config.text_config.num_hidden_layers) ** 0.5)


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
    write_random(folder, layers=sizes.layers)
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
            learning_rate=LEARNING_RATE,
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
    parts = [_text(sizes.layers), VISION, CHAT_TEMPLATE, LEARNING_RATE, DESCRIPTIONS]
    parts += [sizes.tower_steps, sizes.tower_batch, sizes.backbone_steps, sizes.backbone_batch]
    parts += [(row["images"][0].tobytes(), row["messages"]) for row in (rows[number] for number in range(len(rows)))]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def study(sizes: Sizes) -> str:
    """What decides everything but the arm and the seed: that recipe, and how both stages are trained."""
    parts = [sizes, RATE, TEMPERATURE, TURNS]
    return f"{recipe(sizes)}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:6]}"


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]
