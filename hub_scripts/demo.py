"""Trains a small CoMa model on real images, from nothing, and shows what it finds.

The data are 1,595 emoji in four drawing styles. Three styles are trained on, the fourth is never seen. A random
backbone of three million parameters goes through both stages of the paper: first it answers dialogues about an image
from its compression tokens alone, then the embeddings of images and names are matched by InfoNCE. After that it
names images of the unseen style, finds them by name, and finds the same emoji in another style.

  coma demo                          # about five minutes on two cores
  coma demo --out my-demo --compression-steps 20 --contrastive-steps 50

It leaves in the folder: `model`, which AutoModel and SentenceTransformer load; `retrieval.png`, a page of queries with
what they found; and `index.parquet`, 399 emoji of the unseen style in `photos`, to be searched by `coma app`.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.arguments import command_parser, positive
from hub_scripts.common.terminal import one_line


if TYPE_CHECKING:
    import torch

    from modeling_coma import ComaForEmbedding, ComaProcessor
    from trainers.base import ComaTrainer


__all__ = ["main"]

UNSEEN, OTHER = "twemoji", "noto"
BACKBONE = "tiny random Qwen2.5-VL"
NUM_COMPRESSION_TOKENS, TURNS = 4, 3


def main(argv: list[str]) -> int:
    """Runs `coma demo`; returns the exit code."""
    parser = command_parser("demo", __doc__)
    parser.add_argument("--out", metavar="OUT", type=Path, default=Path("demo"), help="folder (default: demo)")
    parser.add_argument(
        "--compression-steps", metavar="N", type=positive, default=20, help="steps of stage 1 (default: 20)"
    )
    parser.add_argument(
        "--contrastive-steps", metavar="N", type=positive, default=400, help="steps of stage 2 (default: 400)"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of weights and data order (default: 0)")
    arguments = parser.parse_args(argv)

    from hub_scripts.common.folders import new_folder
    from hub_scripts.common.page import draw_page
    from trainers.data.emoji import emoji_retrieval

    started, out = time.perf_counter(), arguments.out
    with new_folder(out) as folder:
        model, processor = _create(arguments.seed)
        stages = _train(model, processor, arguments)
        unseen, other = emoji_retrieval(UNSEEN), emoji_retrieval(OTHER)
        embeddings = _embed(model, processor, images=unseen.images, names=unseen.names, others=other.images)
        scores, candidates = _evaluate(**embeddings), len(unseen.names)
        table = _table(scores, candidates)
        card = {"training": _training(arguments), "results": f"```\n{table}\n```"}
        difference = _save(model, processor, folder / "model", stages, **card)
        print(f"\nReloaded in a clean process with AutoModel: largest difference {difference:.0e}")
        draw_page(folder / "retrieval.png", unseen, other, **embeddings)
    print(f"\n{table}")
    _index(out)
    print(f"\nLook at {one_line(out / 'retrieval.png')}; load {one_line(out / 'model')} with AutoModel.")
    print(f"A page to search {one_line(out / 'photos')} in a browser: coma app {one_line(out / 'index.parquet')}\n")
    summary = {
        **{f"{name}_p1": round(score["hit@1"], 4) for name, score in scores.items()},
        "chance_p1": round(1 / candidates, 6),
        "seconds": round(time.perf_counter() - started),
        "model": str(out / "model"),
    }
    print(json.dumps(summary))
    return 0


def _index(out: Path) -> None:
    """Writes every fourth emoji of the unseen style to a folder, and embeds them by the model as it was saved."""
    from hub_scripts.embed import embed_table
    from trainers.data.emoji import load_emoji

    (out / "photos").mkdir()
    with (out / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "image"])
        emoji = load_emoji([UNSEEN])
        for emoji_row in emoji.select(range(0, len(emoji), 4)):
            name = f"photos/{emoji_row['id']}.png"
            emoji_row["image"].save(out / name)
            rows.writerow([emoji_row["label"], name])
    embed_table(out / "model", out / "photos.csv", out / "index.parquet")


def _create(seed: int) -> tuple["ComaForEmbedding", "ComaProcessor"]:
    from hub_scripts.tiny.backbone import DEMO, create_tiny_backbone
    from trainers.backbone import model_from_backbone
    from trainers.data.emoji import emoji_dialogues, load_emoji

    emoji = load_emoji()
    texts = [message["content"] for row in emoji_dialogues(emoji, languages=())["messages"] for message in row]
    with tempfile.TemporaryDirectory() as folder:
        create_tiny_backbone(folder, texts=texts + list(emoji["label"]), sizes=DEMO, seed=seed)
        return model_from_backbone(folder, NUM_COMPRESSION_TOKENS)


def _train(
    model: "ComaForEmbedding", processor: "ComaProcessor", arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Both stages, on all styles but one; gives the record of them."""
    from trainers.compression import ComaCompressionCollator, ComaCompressionConfig, ComaCompressionTrainer
    from trainers.contrastive import ComaContrastiveCollator, ComaContrastiveConfig, ComaContrastiveTrainer
    from trainers.data.emoji import STYLES, emoji_dialogues, emoji_pairs, load_emoji
    from trainers.data.pixel_cache import CachingProcessor

    emoji = load_emoji([style for style in STYLES if style != UNSEEN])
    caching = CachingProcessor.of(processor)
    caching.fill_from(emoji, num_workers=2)
    with tempfile.TemporaryDirectory() as folder:
        common = {
            "output_dir": folder,
            "freeze_vision": False,  # the backbone is random: all of it is trained
            "weight_decay": 0.05,
            "warmup_steps": 0.1,
            "logging_steps": 10,
            "save_strategy": "no",
            "report_to": "none",
            "seed": arguments.seed,
        }
        print("\nStage 1, compression: dialogues answered from the compression tokens alone")
        settings = {"max_steps": arguments.compression_steps, "per_device_train_batch_size": 64}
        config = ComaCompressionConfig(**common, **settings, learning_rate=3e-4)
        rows = emoji_dialogues(emoji, seed=arguments.seed, turns=TURNS, languages=())
        collator = ComaCompressionCollator(caching, compression_instruction=False)
        trainer = ComaCompressionTrainer(model, config, collator, rows, processing_class=processor)
        stages = [_run(trainer, turns=TURNS)]

        print("\nStage 2, matching: images and their names, by InfoNCE")
        settings = {"max_steps": arguments.contrastive_steps, "per_device_train_batch_size": 128}
        settings |= {"temperature": 0.07, "bidirectional": True}
        config = ComaContrastiveConfig(**common, **settings, learning_rate=1.5e-3)
        rows, collator = emoji_pairs(emoji), ComaContrastiveCollator(caching)
        trainer = ComaContrastiveTrainer(model, config, collator, rows, processing_class=processor)
        stages.append(_run(trainer))
    model.eval()
    return stages


def _run(trainer: "ComaTrainer", **more: Any) -> dict[str, Any]:
    """Trains, and gives the record of the stage."""
    from hub_scripts.common.training import EMOJI
    from hub_scripts.hub.training_record import describe_stage

    sys.stdout.flush()  # progress bars go another way
    trainer.train()
    source = {"model": BACKBONE, "data": EMOJI, "data_rows": len(trainer.train_dataset), **more}
    return describe_stage(trainer, source, is_finished=True)


def _training(arguments: argparse.Namespace) -> str:
    return (
        f"`coma demo`, from random weights, on emoji in three drawing styles. Stage 1: {arguments.compression_steps} "
        "steps of 64 dialogues, without the instruction line, learning rate 3e-4. Stage 2: "
        f"{arguments.contrastive_steps} steps of 128 pairs of image and name, learning rate 1.5e-3, temperature "
        f"0.07, both directions. Everything was trained. Seed {arguments.seed}."
    )


def _embed(model: "ComaForEmbedding", processor: "ComaProcessor", **items: Any) -> dict[str, "torch.Tensor"]:
    from trainers.encoding.encode import embed_items

    return {name: embed_items(model, processor, some, description=f"Embedding {name}") for name, some in items.items()}


def _evaluate(images: "torch.Tensor", names: "torch.Tensor", others: "torch.Tensor") -> dict[str, dict[str, float]]:
    """Each query's own emoji is the one right answer among all of them."""
    from trainers.evaluation.metrics import Relevance, rank_embeddings, retrieval_metrics

    relevance = Relevance.single(range(len(names)))
    tasks = {"image_to_text": (images, names), "text_to_image": (names, images), "image_to_image": (images, others)}
    return {name: retrieval_metrics(rank_embeddings(*pair, relevance), (1, 10)) for name, pair in tasks.items()}


def _table(scores: dict[str, dict[str, float]], candidates: int) -> str:
    lines = [
        f"Retrieval among {candidates} emoji, images of the unseen style {UNSEEN}",
        f"{'':<18}{'P@1':>9}{'R@10':>9}",
    ]
    for name, score in scores.items():
        title = name.replace("_to_", " -> ").replace("text", "name")
        lines.append(f"{title:<18}{score['hit@1']:>9.2%}{score['hit@10']:>9.2%}")
    lines.append(f"{'chance':<18}{1 / candidates:>9.2%}{10 / candidates:>9.2%}")
    return "\n".join(lines)


def _save(
    model: "ComaForEmbedding", processor: "ComaProcessor", folder: Path, stages: list[dict[str, Any]], **card: str
) -> float:
    """Saves a complete folder, and loads it in a clean process; gives the largest difference of an embedding."""
    from hub_scripts.common.folders import save_model
    from hub_scripts.hub.golden import check_clean_load, write_golden
    from hub_scripts.hub.training_record import write_stages

    folder.mkdir()
    model.config.backbone_config._name_or_path = BACKBONE
    write_stages(folder, stages)
    save_model(model, processor, folder, **card)
    write_golden(folder, model, processor)
    return check_clean_load(folder)
