"""One step of stage 1, side by side: two passes over exact memory, and the dense mask with logits at all positions.

Four rows of 256 or 1024 image tokens, 32 compression tokens and a dialogue of 150 tokens of which 90 are answers;
random Qwen2.5-VL of 6 layers, hidden size 256, vocabulary 32,768; the language model is trained, the vision tower
frozen. The tower, which both need alike, takes three tenths of our step at 1024 tokens, by arithmetic as much as that
of Qwen2.5-VL-3B does beside LoRA on its language model.
A step is forward and backward, from tensors. The two take turns, figures are medians; memory is what a step adds to a
process of its own. Then come the tower alone, and the matrix multiplications and attentions of our step alone: the
same operations on the same shapes, with nothing in between.

  python -m benchmarks.compression_step
  python -m benchmarks.compression_step --image-tokens 16 64 --repeats 1      # quick, to see that it runs

The last line is a JSON object. `time_ratio` is dense to ours and `memory_ratio` ours to dense, by image tokens;
`bare_matmul_ratio` is the time of our step to that of its matrix work, at the largest size.
"""

import argparse
import dataclasses
import gc
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from transformers.utils import logging

from hub_scripts.tiny.backbone import DEMO, create_tiny_backbone
from modeling_coma import ComaForEmbedding
from trainers.backbone import model_from_backbone
from trainers.vision_side import freeze_vision


K, ROWS, QUESTION, ANSWER, TURNS, VOCABULARY = 32, 4, 12, 18, 5, 32768
TOWER = {"vision_hidden_size": 96, "vision_intermediate_size": 256, "vision_depth": 3, "vision_num_heads": 3}
MATRIX_WORK = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_", "convolution", "linear")


def make_model() -> ComaForEmbedding:
    sizes = dataclasses.replace(DEMO, hidden_size=256, num_hidden_layers=6, **TOWER)
    with tempfile.TemporaryDirectory() as folder:
        create_tiny_backbone(folder, texts=["a red apple"], sizes=sizes)
        model, _ = model_from_backbone(folder, K)
    torch.manual_seed(0)
    model.backbone.resize_token_embeddings(VOCABULARY, mean_resizing=False)
    freeze_vision(model)
    return model.train()


def make_batch(model: ComaForEmbedding, image_tokens: int) -> dict[str, torch.Tensor]:
    config, random = model.config.backbone_config, torch.Generator().manual_seed(1)
    height = 2 ** (int(math.log2(image_tokens)) // 2)
    if height * (image_tokens // height) != image_tokens:
        raise ValueError(f"{image_tokens} image tokens make no rectangle: give a power of 2.")
    tokens = [config.vision_start_token_id, *[config.image_token_id] * image_tokens, config.vision_end_token_id]
    grid = torch.tensor([[1, 2 * height, 2 * image_tokens // height]] * ROWS)
    dialogue = torch.randint(0, 200, (ROWS, (QUESTION + ANSWER) * TURNS), generator=random)
    is_answer = (torch.arange(dialogue.shape[1]) % (QUESTION + ANSWER)) >= QUESTION
    return {
        "input_ids": torch.tensor([tokens + model.config.compression_token_ids] * ROWS),
        "pixel_values": torch.randn(ROWS * image_tokens * 4, 3 * 2 * 14 * 14, generator=random),
        "image_grid_thw": grid,
        "dialogue_input_ids": dialogue,
        "labels": torch.where(is_answer, dialogue, -100),
    }


def ours(model: ComaForEmbedding, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch).loss


def dense(model: ComaForEmbedding, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """One sequence, the causal mask without a rectangle, the loss of a causal language model."""
    inputs, dialogue = batch["input_ids"], batch["dialogue_input_ids"]
    input_ids, length = torch.cat([inputs, dialogue], dim=1), inputs.shape[1]
    is_image = (input_ids == model.config.backbone_config.image_token_id).int()
    position_ids, _ = model.backbone.model.get_rope_index(input_ids, is_image, image_grid_thw=batch["image_grid_thw"])
    visible = torch.ones(input_ids.shape[1], input_ids.shape[1], dtype=torch.bool).tril()
    visible[length:, : length - K] = False
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    hidden = model.backbone.model(
        input_ids=input_ids,
        attention_mask=mask.expand(ROWS, 1, -1, -1),
        position_ids=position_ids,
        mm_encoder_outputs=model.encode_images(batch["pixel_values"], image_grid_thw=batch["image_grid_thw"]),
        use_cache=False,
    ).last_hidden_state
    logits = model.get_output_embeddings()(hidden).float()
    labels = torch.cat([torch.full_like(inputs, -100), batch["labels"]], dim=1)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


PATHS = {"ours": ours, "dense": dense}


def step(path: str, model: ComaForEmbedding, batch: dict[str, torch.Tensor]) -> float:
    loss = PATHS[path](model, batch)
    loss.backward()
    model.zero_grad()
    return loss.item()


def seconds_of_tower(model: ComaForEmbedding, batch: dict[str, torch.Tensor]) -> float:
    started = time.perf_counter()
    model.encode_images(batch["pixel_values"], image_grid_thw=batch["image_grid_thw"])
    return time.perf_counter() - started


class MatrixWork(TorchDispatchMode):
    """Notes the matrix operations of what runs under it, with the layouts of their operands."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__.startswith(MATRIX_WORK):
            self.operations.append((function, tree_map(layout, (args, kwargs or {}))))
        return function(*args, **(kwargs or {}))

    def seconds(self) -> float:
        """Time of the operations alone, on other numbers."""
        total = 0.0
        for function, operands in self.operations:
            args, kwargs = tree_map(made_up, operands)
            started = time.perf_counter()
            function(*args, **kwargs)
            total += time.perf_counter() - started
        return total


class Layout(tuple):
    """Shape, strides and type of a tensor."""


def layout(value):
    return Layout((value.shape, value.stride(), value.dtype)) if isinstance(value, torch.Tensor) else value


def made_up(value):
    if not isinstance(value, Layout):
        return value
    shape, strides, dtype = value
    return torch.empty_strided(shape, strides, dtype=dtype).copy_(torch.randn(shape))


def added_memory(path: str, image_tokens: int) -> tuple[float, float]:
    """GiB that a step adds, at its peak, to what the process had; and that peak."""
    model = make_model()
    step(path, model, make_batch(model, 4))  # what is made once
    batch = make_batch(model, image_tokens)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    step(path, model, batch)
    return resident("VmHWM") - before, resident("VmHWM")


def resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**20


def in_a_process(path: str, image_tokens: int, threads: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.compression_step", "--memory-of", path]
    command += ["--image-tokens", str(image_tokens), "--threads", str(threads)]
    printed = subprocess.run(command, capture_output=True, text=True, check=False)
    if printed.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{printed.stderr[-2000:]}")
    return tuple(json.loads(printed.stdout.splitlines()[-1]))


def compare(model: ComaForEmbedding, image_tokens: int, repeats: int, threads: int) -> dict[str, float]:
    batch, seconds, losses, bare = make_batch(model, image_tokens), {path: [] for path in PATHS}, {}, []
    with MatrixWork() as work:
        step("ours", model, batch)
    for repeat in range(repeats + 1):  # the first turn warms up
        for path in PATHS:
            started = time.perf_counter()
            losses[path] = step(path, model, batch)
            seconds[path] += [time.perf_counter() - started] if repeat else []
        bare += [work.seconds()] if repeat else []
    seconds["vision tower"] = [seconds_of_tower(model, batch) for _ in range(repeats)]
    medians = {path: statistics.median(taken) for path, taken in seconds.items()}
    memory = {path: in_a_process(path, image_tokens, threads) for path in PATHS}
    for path, (added, peak) in memory.items():
        print(f"{image_tokens:>6} {path:<12}{medians[path]:>9.3f}{added:>9.3f}{peak:>9.3f}{losses[path]:>11.6f}")
    print(f"{image_tokens:>6} {'tower':<12}{medians['vision tower']:>9.3f}")
    print(f"{image_tokens:>6} {'matrix work':<12}{statistics.median(bare):>9.3f}")
    return {
        "time_ratio": medians["dense"] / medians["ours"],
        "memory_ratio": memory["ours"][0] / memory["dense"][0],
        "loss_difference": abs(losses["ours"] - losses["dense"]),
        "bare_matmul_ratio": medians["ours"] / statistics.median(bare),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-tokens", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-of", choices=PATHS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.memory_of:
        print(json.dumps(added_memory(arguments.memory_of, arguments.image_tokens[0])))
        return
    model = make_model()
    print(f"{'tokens':>6} {'path':<12}{'s/step':>9}{'+GiB':>9}{'peak GiB':>9}{'loss':>11}")
    found = {size: compare(model, size, arguments.repeats, arguments.threads) for size in arguments.image_tokens}
    ratios = {
        name: {size: round(one[name], 3) for size, one in found.items()} for name in ("time_ratio", "memory_ratio")
    }
    worst = max(one["loss_difference"] for one in found.values())
    print(
        json.dumps(
            {**ratios, "loss_difference": worst, "bare_matmul_ratio": round(found[max(found)]["bare_matmul_ratio"], 3)}
        )
    )


if __name__ == "__main__":
    main()
