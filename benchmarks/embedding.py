"""Embedding a corpus, side by side: `embed_items` as it is by default, and `SentenceTransformer.encode`.

300 rows, shuffled: texts of 5 to 400 words, JPEG files of 1 to 12 megapixels made on the spot, and both together, no
two alike; a random Qwen2.5-VL of 30 million parameters that sees 64 to 256 tokens of an image. sentence-transformers
runs at its default batch size and at the best of several for these rows, which is looked for beforehand; ours looks
for its own, and what that takes is counted. Then large JPEG files alone, ours with `reduced_jpeg`. The contenders take
turns, figures are medians. The bare matrix work is that of our batches: the same operations on the same shapes, with
nothing in between. Peak memory is that of a process of its own for each, above what it had with its model loaded.

  python -m benchmarks.embedding
  python -m benchmarks.embedding --clock cpu        # processor time of all threads, on a machine that others use
  python -m benchmarks.embedding --quick            # few and small rows, to see that it runs

The last line is a JSON object of ratios of speed: `vs_st_default`, `vs_st_best` and `vs_matmul` are ours to those,
`jpeg_vs_st_best` the same of large files, `jpeg_decode_ratio` that of decoding these at a reduced scale.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils._pytree import tree_map
from transformers.utils import logging as transformers_logging

from benchmarks.compression_step import MatrixWork, made_up
from benchmarks.contrastive_step import memory_above
from hub_scripts.common.folders import save_model
from hub_scripts.common.loading import load_model
from hub_scripts.tiny.backbone import BackboneSizes, create_tiny_backbone
from trainers.backbone import model_from_backbone
from trainers.encoding.encode import embed_items
from trainers.encoding.pictures import PictureReader


WORDS = "a red apple on green tree blue sky over the small house two dogs run along old road near water".split()
SIZES = BackboneSizes(
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=8,
    num_attention_heads=8,
    vision_hidden_size=256,
    vision_intermediate_size=704,
    vision_depth=6,
    vision_num_heads=4,
    min_image_tokens=64,
    max_image_tokens=256,
)
ST_DEFAULT = 32
ST_SIZES = (2, 4, 8, 16, 64)  # and its default
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Rows = list[dict[str, str]]


def make_model(folder: Path) -> None:
    create_tiny_backbone(folder / "backbone", texts=[" ".join(WORDS)] * 4, sizes=SIZES, vocab_size=2048)
    save_model(*model_from_backbone(str(folder / "backbone"), 32), folder / "model")


def make_photo(file: Path, megapixels: float, random: np.random.Generator) -> str:
    """A JPEG with much that is smooth, some edges and some grain, as photographs have."""
    width = int((megapixels * 1e6 * random.uniform(0.75, 1.6)) ** 0.5)
    size = (width, int(megapixels * 1e6 / width))
    coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    edges = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.NEAREST
    )
    grain = random.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    grain = Image.fromarray(np.tile(grain, (size[1] // 512 + 1, size[0] // 512 + 1, 1))[: size[1], : size[0]])
    Image.blend(Image.blend(coarse, edges, 0.3), grain, 0.06).save(file, quality=88)
    return str(file)


def make_rows(folder: Path, number: int, megapixels: tuple[float, float], kinds: int = 3) -> Rows:
    folder.mkdir()
    random, rows = np.random.default_rng(0), []
    for place in range(number):
        kind, row = place % kinds, {}
        if kind != 2:
            row["image"] = make_photo(folder / f"{place}.jpg", random.uniform(*megapixels), random)
        if kind != 0:
            row["text"] = f"{place} " + " ".join(random.choice(WORDS, int(5 * 80 ** random.random())))
        rows.append(row)
    return [rows[place] for place in random.permutation(number)]


def ours(folder: Path, **options) -> Callable[[Rows], object]:
    model, processor = load_model(str(folder / "model"), device="cpu")
    return lambda rows: embed_items(model, processor, rows, description=None, **options)


def theirs(folder: Path, batch_size: int) -> Callable[[Rows], object]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder / "model"), device="cpu", trust_remote_code=True)
    return lambda rows: model.encode(rows, batch_size=batch_size)


def seconds(clock: str, work: Callable[[], object]) -> float:
    started = CLOCKS[clock]()
    work()
    return CLOCKS[clock]() - started


def take_turns(works: dict[str, Callable[[], object]], clock: str, repeats: int) -> dict[str, float]:
    taken = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            taken[name].append(seconds(clock, work))
    return {name: statistics.median(times) for name, times in taken.items()}


def best_size(folder: Path, rows: Rows, clock: str) -> int:
    """The fastest of several batch sizes of sentence-transformers."""
    taken = {size: seconds(clock, partial(theirs(folder, size), rows)) for size in (*ST_SIZES, ST_DEFAULT)}
    return min(taken, key=taken.get)


def seconds_of_matrices(clock: str, embed: Callable[[Rows], object], rows: Rows) -> float:
    with MatrixWork() as work:
        embed(rows)
    total = 0.0
    for function, operands in work.operations:
        args, kwargs = tree_map(made_up, operands)
        total += seconds(clock, partial(function, *args, **kwargs))
    return total


def peak_memory(name: str, folder: Path, arguments: argparse.Namespace) -> float:
    """GiB that one contender takes in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.embedding", "--measure", name, "--folder", str(folder)]
    command += ["--threads", str(arguments.threads)]
    printed = subprocess.run(command, capture_output=True, text=True, check=False)
    if printed.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{printed.stderr[-2000:]}")
    return float(printed.stdout.split()[-1])


def measure_memory(name: str, folder: Path) -> float:
    rows = json.loads((folder / "rows.json").read_text())
    embed = ours(folder) if name == "ours" else theirs(folder, int(name))
    embed(rows[:2])
    return memory_above(lambda: embed(rows))


def read_all(reader: PictureReader, rows: Rows) -> None:
    for row in rows:
        reader.read(row["image"])


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    number, large, megapixels = (12, 4, (0.1, 0.5)) if arguments.quick else (300, 40, (1, 12))
    clock, repeats = arguments.clock, 1 if arguments.quick else arguments.repeats
    rows = make_rows(folder / "mixed", number, megapixels)
    (folder / "rows.json").write_text(json.dumps(rows))
    photos = make_rows(folder / "large", large, (megapixels[1] * 0.66, megapixels[1]), kinds=1)
    embed = ours(folder)
    embed(rows[:4])  # what is made once
    best = best_size(folder, rows, clock)
    contenders = {"ours": embed, str(ST_DEFAULT): theirs(folder, ST_DEFAULT), str(best): theirs(folder, best)}
    medians = take_turns({name: partial(embed, rows) for name, embed in contenders.items()}, clock, repeats)
    print(f"{'':<40}{'items/s':>9}{'peak GB':>9}")
    for name, median in medians.items():
        called = name if name == "ours" else f"sentence-transformers, batches of {name}"
        print(f"{called:<40}{number / median:>9.2f}{peak_memory(name, folder, arguments):>9.2f}")
    bare = seconds_of_matrices(clock, contenders["ours"], rows)
    print(f"{'bare matrix work':<40}{number / bare:>9.2f}")
    reduced = {"ours": ours(folder, reduced_jpeg=True), "best": contenders[str(best)]}
    of_photos = take_turns({name: partial(embed, photos) for name, embed in reduced.items()}, clock, repeats)
    processor = load_model(str(folder / "model"), device="cpu")[1]
    readers = {option: PictureReader(processor, option) for option in (False, True)}
    reads = {option: partial(read_all, reader, photos) for option, reader in readers.items()}
    decoding = take_turns(reads, clock, repeats)
    ratios = {
        "vs_st_default": medians[str(ST_DEFAULT)] / medians["ours"],
        "vs_st_best": medians[str(best)] / medians["ours"],
        "vs_matmul": bare / medians["ours"],
        "jpeg_vs_st_best": of_photos["best"] / of_photos["ours"],
        "jpeg_decode_ratio": decoding[False] / decoding[True],
    }
    return {name: round(ratio, 3) for name, ratio in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    if arguments.measure:
        print(measure_memory(arguments.measure, arguments.folder))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        print(json.dumps(compare(Path(folder), arguments)))


if __name__ == "__main__":
    main()
