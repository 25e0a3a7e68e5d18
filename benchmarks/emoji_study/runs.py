"""One arm with one seed: stage 1 if it has one, stage 2, and what came out."""

import copy
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import TrainerCallback

from benchmarks.emoji_study.arms import Arm
from benchmarks.emoji_study.budgets import LastFirst, examine_budgets
from benchmarks.emoji_study.geometry import token_similarity
from benchmarks.emoji_study.setting import Emoji, Steps, common_settings, embed, examine
from benchmarks.reranking import Search, examine_reranking
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.backbone import model_from_backbone
from trainers.compression.collator import ComaCompressionCollator
from trainers.compression.config import ComaCompressionConfig
from trainers.compression.trainer import ComaCompressionTrainer
from trainers.data.emoji import emoji_dialogues, emoji_pairs
from trainers.encoding.encode import embed_items
from trainers.evaluation.metrics import Relevance, rank_embeddings, retrieval_metrics
from trainers.experimental import (
    ExperimentalContrastiveConfig,
    ExperimentalContrastiveTrainer,
    JointContrastiveCollator,
)


CURVE_POINTS = 5
CURVE_EVERY = 4  # images of seen emoji, of which one is looked at in the course of training
USUAL_BATCH = 64


def run(arm: Arm, seed: int, steps: Steps, emoji: Emoji, folder: Path) -> dict[str, Any]:
    """
    Trains and examines an arm.

    Args:
        arm ([`Arm`]): what is special about it.
        seed (`int`): of the order and wording of the data.
        steps ([`Steps`]): of each training.
        emoji ([`Emoji`]): the data.
        folder (`Path`): has the backbone; a stage 1 that several arms have in common is trained once and kept there,
            and so are the embeddings in the end.

    Returns:
        `dict`: figures after each stage, P@1 in the course of stage 2, and seconds of processor time.
    """
    before, seconds, place = None, 0.0, folder / "backbone"
    if arm.dialogues and not arm.joint:
        place = folder / "stage-1" / f"K{arm.tokens}-{arm.dialogues}-{'kl' if arm.kl else 'ce'}-{arm.longer}-{seed}"
        if not (place / "found.json").exists():
            _keep_compressed(arm, seed, arm.longer * steps.compression, emoji, folder / "backbone", place)
        before = json.loads((place / "found.json").read_text())
        seconds = before.pop("seconds")
        model, processor = ComaForEmbedding.from_pretrained(place), ComaProcessor.from_pretrained(place)
        if arm.rerank:
            before["reranking"] = rerank(model, processor, emoji, folder / "backbone")
    else:
        model, processor = model_from_backbone(str(place), arm.tokens)
    model.config.pooling = arm.pooling
    curve = match(arm, seed, steps, emoji, model, processor)
    embeddings = embed(model, processor, emoji)
    (folder / "embeddings").mkdir(exist_ok=True)
    save_file(embeddings, folder / "embeddings" / f"{arm.key} {seed}.safetensors")
    return {
        **examine(embeddings, emoji),
        "budgets": examine_budgets(model, processor, emoji, arm) if arm.budgets else {},
        "reranking": rerank(model, processor, emoji, folder / "backbone") if arm.rerank else {},
        "token similarity": similarity(model, processor, emoji),
        "before": before,
        "curve": curve.points,
        "seconds": {"compression": seconds, "contrastive": curve.seconds},
    }


def rerank(model: ComaForEmbedding, processor: ComaProcessor, emoji: Emoji, backbone: Path) -> dict[str, Any]:
    """Images of the unseen style by the names of emoji that were trained on."""
    original = model_from_backbone(str(backbone), 1)
    names = [emoji.names[row] for row in emoji.seen.tolist()]
    search = Search(emoji.images, names, emoji.seen, "What is this?")
    return examine_reranking((model, emoji.caching(processor)), original, search)


def similarity(model: ComaForEmbedding, processor: ComaProcessor, emoji: Emoji) -> list[list[float]]:
    """The likeness of the compression tokens over the first images."""
    with torch.no_grad():
        states = model.eval()(**processor.process(emoji.images[:64])).compression_states
    return token_similarity(states).tolist()


def _keep_compressed(arm: Arm, seed: int, steps: int, emoji: Emoji, backbone: Path, place: Path) -> None:
    model, processor = model_from_backbone(str(backbone), arm.tokens)
    collate = ComaCompressionCollator(emoji.caching(processor), compression_instruction=False)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        config = ComaCompressionConfig(
            **common_settings(scratch, seed),
            max_steps=steps,
            per_device_train_batch_size=64,
            learning_rate=5e-4,
            cross_entropy_weight=float(not arm.kl),
            kl_weight=float(arm.kl),
        )
        teacher = copy.deepcopy(model) if arm.kl else None
        rows = dialogues(arm.dialogues, seed, emoji)
        ComaCompressionTrainer(model, config, collate, rows, processing_class=processor, teacher=teacher).train()
    seconds = time.process_time() - started
    model.save_pretrained(place)
    processor.save_pretrained(place)
    found = {"seconds": seconds, **examine(embed(model, processor, emoji), emoji)}
    (place / "found.json").write_text(json.dumps(found))


def dialogues(form: str, seed: int, emoji: Emoji) -> Dataset:
    """Rows of stage 1: three questions, one, or a caption, about every image."""
    if form != "caption":
        turns = {"multi-turn": 3, "single-turn": 1}[form]
        return emoji_dialogues(emoji.train, seed=seed, turns=turns, languages=())
    rows = emoji_dialogues(emoji.train, seed=seed, turns=1, languages=())
    captions = [item["text"] for item in emoji_pairs(emoji.train, kinds=("caption",))["positive"]]
    messages = [
        [{"role": "user", "content": "Describe the picture."}, {"role": "assistant", "content": caption}]
        for caption in captions
    ]
    return rows.remove_columns("messages").add_column("messages", messages, feature=rows.features["messages"])


def pairs(arm: Arm, seed: int, emoji: Emoji) -> Dataset:
    """Rows of stage 2: a share of all pairs of image and name, maybe with hard negatives or dialogues."""
    draw = random.Random(seed)
    rows = emoji_pairs(emoji.train)
    if arm.hard_negatives:
        subgroups = zip(emoji.train["subgroup"], emoji.train["label"], strict=True)
        near = [[name for name in emoji.by_subgroup[subgroup] if name != label] for subgroup, label in subgroups]
        drawn = [draw.sample(names, min(arm.hard_negatives, len(names))) for names in near]
        negatives = [[{"text": name, "image": None} for name in names] for names in drawn]
        feature = rows.features["negatives"]
        rows = rows.remove_columns("negatives").add_column("negatives", negatives, feature=feature)
    if arm.joint:
        told = dialogues(arm.dialogues, seed, emoji)
        rows = rows.add_column("messages", told["messages"][:], feature=told.features["messages"])
    return rows.select(sorted(draw.sample(range(len(rows)), round(arm.share * len(rows)))))


class Curve(TrainerCallback):
    """P@1 in the course of stage 2, and the processor time of training without that of looking."""

    def __init__(self, look_at: Callable[[], float], every: int) -> None:
        self.look_at, self.every, self.points, self.seconds = look_at, max(1, every), [], -time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            started = time.process_time()
            self.points.append([state.global_step, self.look_at()])
            self.seconds -= time.process_time() - started

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds += time.process_time()


def match(arm: Arm, seed: int, steps: Steps, emoji: Emoji, model: ComaForEmbedding, processor: ComaProcessor) -> Curve:
    """Stage 2. Arms with other batches see as many pairs in as many fewer or more steps."""
    usual = arm.longer * steps.joint if arm.joint else steps.contrastive if arm.dialogues else steps.alone
    max_steps = round(usual * USUAL_BATCH / arm.batch_size)
    caching = emoji.caching(processor)
    answers = ComaCompressionCollator(caching, compression_instruction=False) if arm.joint else None
    collate = JointContrastiveCollator(caching, dialogues=answers)
    curve = Curve(lambda: quick_precision(model, caching, emoji), max_steps // CURVE_POINTS)
    with tempfile.TemporaryDirectory() as scratch:
        config = ExperimentalContrastiveConfig(
            **common_settings(scratch, seed),
            max_steps=max_steps,
            per_device_train_batch_size=arm.batch_size,
            learning_rate=1e-3,
            temperature=arm.temperature,
            bidirectional=True,
            joint_weight=float(arm.joint),
            late_interaction_budgets=arm.budgets.split() or None,
        )
        (LastFirst if arm.last_first else ExperimentalContrastiveTrainer)(
            model,
            config,
            processing_class=processor,
            train_dataset=pairs(arm, seed, emoji),
            data_collator=collate if arm.mask_duplicates else lambda rows: without_keys(collate(rows)),
            callbacks=[curve],
        ).train()
    return curve


def without_keys(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch in which nothing is known to be equal."""
    return {**batch, **{name: torch.full_like(batch[name], -1) for name in ("query_keys", "document_keys")}}


def quick_precision(model: ComaForEmbedding, processor: ComaProcessor, emoji: Emoji) -> float:
    """P@1 from some images of the unseen style to their names, in percent."""
    rows = emoji.seen[::CURVE_EVERY].tolist()
    training = model.training
    images, names = (
        embed_items(model.eval(), processor, [items[row] for row in rows]) for items in (emoji.images, emoji.names)
    )
    model.train(training)
    relevance = Relevance.single(torch.arange(len(rows)))
    return 100 * retrieval_metrics(rank_embeddings(images, names, relevance), (1,))["hit@1"]
