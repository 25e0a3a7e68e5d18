"""One step of stage 2, side by side: our gradient cache, that of sentence-transformers, and no cache at all.

64 pairs: texts of 5 to 60 tokens against images of 64 to 256 tokens; LoRA r=16 on the language model, frozen vision
tower, the same weights, data and loss. Mini-batches are alike in peak memory: ours hold 2,048 tokens, those of
sentence-transformers, which pads more and keeps more, 1,024. The backbone is random; its tower takes as
much of the work as that of Qwen2.5-VL-3B. A step is forward and backward, from tensors. The three take turns, figures
are medians; peak memory is measured in a process of its own for each. Last comes the loss alone for 32,768 pairs.

  python -m benchmarks.contrastive_step
  python -m benchmarks.contrastive_step --pairs 8 --repeats 1 --loss-pairs 2048      # quick, to see that it runs

The last line is a JSON object; `pairs_per_s_ratio` is ours to sentence-transformers, `time_vs_uncached` ours to none.
"""

import argparse
import gc
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from PIL import Image
from transformers.utils import logging as transformers_logging

from hub_scripts.common.folders import save_model
from hub_scripts.tiny.backbone import BackboneSizes, create_tiny_backbone
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.adapters import lora_config
from trainers.backbone import model_from_backbone
from trainers.contrastive.config import ComaContrastiveConfig
from trainers.contrastive.loss import info_nce
from trainers.contrastive.trainer import ComaContrastiveTrainer
from trainers.vision_side import freeze_vision


TEMPERATURE = 0.03
SIZES = BackboneSizes(
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=6,
    vision_hidden_size=128,
    vision_intermediate_size=352,
    vision_depth=5,
    vision_num_heads=4,
    min_image_tokens=64,
    max_image_tokens=256,
)
WORDS = "a red apple on green tree blue sky over the small house two dogs run along old road near water".split()


def make_rows(pairs: int) -> list[dict]:
    random = np.random.default_rng(0)
    rows = []
    for number in range(pairs):
        text = f"{number} " + " ".join(random.choice(WORDS, random.integers(4, 55)))
        width, height = 28 * random.integers(8, 17, 2)
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        rows.append({"query": {"text": text}, "positive": {"image": image}})
    return rows


def make_model(folder: Path) -> None:
    """A CoMa folder and an adapter that does something, for all to load."""
    create_tiny_backbone(folder / "backbone", texts=[" ".join(WORDS)] * 4, sizes=SIZES, vocab_size=2048)
    model, processor = model_from_backbone(str(folder / "backbone"), 32)
    save_model(model, processor, folder / "model")
    torch.manual_seed(0)
    adapter = lora_config(model, lora_dropout=0.0, use_dora=False, init_lora_weights=False)
    get_peft_model(model, adapter).save_pretrained(folder / "adapter")


def load_trainable(folder: Path, model: ComaForEmbedding) -> PeftModel:
    freeze_vision(model)
    return PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)


def ours(folder: Path, rows: list[dict], tokens: int):
    """`step() -> loss`: forward and backward through the trainer."""
    model, processor = (kind.from_pretrained(folder / "model") for kind in (ComaForEmbedding, ComaProcessor))
    args = ComaContrastiveConfig(
        str(folder / "out"), report_to="none", use_cpu=True, temperature=TEMPERATURE, mini_batch_tokens=tokens
    )
    trainer = ComaContrastiveTrainer(load_trainable(folder, model), args, processing_class=processor)
    batch = trainer.data_collator(rows)

    def step() -> float:
        loss = trainer.compute_loss(trainer.model.train(), batch)
        loss.backward()
        return loss.item()

    return step


def uncached(folder: Path, rows: list[dict], tokens: int):
    """The plain way: both sides in one batch each, one graph for all."""
    del tokens
    model, processor = (kind.from_pretrained(folder / "model") for kind in (ComaForEmbedding, ComaProcessor))
    model = load_trainable(folder, model).train()
    sides = [processor.process([next(iter(row[side].values())) for row in rows]) for side in ("query", "positive")]

    def step() -> float:
        loss = info_nce(*(model(**side).embeddings for side in sides), temperature=TEMPERATURE).loss
        loss.backward()
        return loss.item()

    return step


def sentence_transformers(folder: Path, rows: list[dict], tokens: int):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    model = SentenceTransformer(str(folder / "model"), device="cpu")
    model[0].model = load_trainable(folder, model[0].model)
    model.train()
    loss_of = CachedMultipleNegativesRankingLoss(
        model, scale=1 / TEMPERATURE, mini_batch_size=len(rows), mini_batch_num_tokens=tokens // 2
    )
    columns = [[next(iter(row[side].values())) for row in rows] for side in ("query", "positive")]
    features = [model.preprocess(column) for column in columns]

    def step() -> float:
        loss = loss_of([dict(one) for one in features], None)
        loss.backward()
        return loss.item()

    return step


CONTENDERS = {"ours": ours, "sentence-transformers": sentence_transformers, "uncached": uncached}


def memory_above(work: Callable[[], None]) -> float:
    """Peak of resident memory while something is done, above what there was before, in GiB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**20


def measure_step_memory(name: str, arguments: argparse.Namespace) -> float:
    return memory_above(CONTENDERS[name](arguments.folder, make_rows(arguments.pairs), arguments.tokens))


def measure_loss_memory(pairs: int) -> float:
    queries, documents = (torch.randn(pairs, 256).requires_grad_() for _ in range(2))
    info_nce(queries[:64], documents[:64]).loss.backward()

    def work() -> None:
        info_nce(queries, documents, temperature=TEMPERATURE).loss.backward()

    return memory_above(work)


def in_a_process(measure: str, arguments: argparse.Namespace) -> float:
    """Peak memory above what was there before, in GiB."""
    command = [sys.executable, "-m", "benchmarks.contrastive_step", "--measure", measure]
    for name in ("folder", "pairs", "tokens", "loss_pairs", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    printed = subprocess.run(command, capture_output=True, text=True, check=False)
    if printed.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{printed.stderr[-2000:]}")
    return float(printed.stdout.split()[-1])


def compare(arguments: argparse.Namespace) -> dict[str, float]:
    rows, seconds, losses = make_rows(arguments.pairs), {}, {}
    steps = {name: make(arguments.folder, rows, arguments.tokens) for name, make in CONTENDERS.items()}
    for repeat in range(arguments.repeats + 1):  # the first turn warms up
        for name, step in steps.items():
            started = time.perf_counter()
            losses[name] = step()
            if repeat:
                seconds.setdefault(name, []).append(time.perf_counter() - started)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    print(f"{'':<24}{'s/step':>9}{'pairs/s':>9}{'peak GB':>9}{'loss':>10}")
    for name, median in medians.items():
        memory = in_a_process(name, arguments)
        print(f"{name:<24}{median:>9.2f}{arguments.pairs / median:>9.2f}{memory:>9.2f}{losses[name]:>10.5f}")
    return {
        "pairs_per_s_ratio": round(medians["sentence-transformers"] / medians["ours"], 3),
        "time_vs_uncached": round(medians["ours"] / medians["uncached"], 3),
        "loss_difference": max(losses.values()) - min(losses.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=2048, help="budget of our mini-batch (default: 2048)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--loss-pairs", type=int, default=32768, help="pairs of the loss alone (default: 32768)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=[*CONTENDERS, "loss"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    if arguments.measure == "loss":
        print(measure_loss_memory(arguments.loss_pairs))
    elif arguments.measure:
        print(measure_step_memory(arguments.measure, arguments))
    else:
        with tempfile.TemporaryDirectory() as folder:
            arguments.folder = Path(folder)
            make_model(arguments.folder)
            result = compare(arguments)
            loss_memory = in_a_process("loss", arguments)
            print(json.dumps({**result, f"loss_memory_gb_{arguments.loss_pairs}": round(loss_memory, 3)}))


if __name__ == "__main__":
    main()
