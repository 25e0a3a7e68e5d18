"""How much of a scene a linear map reads from an embedding, or from all the states that it is the mean of.

A ridge classifier is fitted on 3,000 pictures to say what is at each place, its colour and its shape, the background,
the word and the number of things; it is asked about 1,000 scenes with a combination that was never seen. The backbone,
whose compression tokens were not trained, and every stage 1 that the folder of the study has.

  python -m benchmarks.world_study.probe       # after `python -m benchmarks.world_study`

The table has the share of right answers in percent, mean and standard deviation over the seeds of a stage 1, and what
the commonest answer gives.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler
from transformers.utils import logging

from benchmarks.emoji_study.results import spread
from benchmarks.world_study.fast_processor import WorldProcessor
from benchmarks.world_study.pictures import draw_picture
from benchmarks.world_study.scenes import PLACES, Scene, draw_scene
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.backbone import model_from_backbone


NONE = "none"
ASKED = ("colour at a place", "shape at a place", "background", "word", "count")
Coma = tuple[ComaForEmbedding, ComaProcessor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("world-study"), help="that of the map")
    parser.add_argument("--scenes", type=int, nargs=2, default=(3000, 1000), help="to fit, and to ask about")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    draw = random.Random("probe")
    known = [draw_scene(draw) for _ in range(arguments.scenes[0])]
    asked = [draw_scene(draw, unseen=True) for _ in range(arguments.scenes[1])]
    print("| read from | " + " | ".join(ASKED) + " |\n" + "|---" * (len(ASKED) + 1) + "|")
    nothing = [np.zeros((len(scenes), 1)) for scenes in (known, asked)]
    print(line_of("the commonest answer", [shares(nothing, known, asked)]), flush=True)
    by_name: dict[str, list[Path]] = {"the backbone": [arguments.folder / "backbone"]}
    for place in sorted((arguments.folder / "stage-1").iterdir()):
        by_name.setdefault(f"stage 1, {place.name.rpartition(' ')[0]}", []).append(place)
    for name, places in by_name.items():
        several = [[states_of(load(place), scenes) for scenes in (known, asked)] for place in places]
        means = [shares([one.mean(axis=1) for one in states], known, asked) for states in several]
        whole = [shares([one.reshape(len(one), -1) for one in states], known, asked) for states in several]
        print(line_of(f"{name}; the mean", means), line_of(f"{name}; all states", whole), sep="\n", flush=True)


def line_of(name: str, found: Sequence[Sequence[float]]) -> str:
    """A line of the table: shares of several seeds."""
    return f"| {name} | " + " | ".join(spread(list(values), 1) for values in zip(*found, strict=True)) + " |"


def load(place: Path) -> Coma:
    """A stage 1, or the backbone with tokens that were not trained."""
    if place.name == "backbone":
        return model_from_backbone(str(place), 4)
    return ComaForEmbedding.from_pretrained(place), ComaProcessor.from_pretrained(place)


@torch.no_grad()
def states_of(coma: Coma, scenes: Sequence[Scene]) -> np.ndarray:
    """States of the compression tokens behind the pictures, `(scenes, K, hidden_size)`."""
    model, processor = coma
    model, fast = model.eval(), WorldProcessor.of(processor)
    pictures = [{"image": draw_picture(scene)} for scene in scenes]
    parts = [pictures[start : start + 100] for start in range(0, len(pictures), 100)]
    return np.concatenate([model(**fast.process(part)).compression_states.numpy() for part in parts])


def shares(vectors: Sequence[np.ndarray], known: Sequence[Scene], asked: Sequence[Scene]) -> list[float]:
    """Right answers to each question in percent; of what is at a place, the mean over the places."""
    scale = StandardScaler().fit(vectors[0])
    fit_on, ask_about = (scale.transform(side) for side in vectors)
    right_of = []
    for what in ASKED:
        taught, right = (np.array([facts(scene)[what] for scene in scenes]) for scenes in (known, asked))
        maps = [RidgeClassifier(alpha=10.0).fit(fit_on, labels) for labels in taught.T]
        found = [one.predict(ask_about) == labels for one, labels in zip(maps, right.T, strict=True)]
        right_of.append(100 * float(np.mean(found)))
    return right_of


def facts(scene: Scene) -> dict[str, list[str]]:
    """The right answers; of places, in their order."""
    things = {thing.place: thing for thing in scene.things}
    at = [things.get(place) for place in range(len(PLACES))]
    return {
        "colour at a place": [thing.colour if thing else NONE for thing in at],
        "shape at a place": [thing.shape if thing else NONE for thing in at],
        "background": [scene.background],
        "word": [scene.word],
        "count": [str(len(scene.things))],
    }


if __name__ == "__main__":
    main()
