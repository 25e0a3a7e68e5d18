"""Memory of `coma embed --engine ray` over many rows: the process that was started, and its actors.

JSON lines with short texts go through a small random model in two actors on this machine, 2,048 rows a part, into a
folder of Parquet files. Memory is what is resident of each process, looked at every second; after the first quarter
of the rows it should not grow with them.

  python -m benchmarks.ray_memory                       # 200,000 rows
  python -m benchmarks.ray_memory --rows 20000          # quick, to see that it runs

The last line is a JSON object: `driver_mb` and `actor_mb` (of the largest) by share of the rows, `growth_mb`, by how
much the larger of the two growths is from a quarter on, and `rows_per_second`.
"""

import argparse
import json
import os
import tempfile
import threading
from pathlib import Path

import psutil
import torch
from transformers.utils import logging

from hub_scripts.common.folders import save_model
from hub_scripts.embed import embed_table
from hub_scripts.embedding.ray_cluster import RayOptions
from hub_scripts.tiny.backbone import BackboneSizes, create_tiny_backbone
from trainers.backbone import model_from_backbone


TEXTS = ["a red apple on a green tree", "a pear below it", "leaves and a little sky"]
PART_ROWS = 2048
SHARES = (0.1, 0.25, 0.5, 0.75, 0.98)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--actors", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), arguments.rows, arguments.actors)))


def measure(folder: Path, num_rows: int, num_actors: int) -> dict:
    backbone = create_tiny_backbone(folder / "backbone", texts=TEXTS, sizes=BackboneSizes(num_hidden_layers=1))
    save_model(*model_from_backbone(str(backbone), 1), folder / "model")
    with (folder / "rows.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": f"{TEXTS[row % 3]} {row}"}) + "\n" for row in range(num_rows))
    seen: list[tuple[float, float, float]] = []
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(folder / "index.parts", num_rows, seen, ended))
    watcher.start()
    try:
        ray = RayOptions(num_actors=num_actors)
        made = embed_table(
            folder / "model", folder / "rows.jsonl", folder / "index", engine="ray", ray=ray, part_rows=PART_ROWS
        )
    finally:
        ended.set()
        watcher.join()
    assert made.num_rows == num_rows
    return {**summary(seen), "rows_per_second": round(made.num_embedded / made.seconds, 1), "rows": num_rows}


def watch(parts: Path, num_rows: int, seen: list[tuple[float, float, float]], ended: threading.Event) -> None:
    """Adds the share of the rows that are done, and the megabytes of the driver and of the largest actor."""
    driver, actors = psutil.Process(os.getpid()), []
    while not ended.wait(1):
        done = PART_ROWS * len(list(parts.glob("*.arrow"))) / num_rows
        if not done:
            continue
        try:
            actors = actors or [child for child in driver.children(recursive=True) if is_actor(child)]
            sizes = [process.memory_info().rss / 2**20 for process in (driver, *actors)]
        except psutil.NoSuchProcess:  # the end
            return
        if len(sizes) > 1:
            seen.append((done, sizes[0], max(sizes[1:])))


def is_actor(process: psutil.Process) -> bool:
    return any(word.startswith("ray::PartEmbedder") for word in process.cmdline())


def summary(seen: list[tuple[float, float, float]]) -> dict:
    """Of each share the first look after it."""
    found = {share: next((look for look in seen if look[0] >= share), seen[-1]) for share in SHARES}
    print("share of the rows | driver, MB | largest actor, MB")
    for share, (_, driver, actor) in found.items():
        print(f"{share:17.0%} | {driver:10.0f} | {actor:17.0f}")
    growth = [found[SHARES[-1]][place] - found[0.25][place] for place in (1, 2)]
    mb = [{f"{share:g}": round(look[place], 1) for share, look in found.items()} for place in (1, 2)]
    return {"driver_mb": mb[0], "actor_mb": mb[1], "growth_mb": round(max(growth), 1)}


if __name__ == "__main__":
    main()
