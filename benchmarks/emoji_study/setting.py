"""What all arms have in common: data, backbone, and how an embedding model is examined."""

import random
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets

from benchmarks.emoji_study.geometry import alignment, anisotropy, effective_rank, uniformity
from hub_scripts.tiny.backbone import DEMO, create_tiny_backbone
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.backbone import model_from_backbone
from trainers.compression.collator import ComaCompressionCollator
from trainers.compression.config import ComaCompressionConfig
from trainers.compression.trainer import ComaCompressionTrainer
from trainers.data.emoji import STYLES, emoji_dialogues, load_emoji
from trainers.data.images import as_image, without_decoding
from trainers.data.pixel_cache import CachingProcessor
from trainers.encoding.encode import embed_items
from trainers.evaluation.metrics import Relevance, rank_embeddings, retrieval_metrics


UNSEEN, OTHER = "twemoji", "noto"
IMAGE_TOKENS = 9
SIZES = replace(
    DEMO,
    hidden_size=128,
    intermediate_size=256,
    vision_hidden_size=64,
    vision_intermediate_size=128,
    vision_depth=3,
    vision_num_heads=2,
    min_image_tokens=IMAGE_TOKENS,
    max_image_tokens=IMAGE_TOKENS,
)


@dataclass(frozen=True)
class Steps:
    """Optimizer steps: of the backbone, of stage 1, of stage 2, and of stage 2 with dialogues beside it."""

    backbone: int = 700
    compression: int = 50
    contrastive: int = 160
    joint: int = 97
    alone: int = 270  # of stage 2 in arms without stage 1: the same compute in all


class Emoji:
    """
    Three drawing styles of four fifths of the emoji are trained on; a fourth style and the other fifth are not.

    Args:
        every (`int`): keeps one emoji of so many.
    """

    def __init__(self, every: int = 1) -> None:
        whole = load_emoji([UNSEEN])
        kept = range(0, len(whole), every)
        self.names, self.groups = (list(whole.select(kept)[column]) for column in ("label", "group"))
        self.images, self.others = (
            [{"image": file} for file in files(load_emoji([style]).select(kept))] for style in (UNSEEN, OTHER)
        )
        self.pixels: dict = {}  # preprocessed once for all arms
        new = set(random.Random(0).sample(range(len(kept)), len(kept) // 5))
        self.new = torch.tensor(sorted(new))
        self.seen = torch.tensor([place for place in range(len(kept)) if place not in new])
        emoji = load_emoji([style for style in STYLES if style != UNSEEN])
        trained = [
            style * len(whole) + kept[place] for style in range(len(STYLES) - 1) for place in self.seen.tolist()
        ]
        self.train: Dataset = emoji.select(trained)

    @cached_property
    def by_subgroup(self) -> dict[str, list[str]]:
        found: dict[str, set[str]] = {}
        for subgroup, name in zip(self.train["subgroup"], self.train["label"], strict=True):
            found.setdefault(subgroup, set()).add(name)
        return {subgroup: sorted(names) for subgroup, names in found.items()}

    def caching(self, processor: ComaProcessor) -> CachingProcessor:
        """A processor that has the pixels of all images."""
        caching = CachingProcessor.of(processor)
        caching.pixels = self.pixels
        caching.fill([*files(self.train), *(one["image"] for one in (*self.images, *self.others))])
        return caching


def files(emoji: Dataset) -> list[bytes]:
    """The images, not decoded."""
    return [as_image(image) for image in without_decoding(emoji)["image"]]


def common_settings(folder: str, seed: int) -> dict[str, Any]:
    """Settings of every training here. All weights are trained: the backbone is small and has seen little."""
    return {
        "output_dir": folder,
        "freeze_vision": False,
        "weight_decay": 0.05,
        "warmup_steps": 0.1,
        "logging_steps": 20,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,  # arms are compared by processor time
        "seed": seed,
    }


def make_backbone(folder: Path, emoji: Emoji, steps: int) -> float:
    """
    A random Qwen2.5-VL that learns to look and to speak from dialogues in full view of the image (paper, figure 1a),
    the same for all arms. Returns the seconds of processor time.
    """
    started = time.process_time()
    texts = [message["content"] for row in emoji_dialogues(load_emoji(), languages=())["messages"] for message in row]
    create_tiny_backbone(str(folder), texts=texts + emoji.names, sizes=SIZES, seed=0)
    model, processor = model_from_backbone(str(folder), 1)
    collate = ComaCompressionCollator(emoji.caching(processor), compression_instruction=False)
    rows = [emoji_dialogues(emoji.train, seed=seed, turns=2, languages=()) for seed in range(6)]
    with tempfile.TemporaryDirectory() as scratch:
        ComaCompressionTrainer(
            model,
            ComaCompressionConfig(
                **common_settings(scratch, 0), max_steps=steps, per_device_train_batch_size=64, learning_rate=1e-3
            ),
            processing_class=processor,
            train_dataset=concatenate_datasets(rows),
            data_collator=lambda batch: {**collate(batch), "dialogue_view": "full"},
        ).train()
    model.backbone.save_pretrained(folder)
    return time.process_time() - started


def embed(model: ComaForEmbedding, processor: ComaProcessor, emoji: Emoji) -> dict[str, torch.Tensor]:
    """Embeddings of the unseen style, of another style, and of the names; position `i` is the same emoji in all."""
    items = {"images": emoji.images, "others": emoji.others, "names": emoji.names}
    caching = emoji.caching(processor)
    return {name: embed_items(model.eval(), caching, several) for name, several in items.items()}


def examine(embeddings: dict[str, torch.Tensor], emoji: Emoji) -> dict[str, float]:
    """
    Retrieval with images of the unseen style among all emoji, in percent, and the geometry of the embeddings.
    `name` is image to name, for emoji whose other drawings were trained on; `new` is image to image, for emoji
    that were not.
    """
    images, others, names = (embeddings[name] for name in ("images", "others", "names"))
    tasks = {"name": (names, emoji.seen), "image": (others, emoji.seen), "new": (others, emoji.new)}
    found = {}
    for task, (documents, queries) in tasks.items():
        ranking = rank_embeddings(images[queries], documents, Relevance.single(queries))
        metrics = retrieval_metrics(ranking, (1, 10))
        found |= {f"{task} P@1": 100 * metrics["hit@1"], f"{task} R@10": 100 * metrics["recall@10"]}
    return found | {
        "alignment": alignment(images, names),
        "uniformity": uniformity(images),
        "anisotropy": anisotropy(images),
        "effective rank": effective_rank(images),
    }
