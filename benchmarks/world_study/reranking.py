"""Descriptions to scenes: what a reranking from memories gives, and what the bytes of an image are worth.

Models with eight compression tokens come from the backbone of the map: four units of stage 1, on several turns or a
description, then stage 2 with nested budgets, alone or with dialogues in every step. Scenes are looked for by all that
is to be said of them, and by what the pairs say, colour, shape and place. The full view is that of the backbone.

  python -m benchmarks.world_study.reranking                 # after `python -m benchmarks.world_study`
  python -m benchmarks.world_study.reranking --seeds 0
  python -m benchmarks.world_study.reranking --quick         # to see that it runs

A file is left for every model, which is not examined again, and with them a table and `bytes.png`.
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from benchmarks.reranking import (
    BUDGETS,
    TOP,
    Coma,
    Search,
    best_of,
    compress,
    examine_reranking,
    from_images,
    from_memory,
)
from benchmarks.reranking_report import Found, draw_bytes, table_of_reranking
from benchmarks.world_study.arms import Arm
from benchmarks.world_study.backbone import make_backbone
from benchmarks.world_study.fast_processor import WorldProcessor
from benchmarks.world_study.pictures import draw_picture
from benchmarks.world_study.questions import DESCRIBE, describe
from benchmarks.world_study.random_backbone import TOKENS
from benchmarks.world_study.runs import begin, match
from benchmarks.world_study.scenes import draw_scene
from benchmarks.world_study.settings import QUICK, Sizes
from benchmarks.world_study.tasks import about_colour_and_shape
from trainers.backbone import model_from_backbone
from trainers.files import write_record


SCENES = 500
QUERIES = {"whole description": describe, "colour, shape and place": about_colour_and_shape}
BEFORE = Arm(pairs=10_000, stage_1=4.0, tokens=8, dialogues="mixed", budgets=" ".join(BUDGETS))
MODELS = {"stage 1, then stage 2": BEFORE, "stage 1, then both": replace(BEFORE, joint=True)}
LARGER = (1, 2, 4)  # sides of an image, for the cost of its tokens
TIMED = 5  # queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("world-study"), help="that of the map")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="a few steps and scenes")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sizes, folder = (QUICK if arguments.quick else Sizes()), arguments.folder
    make_backbone(folder / "backbone", sizes)
    scenes = 24 if arguments.quick else SCENES
    for seed in arguments.seeds:
        for name, arm in MODELS.items():
            file = folder / "reranking" / f"{name} {seed}.json"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                write_record(file, examine(arm, seed, sizes, folder, scenes))
    text = table_of_reranking("description to scene", runs(folder)) + "\n" + table_of_costs(folder)
    (folder / "reranking.md").write_text(text, encoding="utf-8")
    print(text)
    draw_bytes(runs(folder)).savefig(folder / "bytes.png", dpi=120)


def examine(arm: Arm, seed: int, sizes: Sizes, folder: Path, number: int) -> dict[str, Any]:
    """What [`~benchmarks.reranking.examine_reranking`] finds of a model, by the form of the queries."""
    model, processor, _ = begin(arm, seed, sizes, folder / "backbone", folder)
    fast = WorldProcessor.of(processor)
    coma = match(arm, seed, sizes, model, fast).cpu(), fast  # the cost of a query is processor time
    draw = random.Random("reranking")
    scenes = [draw_scene(draw, unseen=True) for _ in range(number)]
    pictures, found = [draw_picture(scene) for scene in scenes], {}
    for name, say in QUERIES.items():
        search = Search(pictures, [say(scene) for scene in scenes], torch.arange(number), DESCRIBE)
        found[name] = examine_reranking(coma, load(folder, 1), search)
    return found


def load(folder: Path, tokens: int) -> Coma:
    """The backbone, with compression tokens that were not trained."""
    model, processor = model_from_backbone(str(folder / "backbone"), tokens)
    return model.eval(), WorldProcessor.of(processor)


def runs(folder: Path) -> Found:
    """What was found of each model with each form of queries, once for each seed."""
    found: Found = {}
    for name in MODELS:
        for file in sorted((folder / "reranking").glob(f"{name} [0-9]*.json")):
            for queries, one in json.loads(file.read_text()).items():
                found.setdefault(f"{name}; {queries}", []).append(one)
    return found


def table_of_costs(folder: Path) -> str:
    """What twenty candidates of a query cost, in full view of images with more and more tokens, and from memories."""
    scenes = [draw_scene(random.Random(number)) for number in range(TOP)]
    pictures, texts = [draw_picture(scene) for scene in scenes], [describe(scene) for scene in scenes[:TIMED]]
    top = torch.arange(TOP).expand(TIMED, -1)
    original, coma = load(folder, 1), load(folder, BEFORE.tokens)
    kept = best_of(texts, top, from_memory(coma, compress(*coma, pictures), DESCRIBE))[1]
    lines = ["| tokens of an image | full view, ms a query | memory, ms a query | ratio |", "|---|---|---|---|"]
    for times in LARGER:
        larger = [np.kron(picture, np.ones((times, times, 1), np.uint8)) for picture in pictures]
        seconds = best_of(texts, top, from_images(original, larger, DESCRIBE))[1]
        lines.append(f"| {times**2 * TOKENS} | {1000 * seconds:.0f} | {1000 * kept:.0f} | {kept / seconds:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
