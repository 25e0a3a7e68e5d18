"""How fast the world is drawn, in scenes per second of processor time, and what a step of each stage costs.

python -m benchmarks.world_study.speed
"""

import json
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from transformers.utils import logging

from benchmarks.world_study.arms import Arm, without
from benchmarks.world_study.fast_processor import WorldProcessor
from benchmarks.world_study.pictures import draw_picture
from benchmarks.world_study.questions import ask_several, describe
from benchmarks.world_study.random_backbone import write_random
from benchmarks.world_study.runs import keep_compressed, match
from benchmarks.world_study.scenes import draw_scene
from benchmarks.world_study.settings import Sizes
from trainers.backbone import model_from_backbone


def main() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found = scenes_per_second()
    for name, rate in found.items():
        print(f"{name:<30}{rate:>10,} a second")
    with tempfile.TemporaryDirectory() as folder:
        found |= (costs := seconds_of_steps(Path(folder)))
    for name, seconds in costs.items():
        print(f"{name:<30}{seconds:>10.3f} s")
    print(json.dumps(found))


def scenes_per_second(number: int = 5000) -> dict[str, int]:
    """Of a scene, and of what is made of it."""
    draw = random.Random(0)
    scenes = [draw_scene(draw) for _ in range(number)]
    acts = {
        "scenes": lambda scene: draw_scene(draw),
        "pictures": draw_picture,
        "dialogues of five questions": lambda scene: ask_several(scene, draw, 5),
        "descriptions": lambda scene: describe(scene, draw),
    }
    found = {}
    for name, act in acts.items():
        started = time.process_time()
        for scene in scenes:
            act(scene)
        found[name] = round(number / (time.process_time() - started))
    found["all of it"] = round(1 / sum(1 / rate for rate in found.values()))
    return found


def seconds_of_steps(folder: Path, few: int = 10, many: int = 40) -> dict[str, float]:
    """Processor time of a step of each stage, from two trainings of different length: what begins one is no step."""
    write_random(folder / "backbone", Sizes())
    first, second = {}, {}
    for steps in (few, few, many):  # the first of all pays for what is loaded once
        sizes = replace(Sizes(), unit=steps, least_steps=steps, cut=Arm().pairs // Sizes().pairs_batch)
        keep_compressed(Arm(), 0, sizes, folder / "backbone", folder / f"{steps}")
        first[steps] = json.loads((folder / f"{steps}" / "found.json").read_text())["seconds"]
        model, processor = model_from_backbone(str(folder / "backbone"), Arm().tokens)
        started = time.process_time()
        match(without(Arm()), 0, sizes, model, WorldProcessor.of(processor))
        second[steps] = time.process_time() - started
    costs = {"step of stage 1": first, "step of stage 2": second}
    return {name: round((of[many] - of[few]) / (many - few), 3) for name, of in costs.items()}


if __name__ == "__main__":
    main()
