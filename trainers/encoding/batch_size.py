"""How many tokens a batch should have, tried on rows that are to be embedded anyway."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers.utils import logging

from modeling_coma import ComaForEmbedding, ComaProcessor
from modeling_coma.backbone_coma import vision_parameters
from trainers.encoding.tokenize import TokenizedRow
from trainers.samplers import pack


__all__ = ["BatchSize"]

logger = logging.get_logger(__name__)

SIZES = (1024, 4096, 16384)
LEAST_TOKENS = 3072  # of a trial: one small batch says little
GAIN = 1.05  # a size must be so much faster than a smaller one, which pads less and needs less memory


class BatchSize:
    """
    Tokens of a batch, given or found.

    Args:
        model ([`ComaForEmbedding`]), processor ([`ComaProcessor`]): what embeds.
        tokens (`int`, *optional*): the size, if it is given.

    Raises:
        ValueError: if it is below 1.
    """

    def __init__(self, model: ComaForEmbedding, processor: ComaProcessor, tokens: int | None = None) -> None:
        if tokens is not None and tokens < 1:
            raise ValueError(f"batch_tokens={tokens} must be 1 or more.")
        self.tokens, self.described = tokens, ""
        self._of_image = _work_of_an_image_token(model, processor)

    def find(
        self, rows: list[TokenizedRow], load: Callable[[list[TokenizedRow]], Any], embed: Callable[[Any], Any]
    ) -> Iterator[Any]:
        """
        Embeds some rows in batches of several sizes, and keeps the fastest; a larger one is tried as long as that
        pays. The longest rows are taken: what does not fit into the memory of an accelerator is not chosen. Too few
        rows decide nothing.

        Args:
            rows (`list[TokenizedRow]`): the longest first. Those that are embedded are taken out.
            load, embed (`Callable`): make a batch of some of them, and embed it; the latter is timed.

        Yields: what `embed` gives.
        """
        speeds: dict[int, float] = {}
        best, is_full = SIZES[0], False
        for size in (None, *SIZES):  # at first one small batch, untimed: what is made once is made then
            batches = _first_batches(rows, size or SIZES[0], LEAST_TOKENS if size else 1)
            if not batches:
                break
            loaded = [load(batch) for batch in batches]
            results = []
            started = time.perf_counter()
            try:
                for batch in loaded:
                    results.append(embed(batch))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                is_full = True
            seconds = time.perf_counter() - started
            taken = [row for batch in batches[: len(results)] for row in batch]  # whatever fitted is done
            del rows[: len(taken)]
            yield from results
            if is_full:
                break
            if size is not None:
                speeds[size] = sum(row.length + self._of_image * row.image_tokens for row in taken) / seconds
                if size != best and speeds[size] < GAIN * speeds[best]:
                    break
                best = size
        if len(speeds) > 1 or is_full:
            self.tokens, self.described = best, f"{best} tokens a batch"
            told = ", ".join(f"{size}: {speed / speeds[best]:.2f}" for size, speed in speeds.items())
            logger.info(f"{self.described} (--batch-tokens); relative speeds of sizes: {told or 'none fits'}.")


def _first_batches(rows: list[TokenizedRow], size: int, least_tokens: int) -> list[list[TokenizedRow]]:
    """Batches of the first rows with so many tokens at least; none if not as many rows are left then."""
    batches, tokens = [], 0
    lengths = [row.length for row in rows]
    for batch in pack(lengths, size):
        if tokens >= least_tokens:
            return batches
        batches.append([rows[number] for number in batch])
        tokens += sum(lengths[number] for number in batch)
    return []


def _work_of_an_image_token(model: ComaForEmbedding, processor: ComaProcessor) -> float:
    """What the vision tower adds for a token of an image, in parts of the work of the language model for a token."""
    decoder = model.backbone.get_decoder()
    of_text = sum(weight.numel() for name, weight in decoder.named_parameters() if "embed" not in name)
    of_image = sum(weight.numel() for weight in vision_parameters(model.backbone))
    patches = getattr(processor.image_processor, "merge_size", 1) ** 2  # which become one token
    return patches * of_image / max(1, of_text)
