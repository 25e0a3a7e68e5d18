"""Texts to images: by small and several vectors, and the best of them reranked by likelihood; for the studies.

The twenty images nearest to a text by the vector are put in the order of how likely the text is as the answer to a
turn: given the memory of the image as an index keeps it, or given the image itself in full view of the backbone that
all arms come from. A memory is read; the image has to be decoded, and goes through the tower and all layers.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from hub_scripts.embedding.precision import VectorForm
from modeling_coma import ComaForEmbedding, ComaProcessor, CompressionMemory
from trainers.encoding.likelihood import answer_log_likelihoods, as_answer, likelihoods_from_memory
from trainers.encoding.maxsim import maxsim


TOP = 20
BATCH = 64
BUDGETS = ("1x1", "2x2", "4x4", "8x8")  # vectors of a text and of an image

Coma = tuple[ComaForEmbedding, ComaProcessor]
Score = Callable[[str, torch.Tensor], torch.Tensor]  # the likelihoods of a text, given some rows of the images


class Search(NamedTuple):
    """
    What is looked for among images.

    Args:
        images (`list`): of the index.
        texts (`list[str]`): the queries.
        rows (`torch.LongTensor`): the image of each text.
        turn (`str`): what a text is the answer to.
    """

    images: list[Any]
    texts: list[str]
    rows: torch.Tensor
    turn: str


def examine_reranking(coma: Coma, original: Coma, search: Search) -> dict[str, Any]:
    """
    P@1 in percent of each way to keep an image, with its bytes, and of each reranking, with its seconds.

    Args:
        coma ([`ComaForEmbedding`], [`ComaProcessor`]): the model after its training.
        original ([`ComaForEmbedding`], [`ComaProcessor`]): the backbone, which looks at the whole image.
        search ([`Search`]): what is looked for.

    Returns:
        `dict`: `kept`, by name `bytes` and `P@1`; `reranked`, by name `P@1` and `seconds` of a query; `reading
        seconds`, what decoding and cutting the images into patches is of those of the full view; `in the top`, how
        many percent of the images are among those that are reranked.
    """
    model, processor = coma
    model.eval()
    memory, texts = compress(model, processor, search.images), compress(model, processor, search.texts)
    kept = _kept(model, memory, texts, search.rows)
    images, queries = model.pool(memory.compression_states), model.pool(texts.compression_states)
    top = (queries @ images.T).topk(TOP).indices
    reranked = {"vector": {"P@1": _precision(top[:, 0], search.rows), "seconds": 0.0}}
    original[0].eval()
    ways = {
        "memory": from_memory(coma, memory, search.turn),
        "full view": from_images(original, search.images, search.turn),
    }
    for name, score in ways.items():
        best, seconds = best_of(search.texts, top, score)
        reranked[name] = {"P@1": _precision(best, search.rows), "seconds": seconds}
    size = memory.num_bytes // len(memory) + kept["float16"]["bytes"]
    kept["memory"] = {"bytes": size, "P@1": reranked["memory"]["P@1"]}
    return {
        "kept": kept,
        "reranked": reranked,
        "reading seconds": _seconds_of_reading(original[1], [search.images[row] for row in top[0].tolist()]),
        "in the top": 100 * (top == search.rows[:, None]).any(dim=1).float().mean().item(),
    }


def _kept(
    model: ComaForEmbedding, memory: CompressionMemory, texts: CompressionMemory, rows: torch.Tensor
) -> dict[str, dict[str, float]]:
    """What an index can keep of an image, without reranking."""
    images, queries = model.pool(memory.compression_states), model.pool(texts.compression_states)
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
        nearest = maxsim(texts.compression_states[:, :q], documents).argmax(1)
        found[f"{t} vectors"] = {"bytes": 2 * dims * t, "P@1": _precision(nearest, rows)}
    return found


def _precision(found: torch.Tensor, rows: torch.Tensor) -> float:
    return 100 * (found == rows).float().mean().item()


@torch.no_grad()
def compress(model: ComaForEmbedding, processor: ComaProcessor, items: Sequence[Any]) -> CompressionMemory:
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


def from_memory(coma: Coma, memory: CompressionMemory, turn: str) -> Score:
    """Likelihoods from what an index keeps."""
    model, processor = coma

    def score(text: str, rows: torch.Tensor) -> torch.Tensor:
        few = memory.select(rows)
        layers = [(keys.float(), values.float()) for keys, values in few.layers]
        few = CompressionMemory(layers, few.next_position, few.compression_states[:, :0])
        return likelihoods_from_memory(model, few, as_answer(processor, text, turn))

    return score


def from_images(coma: Coma, images: Sequence[Any], turn: str) -> Score:
    """Likelihoods from the whole of each image."""
    model, processor = coma

    @torch.no_grad()
    def score(text: str, rows: torch.Tensor) -> torch.Tensor:
        inputs = processor.process([images[row] for row in rows.tolist()])
        dialogue = {name: row.expand(len(rows), -1) for name, row in as_answer(processor, text, turn).items()}
        return answer_log_likelihoods(model, model(**inputs, **dialogue, dialogue_view="full"), dialogue["labels"])

    return score


def best_of(texts: Sequence[str], top: torch.Tensor, score: Score) -> tuple[torch.Tensor, float]:
    """The likeliest of the candidates of each text, and processor seconds of a text."""
    started = time.process_time()
    best = [rows[score(text, rows).argmax()] for text, rows in zip(texts, top, strict=True)]
    return torch.stack(best), (time.process_time() - started) / len(texts)


def _seconds_of_reading(processor: ComaProcessor, images: list[Any], times: int = 20) -> float:
    started = time.process_time()
    for _ in range(times):
        processor.process(images)
    return (time.process_time() - started) / times
