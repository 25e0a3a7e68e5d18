"""How fast the world is drawn, in scenes per second of processor time, beside what is made of them.

python -m benchmarks.world_study.speed
"""

import json
import random
import time

from benchmarks.world_study.pictures import draw_picture
from benchmarks.world_study.questions import ask_several, describe
from benchmarks.world_study.scenes import draw_scene


def main(number: int = 5000) -> None:
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
    for name, rate in found.items():
        print(f"{name:<30}{rate:>10,} a second")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
