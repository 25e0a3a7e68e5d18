"""Names to images of the unseen style: by small and several vectors, and the best of them reranked by likelihood.

The twenty images nearest to a name by the vector are put in the order of how likely the name is as the answer to "What
is this?": given the memory of the image as an index keeps it, or given the image itself in full view of the backbone
that all arms come from. A memory is read; the image has to be decoded, and goes through the tower and all layers.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.emoji_study.arms import BUDGETS
from benchmarks.emoji_study.setting import Emoji
from hub_scripts.embedding.precision import VectorForm
from modeling_coma import ComaForEmbedding, ComaProcessor, CompressionMemory
from trainers.backbone import model_from_backbone
from trainers.encoding.likelihood import answer_log_likelihoods, as_answer, likelihoods_from_memory
from trainers.encoding.maxsim import maxsim


TOP = 20
TURN = "What is this?"
BATCH = 64

Coma = tuple[ComaForEmbedding, ComaProcessor]


def examine_reranking(
    model: ComaForEmbedding, processor: ComaProcessor, emoji: Emoji, backbone: Path
) -> dict[str, Any]:
    """
    P@1 in percent of each way to keep an image, with its bytes, and of each reranking, with its seconds.

    Args:
        model ([`ComaForEmbedding`]), processor ([`ComaProcessor`]): after its training.
        emoji ([`Emoji`]): images of the unseen style are looked for by the names of emoji that were trained on.
        backbone (`Path`): the folder of that which looks at the whole image.

    Returns:
        `dict`: `kept`, by name `bytes` and `P@1`; `reranked`, by name `P@1` and `seconds` of a query; `reading
        seconds`, what decoding and cutting the images into patches is of those of the full view; `in the top`, how
        many percent of the images are among those that are reranked.
    """
    model.eval()
    memory = _compress(model, emoji.caching(processor), emoji.images)
    names = _compress(model, processor, [emoji.names[row] for row in emoji.seen.tolist()])
    kept = _kept(model, memory, names, emoji.seen)
    images, queries = model.pool(memory.compression_states), model.pool(names.compression_states)
    top = (queries @ images.T).topk(TOP).indices
    reranked = {"vector": {"P@1": _precision(top[:, 0], emoji.seen), "seconds": 0.0}}
    original = model_from_backbone(str(backbone), 1)
    original[0].eval()
    ways = {"memory": _from_memory((model, processor), memory), "full view": _from_images(original, emoji.images)}
    texts = [emoji.names[row] for row in emoji.seen.tolist()]
    for name, score in ways.items():
        best, seconds = _best(texts, top, score)
        reranked[name] = {"P@1": _precision(best, emoji.seen), "seconds": seconds}
    size = memory.num_bytes // len(memory) + kept["float16"]["bytes"]
    kept["memory"] = {"bytes": size, "P@1": reranked["memory"]["P@1"]}
    return {
        "kept": kept,
        "reranked": reranked,
        "reading seconds": _seconds_of_reading(original[1], [emoji.images[row] for row in top[0].tolist()]),
        "in the top": 100 * (top == emoji.seen[:, None]).any(dim=1).float().mean().item(),
    }


def _kept(
    model: ComaForEmbedding, memory: CompressionMemory, names: CompressionMemory, rows: torch.Tensor
) -> dict[str, dict[str, float]]:
    """What an index can keep of an image, without reranking."""
    images, queries = model.pool(memory.compression_states), model.pool(names.compression_states)
    dims = images.shape[1]
    found = {}
    for precision, size in (("float32", 4 * dims), ("float16", 2 * dims), ("int8", dims)):
        form = VectorForm(dims, precision).widened(images.numpy())
        decoded = form.decode(form.encode(images.numpy())[0])
        found[precision] = {"bytes": size, "P@1": _precision((queries @ decoded.T).argmax(1), rows)}
    alike = torch.sign(queries) @ torch.sign(images).T
    found["binary"] = {"bytes": dims / 8, "P@1": _precision(alike.argmax(1), rows)}
    for budget in BUDGETS[1:]:
        q, t = map(int, budget.split("x"))
        documents = memory.compression_states[:, :t].half()
        nearest = maxsim(names.compression_states[:, :q], documents).argmax(1)
        found[f"{t} vectors"] = {"bytes": 2 * dims * t, "P@1": _precision(nearest, rows)}
    return found


def _precision(found: torch.Tensor, rows: torch.Tensor) -> float:
    return 100 * (found == rows).float().mean().item()


@torch.no_grad()
def _compress(model: ComaForEmbedding, processor: ComaProcessor, items: Sequence[Any]) -> CompressionMemory:
    """The memory of many items, in fp16 as an index has it, and the states as they are."""
    several = [
        model.compress(**processor.process(items[start : start + BATCH])) for start in range(0, len(items), BATCH)
    ]
    layers = [
        tuple(torch.cat([memory.layers[layer][side].half() for memory in several]) for side in (0, 1))
        for layer in range(len(several[0].layers))
    ]
    positions = torch.cat([memory.next_position for memory in several])
    return CompressionMemory(layers, positions, torch.cat([memory.compression_states for memory in several]))


def _from_memory(coma: Coma, memory: CompressionMemory) -> Callable[[str, torch.Tensor], torch.Tensor]:
    model, processor = coma

    def score(text: str, rows: torch.Tensor) -> torch.Tensor:
        few = memory.select(rows)
        layers = [(keys.float(), values.float()) for keys, values in few.layers]
        few = CompressionMemory(layers, few.next_position, few.compression_states[:, :0])
        return likelihoods_from_memory(model, few, as_answer(processor, text, TURN))

    return score


def _from_images(coma: Coma, images: Sequence[Any]) -> Callable[[str, torch.Tensor], torch.Tensor]:
    model, processor = coma

    @torch.no_grad()
    def score(text: str, rows: torch.Tensor) -> torch.Tensor:
        inputs = processor.process([images[row] for row in rows.tolist()])
        dialogue = {name: row.expand(len(rows), -1) for name, row in as_answer(processor, text, TURN).items()}
        return answer_log_likelihoods(model, model(**inputs, **dialogue, dialogue_view="full"), dialogue["labels"])

    return score


def _best(
    texts: Sequence[str], top: torch.Tensor, score: Callable[[str, torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, float]:
    """The likeliest of the candidates of each text, and processor seconds of a text."""
    started = time.process_time()
    best = [rows[score(text, rows).argmax()] for text, rows in zip(texts, top, strict=True)]
    return torch.stack(best), (time.process_time() - started) / len(texts)


def _seconds_of_reading(processor: ComaProcessor, images: list[Any], times: int = 20) -> float:
    started = time.process_time()
    for _ in range(times):
        processor.process(images)
    return (time.process_time() - started) / times
