"""Asks what `coma embed --memory` made: the row nearest to a question answers it, from its memory alone.

The row nearest by the vector answers; with --rerank, of the nearest rows the one given whose memory the question is
likeliest, as what is said after --turn. No image is opened, and none needs to be there any more. The model must be the
one that made the index.

  coma embed my-coma photos/ photos.parquet --memory
  coma ask photos.parquet "what colour is the bicycle?"
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hub_scripts.common.arguments import Dtype, add_model_options, command_parser, positive
from hub_scripts.common.terminal import one_line


if TYPE_CHECKING:
    import numpy as np

    from hub_scripts.embedding.nearest import Hit
    from hub_scripts.embedding.opened import OpenStore
    from modeling_coma import ComaForEmbedding, ComaProcessor, CompressionMemory


__all__ = ["Answered", "answer_from_memory", "ask_index", "main"]

LONGEST_ANSWER = 48  # tokens
CANDIDATES = 20
TURN = "What is this?"


class Answered(NamedTuple):
    """
    An answer and where it comes from.

    Args:
        text (`str`): what is answered.
        hit ([`~hub_scripts.embedding.nearest.Hit`]): the row that answers.
        candidates (`list[Hit]`): the rows among which it is the best, in their order.
    """

    text: str
    hit: "Hit"
    candidates: "list[Hit]"


def main(argv: list[str]) -> int:
    """Runs `coma ask`; returns the exit code."""
    parser = command_parser("ask", __doc__)
    add = parser.add_argument
    add("index", metavar="INDEX", type=Path, help="made by `coma embed --memory`")
    add("question", metavar="QUESTION", help="a text")
    add("--model", metavar="NAME", help="the CoMa model that made the index (default: what it was called by then)")
    add("--rerank", action="store_true", help="the likeliest of the nearest rows answers")
    add("-k", type=positive, default=CANDIDATES, help="rows that are reranked (default: %(default)s)")
    add("--turn", default=TURN, metavar="TEXT", help="what the question then is the answer to (default: %(default)s)")
    longest = "most tokens of the answer (default: %(default)s)"
    add("--max-new-tokens", type=positive, default=LONGEST_ANSWER, metavar="N", help=longest)
    add_model_options(parser)
    answered = ask_index(**vars(parser.parse_args(argv)))
    print(f"{one_line(answered.hit.row['id'] or '')}  {answered.hit.measure} {answered.hit.score:.3f}")
    print(one_line(answered.text))
    return 0


def ask_index(  # noqa: PLR0913 - what can be set
    index: str | Path,
    question: str,
    *,
    model: "str | Path | tuple[ComaForEmbedding, ComaProcessor] | None" = None,
    k: int = CANDIDATES,
    rerank: bool = False,
    turn: str = TURN,
    max_new_tokens: int = LONGEST_ANSWER,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_image_pixels: int | None = None,
) -> Answered:
    r"""
    Answers a question from the memory of one row of what [`~hub_scripts.embed.embed_table`] made with `memory=True`,
    as `coma ask` does. Images are not opened.

    Args:
        index (`str` or `Path`): the file, or the folder of files.
        question (`str`): the question.
        model (`str`, `Path` or `tuple[ComaForEmbedding, ComaProcessor]`, *optional*): that of the index; by default
            what it was called by then; loaded already, if there are several questions.
        k (`int`, *optional*, defaults to 20): how many of the rows nearest by the vector are candidates.
        rerank (`bool`, *optional*, defaults to `False`): whether the candidates are put in the order of the likelihood
            of the question given each memory; by default they stay in that of the vector.
        turn (`str`, *optional*, defaults to `"What is this?"`): what a user says before it, in that likelihood.
        max_new_tokens (`int`, *optional*, defaults to 48): the longest answer.
        dtype, device (`str`, *optional*, defaults to `"auto"`): precision, and where to compute.
        max_image_pixels (`int`, *optional*): of the processor of the model.

    Returns:
        [`Answered`]: the answer is what the model generates, greedily, from the memory.

    Raises:
        ValueError: for an index that keeps no memory, is damaged or was made by another model, for a question that is
            blank or cannot be embedded, and where a likelihood or an answer comes to NaN.

    Example:

        >>> answered = ask_index("photos.parquet", "what colour is the bicycle?", model="my-coma")
        >>> print(answered.hit.row["id"], answered.text)
    """
    from hub_scripts.embedding.nearest import nearest_numbers, rows_of_hits
    from hub_scripts.embedding.opened import open_any
    from hub_scripts.search import embed_query, model_of_index

    if k < 1 or max_new_tokens < 1:
        raise ValueError(f"k={k} and max_new_tokens={max_new_tokens} must be 1 or more.")
    if not question.strip():
        raise ValueError("The question is blank: say what you want to know.")
    opened = open_any(Path(index))
    if opened.metadata.get("memory") is None:
        way_out = "ask the file or folder of `coma embed --memory`"
        raise ValueError(f"{opened.path} keeps no memory of its rows: {way_out}.")
    coma = model_of_index(opened.path, opened.metadata, model, dtype, device, max_image_pixels)
    # A model of the other kind may embed as this one does: its first embeddings are those of the same backbone.
    if (kind := opened.metadata["memory"]["kind"]) != (of_model := coma[0].config.memory):
        raise ValueError(
            f"{opened.path} keeps memories of the kind {kind!r}, and this model answers from {of_model!r}: ask the "
            "model that made it."
        )
    scores, numbers = nearest_numbers(opened.path, embed_query(coma, question, None), k)
    measure = "cosine"
    if rerank:
        scores, numbers = _reranked(coma, opened, numbers, question, turn)
        measure = "likelihood"
    hits = rows_of_hits(opened.path, scores, numbers, measure)
    text = answer_from_memory(coma, _memory(coma, opened, numbers[:1]), question, max_new_tokens)
    return Answered(text, hits[0], hits)


def answer_from_memory(
    coma: "tuple[ComaForEmbedding, ComaProcessor]",
    memory: "CompressionMemory",
    question: str,
    max_new_tokens: int = LONGEST_ANSWER,
) -> str:
    """
    Answers a question from a memory, greedily.

    Args:
        coma (`tuple[ComaForEmbedding, ComaProcessor]`): the model.
        memory ([`CompressionMemory`]): of one row, on the device of the model.
        question (`str`): the question.
        max_new_tokens (`int`, *optional*, defaults to 48): the longest answer.

    Raises:
        ValueError: for a question with a special token of the tokenizer, and for logits that are NaN.
    """
    import torch

    model, processor = coma
    dialogue = [[{"role": "user", "content": question.strip()}]]
    try:
        rows = processor.process_dialogues(dialogue, add_generation_prompt=True)
    except ValueError as error:
        raise ValueError(f"The question cannot be asked: {str(error).removeprefix('Row 0: ')}") from error
    ids = torch.tensor(rows["input_ids"], device=model.device)
    options = {"max_new_tokens": max_new_tokens, "do_sample": False}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    answer = model.generate_from_memory(memory, ids, torch.ones_like(ids), **options)
    if any(logits.isnan().any() for logits in answer.logits):  # the largest of which is any token
        raise ValueError("The answer has logits that are NaN; try --dtype float32.")
    (text,) = processor.tokenizer.batch_decode(answer.sequences, skip_special_tokens=True)
    return text.strip()


def _memory(
    coma: "tuple[ComaForEmbedding, ComaProcessor]", opened: "OpenStore", numbers: "np.ndarray"
) -> "CompressionMemory":
    """The memories of some rows, where the model is."""
    from hub_scripts.embedding.store import memory_at
    from hub_scripts.embedding.stored_memory import StoredMemory

    form = StoredMemory.of(opened.metadata).form
    return form.unpack(memory_at(opened.path, numbers), coma[0].device, coma[0].dtype)


def _reranked(
    coma: "tuple[ComaForEmbedding, ComaProcessor]",
    opened: "OpenStore",
    numbers: "np.ndarray",
    question: str,
    turn: str,
) -> "tuple[Sequence[float], np.ndarray]":
    """Candidates in the order of the likelihood of the question given each, and these."""
    from trainers.encoding.likelihood import as_answer, likelihoods_from_memory

    found = likelihoods_from_memory(coma[0], _memory(coma, opened, numbers), as_answer(coma[1], question, turn))
    if len(bad := (~found.isfinite()).nonzero()):  # NaN would be the largest
        row = f"row {numbers[int(bad[0])]} of {opened.path}"
        raise ValueError(f"The likelihood of the question given {row} is not finite; try --dtype float32.")
    order = found.argsort(descending=True, stable=True)
    return found[order].tolist(), numbers[order.cpu().numpy()]
