"""Tokens, rows and FLOPs a second of both stages and of embedding, with a random backbone of a real size.

The default is the shape of Qwen2.5-VL-3B in bf16: the DoRA adapter of the paper, a frozen vision tower, no gradient
checkpointing; images of 256 tokens, 32 compression tokens, dialogues of five turns, captions of 40 words. A step is
forward and backward through the trainer's own loss, from what its collator made; embedding is the forward pass.
Utilisation is the FLOPs of the model in a second, those of one forward and one backward pass without what a gradient
cache computes again, divided by what a large matrix multiplication reaches on the same device in the same run.

  python -m benchmarks.model_scale                                    # on an accelerator with 40 GB or more
  python -m benchmarks.model_scale --shape tiny --rows 2 --repeats 1  # on a CPU, to see that it runs

Each attention that is installed, sdpa and FlashAttention 2, has three lines; the last line printed is a JSON object.
"""

import argparse
import dataclasses
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import is_flash_attn_2_available, logging

from hub_scripts.tiny.backbone import TINY, create_tiny_backbone
from modeling_coma import ComaConfig, ComaForEmbedding, ComaProcessor
from trainers.adapters import add_adapter, lora_config
from trainers.backbone import model_from_backbone
from trainers.compression.config import ComaCompressionConfig
from trainers.compression.trainer import ComaCompressionTrainer
from trainers.contrastive.config import ComaContrastiveConfig
from trainers.contrastive.loss import info_nce
from trainers.contrastive.trainer import ComaContrastiveTrainer


Found = dict[str, dict[str, float]]
K, IMAGE_TOKENS, TURNS = 32, 256, 5
QUESTION = "what is to be seen in the upper left of this image, and of which colour is it ?"
ANSWER = "a small red apple lies there on a white table beside a blue cup of tea ."
CAPTION = " ".join([ANSWER] * 3)
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "3b": {
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "layer_types": ["full_attention"] * 36,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        "vision_config": {
            "hidden_size": 1280,
            "out_hidden_size": 2048,
            "intermediate_size": 3420,
            "depth": 32,
            "num_heads": 16,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "window_size": 112,
        },
    },
    "tiny": {"text_config": {}, "vision_config": {}},
}


def make_model(shape: str, attention: str, device: torch.device) -> tuple[PeftModel, ComaProcessor]:
    """A random model in bf16 with its adapter, and the processor of a small one: tokens and images are alike."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = dataclasses.replace(TINY, min_image_tokens=IMAGE_TOKENS, max_image_tokens=IMAGE_TOKENS)
        create_tiny_backbone(folder, texts=[QUESTION, ANSWER], sizes=sizes)
        small, processor = model_from_backbone(folder, K)
    config = config_of(SHAPES[shape], small.config)
    torch.manual_seed(0)
    with device:
        model = ComaForEmbedding._from_config(config, dtype=torch.bfloat16, attn_implementation=attention)
    return add_adapter(model, lora_config(model)), processor


def config_of(sizes: dict[str, dict[str, Any]], small: ComaConfig) -> ComaConfig:
    """A small configuration with the sizes of a published one; its tokens stay."""
    backbone = small.backbone_config.to_dict()
    for part, of_part in sizes.items():
        backbone[part] = {**backbone[part], **of_part}
    return ComaConfig(backbone, small.compression_token_ids, eos_token_id=small.eos_token_id)


@dataclasses.dataclass(frozen=True)
class Act:
    """
    What is timed.

    Args:
        run: one step.
        plain: the same without a gradient cache, whose FLOPs are counted, for `share` of the rows.
        rows, tokens (`int`): of the inputs of a step.
    """

    run: Callable[[], Any]
    plain: Callable[[], Any]
    share: float
    rows: int
    tokens: int


def make_acts(model: PeftModel, processor: ComaProcessor, rows: int, pairs: int, folder: str) -> dict[str, Act]:
    images = [
        Image.effect_noise((28 * 16, 28 * IMAGE_TOKENS // 16), 80).convert("RGB") for _ in range(max(rows, pairs))
    ]
    common = {"report_to": "none", "bf16": model.device.type != "cpu", "use_cpu": model.device.type == "cpu"}
    first = ComaCompressionTrainer(model, ComaCompressionConfig(folder, **common), processing_class=processor)
    second = ComaContrastiveTrainer(model, ComaContrastiveConfig(folder, **common), processing_class=processor)
    turns = [{"role": role, "content": text} for role, text in (("user", QUESTION), ("assistant", ANSWER))] * TURNS
    dialogues = first.data_collator([{"images": [image], "text": None, "messages": turns} for image in images[:rows]])
    captions = [f"{number} {CAPTION}" for number in range(pairs)]
    matched = second.data_collator(
        [
            {"query": {"image": image}, "positive": {"text": caption}}
            for image, caption in zip(images[:pairs], captions, strict=True)
        ]
    )
    few = min(pairs, 4)
    sides = [processor.process(side[:few]).to(model.device) for side in (images, captions)]
    embedded = processor.process(images[:rows]).to(model.device)
    tokens_of_rows = sum(int(dialogues[name].sum()) for name in ("attention_mask", "dialogue_attention_mask"))

    def train(trainer: Any, batch: dict[str, Any]) -> None:
        trainer.compute_loss(trainer.model.train(), trainer._prepare_inputs(dict(batch))).backward()

    def match_without_cache() -> None:
        info_nce(*(model.train()(**side).embeddings for side in sides)).loss.backward()

    @torch.no_grad()
    def embed() -> None:
        model.eval()(**embedded)

    return {
        "stage 1": Act(lambda: train(first, dialogues), lambda: train(first, dialogues), 1.0, rows, tokens_of_rows),
        "stage 2": Act(
            lambda: train(second, matched), match_without_cache, few / pairs, pairs, len(matched["inputs"].input_ids)
        ),
        "embedding": Act(embed, embed, 1.0, rows, int(embedded["attention_mask"].sum())),
    }


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds_of(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The median, after a first turn that warms up."""
    taken = []
    for _ in range(repeats + 1):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def flops_of(act: Act) -> float:
    """Of a step, counted operation by operation; attention as matrix multiplications, which every device counts."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        act.plain()
    return counter.get_total_flops() / act.share


def flops_per_second(device: torch.device, repeats: int) -> float:
    """What a large matrix multiplication in bf16 reaches."""
    size = 1024 if device.type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: left @ right, device, 3 * repeats)


def measure(act: Act, device: torch.device, repeats: int) -> dict[str, float]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = seconds_of(act.run, device, repeats)
    found = {"tokens/s": act.tokens / seconds, "rows/s": act.rows / seconds, "seconds": seconds}
    if device.type == "cuda":
        found["peak GiB"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found


def examine(attention: str, arguments: argparse.Namespace, device: torch.device, flops: dict[str, float]) -> Found:
    """Every act with one attention; counts their FLOPs, the same for all attentions, if `flops` has none yet."""
    gc.collect()  # a trainer and its callbacks know each other: the model before would be there still, and counted
    with tempfile.TemporaryDirectory() as folder:
        model, processor = make_model(arguments.shape, attention, device)
        acts = make_acts(model, processor, arguments.rows, arguments.pairs, folder)
        flops.update({name: flops_of(act) for name, act in acts.items() if name not in flops})
        return {name: measure(act, device, arguments.repeats) for name, act in acts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="3b")
    parser.add_argument("--rows", type=int, default=8, help="of stage 1 and of embedding (default: 8)")
    parser.add_argument("--pairs", type=int, default=64, help="of stage 2 (default: 64)")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    fastest, flops, found = flops_per_second(device, arguments.repeats), {}, {}
    print(f"{device.type}: a large matrix multiplication in bf16 reaches {fastest / 1e12:.2f} TFLOP/s")
    print(f"{'attention':<20}{'act':<12}{'tokens/s':>10}{'rows/s':>9}{'peak GiB':>10}{'utilisation':>13}")
    for attention in ["sdpa", *(["flash_attention_2"] if is_flash_attn_2_available() else [])]:
        found[attention] = examine(attention, arguments, device, flops)
        for name, one in found[attention].items():
            one["utilisation"] = flops[name] / one.pop("seconds") / fastest
            print(
                f"{attention:<20}{name:<12}{one['tokens/s']:>10,.0f}{one['rows/s']:>9.2f}"
                f"{one.get('peak GiB', float('nan')):>10.2f}{one['utilisation']:>13.3f}"
            )
            found[attention][name] = {key: float(f"{value:.4g}") for key, value in one.items()}
    print(json.dumps({"shape": arguments.shape, "device": device.type, **found}))


if __name__ == "__main__":
    main()
