"""FSDP2 on the CPU, wrapped as accelerate wraps: layers, then norm and vocabulary, then the rest.

A step and an evaluation of the model in each folder, with and without an adapter; beside them those of the whole
model, in the same process. accelerate itself takes no FSDP on CPUs.
"""

import copy

import torch
import torch.distributed as dist
from accelerate import Accelerator
from peft import PeftModel, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from modeling_coma import ComaForEmbedding, ComaProcessor
from tests.checkpointing import set_checkpointing
from trainers.adapters import lora_config
from trainers.compression.collator import ComaCompressionCollator
from trainers.compression.evaluation import evaluate_compression
from trainers.data.emoji import emoji_dialogues, load_emoji
from trainers.vision_side import freeze_vision


def load(folder: str, adapter: bool) -> ComaForEmbedding | PeftModel:
    model = ComaForEmbedding.from_pretrained(folder)
    freeze_vision(model)
    set_checkpointing(model)
    torch.manual_seed(0)
    return get_peft_model(model, lora_config(model, lora_dropout=0.0)) if adapter else model


def shard(model: ComaForEmbedding | PeftModel) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("dp",))
    coma = model.get_base_model() if isinstance(model, PeftModel) else model
    language_model = coma.backbone.model.language_model
    for layer in (*language_model.layers, *coma.backbone.model.visual.blocks):
        fully_shard(layer, mesh=mesh)
    embed, head = coma.get_input_embeddings(), coma.get_output_embeddings()
    tied = embed.weight is head.weight
    if not tied:
        fully_shard(embed, mesh=mesh)
    tail = [language_model.norm, *([embed] if tied else []), head]
    fully_shard(tail, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh)


def compare(folder: str, adapter: bool) -> dict[str, float]:
    rows = emoji_dialogues(load_emoji(["noto"]).select(range(4)), turns=2).to_list()
    collator, rank = ComaCompressionCollator(ComaProcessor.from_pretrained(folder)), dist.get_rank()
    whole, mine = collator(rows), collator(rows[2 * rank : 2 * rank + 2])
    items = (whole["labels"] != -100).sum()
    model, accelerator = load(folder, adapter).train(), Accelerator(cpu=True)
    oracle = copy.deepcopy(model)
    expected = oracle(**whole, num_items_in_batch=items).loss
    expected.backward()
    gradients = {name: p.grad for name, p in oracle.named_parameters() if p.grad is not None}
    shard(model)
    loss = model(**mine, num_items_in_batch=items).loss * dist.get_world_size()  # gradients are averaged
    loss.backward()
    found = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None}
    loss = accelerator.reduce(loss.detach(), "mean")
    metrics = [evaluate_compression(m.eval(), [dict(mine)], accelerator, "")[0] for m in (model, oracle)]
    return {
        "loss": abs(loss - expected).item(),
        "gradients": max((found[name] - gradient).abs().max().item() for name, gradient in gradients.items()),
        "largest gradient": max(gradient.abs().max().item() for gradient in gradients.values()),
        "evaluation": max(abs(metrics[0][name] - metrics[1][name]) for name in metrics[0]),
    }


def compare_all(rank: int, processes: int, tied: str, untied: str) -> dict[str, dict[str, float]]:
    """An adapter that trains tokens of a tied vocabulary cannot be wrapped this way, by accelerate neither."""
    Accelerator(cpu=True)
    cases = {"full tied": (tied, False), "full": (untied, False), "adapter": (untied, True)}
    return {name: compare(*case) for name, case in cases.items()}
