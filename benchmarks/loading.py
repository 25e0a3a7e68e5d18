"""Whether loading keeps up with training, and what a million rows cost in memory.

Rows of stage 1, files of images as people have them. `emoji`: 128x128 pixels, 4 image tokens, the model of the demo,
all of it trained, batches of 32. `photo`: JPEG of 1024x768 pixels, 256 image tokens, the same model with its vision
tower frozen, batches of 8. Rows per second of the data loader alone, from the first batch to the last, with 1 and 2
workers, without and with the cache of preprocessed pixels (filled beforehand), beside those of the step, which is
forward and backward; above 1, the loader is the faster of the two.

Then metadata: JSON lines with paths and dialogues of three turns are loaded (converted, checked, written), opened and
gone through in batches; then a second process finds them made, and goes through them. Memory is the peak above what
each process had before. Its own is what it cannot give back; pages of the memory-mapped file can be.

  python -m benchmarks.loading
  python -m benchmarks.loading --batches 2 --repeats 1 --rows 1000 5000      # quick, to see that it runs

The last line is a JSON object: `loader_to_step` by kind, workers and cache, and `memory_growth_mb`, by how much the
peak of a process's own memory is higher with the most rows than with the fewest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from transformers.utils import logging

from hub_scripts.tiny.backbone import DEMO, create_tiny_backbone
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.backbone import model_from_backbone
from trainers.compression.collator import ComaCompressionCollator
from trainers.data.dialogues import load_dialogues
from trainers.data.emoji import emoji_dialogues, load_emoji
from trainers.data.pixel_cache import CachingProcessor
from trainers.data.rows import NumberedRows
from trainers.vision_side import freeze_vision


KINDS = {
    "emoji": {"size": (128, 128), "tokens": 4, "batch": 32},
    "photo": {"size": (1024, 768), "tokens": 256, "batch": 8},
}
WORKERS = (1, 2)
LINE = {
    "images": ["images/{0}.jpg"],
    "messages": [{"role": "user", "content": "What is {0}?"}, {"role": "assistant", "content": "It is image {0}."}]
    * 3,
}


def make_rows(folder: Path, size: tuple[int, int], number: int) -> Dataset:
    """Dialogues about emoji whose images are files of this size."""
    emoji = load_emoji(["noto"]).select(range(number))
    talks, ending = emoji_dialogues(emoji, turns=3, languages=()), "png" if size[0] < 256 else "jpg"
    with (folder / "rows.jsonl").open("w") as file:
        for place, row in enumerate(talks):
            image = Image.new("RGB", size, "white")
            drawn = row["images"][0].convert("RGBA").resize(size)
            image.paste(drawn, mask=drawn)
            image.save(folder / f"{place}.{ending}")
            file.write(json.dumps({"images": [f"{place}.{ending}"], "messages": row["messages"]}) + "\n")
    return load_dialogues(folder / "rows.jsonl")


def make_model(folder: Path, rows: Dataset, tokens: int) -> tuple[ComaForEmbedding, ComaProcessor]:
    texts = [message["content"] for messages in rows["messages"] for message in messages] * 2
    sizes = replace(DEMO, min_image_tokens=tokens, max_image_tokens=tokens)
    create_tiny_backbone(folder, texts=texts, sizes=sizes, vocab_size=1024)
    return model_from_backbone(str(folder), 32)


def loader_rate(rows: NumberedRows, collator: ComaCompressionCollator, batch: int, workers: int) -> float:
    """Rows per second, from the first batch to the last."""
    batches = iter(DataLoader(rows, batch, num_workers=workers, collate_fn=collator))
    next(batches)
    began = time.perf_counter()
    number = sum(len(batch["labels"]) for batch in batches)
    return number / (time.perf_counter() - began)


def step_rate(model: ComaForEmbedding, batch: dict[str, torch.Tensor], repeats: int) -> float:
    seconds = []
    for repeat in range(repeats + 1):  # the first warms up
        began = time.perf_counter()
        model(**batch).loss.backward()
        if repeat:
            seconds.append(time.perf_counter() - began)
        model.zero_grad()
    return len(batch["labels"]) / statistics.median(seconds)


def compare_rates(kind: str, arguments: argparse.Namespace) -> dict[str, float]:
    size, tokens, batch = KINDS[kind].values()
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_rows(Path(folder), size, batch * (arguments.batches + 1))
        model, processor = make_model(Path(folder, "backbone"), dataset, tokens)
        if kind == "photo":
            freeze_vision(model)
        rows, caching = NumberedRows(dataset), CachingProcessor.of(processor)
        caching.fill_from(dataset, num_workers=2)
        collators = {
            "decoding": ComaCompressionCollator(processor),
            "cached": ComaCompressionCollator(caching),
        }
        step = step_rate(model, collators["cached"](rows.__getitems__(list(range(batch)))), arguments.repeats)
        print(f"\n{kind}: {size[0]}x{size[1]} pixels, {tokens} image tokens, batches of {batch}")
        print(f"{'step, forward and backward':<34}{step:>9.0f} rows/s")
        ratios = {}
        for name, collator in collators.items():
            for workers in WORKERS:
                rates = [loader_rate(rows, collator, batch, workers) for _ in range(arguments.repeats)]
                rate = statistics.median(rates)
                ratios[f"{kind}, {workers} workers, {name}"] = round(rate / step, 2)
                print(f"{f'loader, {name}, {workers} workers':<34}{rate:>9.0f} rows/s, {rate / step:>6.1f} x the step")
    return ratios


def write_lines(file: Path, number: int) -> None:
    line = json.dumps(LINE)
    with file.open("w") as lines:
        lines.writelines(line.replace("{0}", str(place)) + "\n" for place in range(number))


def resident() -> dict[str, float]:
    """Memory of this process in MB: its own, and with the pages of files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[field].split()[0]) / 1024 for name, field in (("own", "RssAnon"), ("all", "VmRSS"))}


def peak_over(work: Callable[[], None]) -> dict[str, float]:
    """Peak of memory above what there was before, while something is done, looked at fifty times a second."""
    before, done = resident(), threading.Event()
    peak = dict(before)

    def look() -> None:
        while not done.wait(0.02):
            peak.update({name: max(peak[name], value) for name, value in resident().items()})

    watching = threading.Thread(target=look)
    watching.start()
    work()
    done.set()
    watching.join()
    return {name: peak[name] - before[name] for name in peak}


def measure_memory(file: Path) -> None:
    """Loads a file and goes through its rows; prints seconds and megabytes as JSON."""
    warm = file.with_name(f"warm-{os.getpid()}.jsonl")
    write_lines(warm, 300)

    def read(path: Path) -> None:
        rows = NumberedRows(load_dialogues(path))
        for start in range(0, len(rows), 256):
            rows.__getitems__(list(range(start, min(start + 256, len(rows)))))

    read(warm)  # what is imported and kept once
    began = time.perf_counter()
    peaks = peak_over(lambda: read(file))
    print(json.dumps({"seconds": time.perf_counter() - began, **peaks}))


def compare_memory(numbers: list[int]) -> float:
    print(f"\n{'rows':<12}{'':<28}{'s':>7}{'own MB':>9}{'with file pages':>17}")
    own = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            file = Path(folder, f"{number}.jsonl")
            write_lines(file, number)
            for work in ("loaded, and gone through", "found, and gone through"):
                command = [sys.executable, "-m", "benchmarks.loading", "--measure", str(file)]
                environment = {**os.environ, "HF_DATASETS_CACHE": folder}
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
                found = json.loads(done.stdout.splitlines()[-1])
                own[number] = max(own.get(number, 0.0), found["own"])
                print(f"{number:<12,}{work:<28}{found['seconds']:>7.1f}{found['own']:>9.1f}{found['all']:>17.1f}")
    return own[max(numbers)] - own[min(numbers)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=12, help="batches of a measurement (default: 12)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", choices=list(KINDS), nargs="*", default=list(KINDS), help="of images")
    parser.add_argument("--rows", type=int, nargs=2, default=[10_000, 1_000_000], help="rows of the metadata")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the step")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.measure is not None:
        measure_memory(arguments.measure)
        return
    ratios = {name: ratio for kind in arguments.kinds for name, ratio in compare_rates(kind, arguments).items()}
    growth = compare_memory(arguments.rows)
    print(json.dumps({"loader_to_step": ratios, "memory_growth_mb": round(growth, 1)}))


if __name__ == "__main__":
    main()
