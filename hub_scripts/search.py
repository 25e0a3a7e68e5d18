"""Finds in the file of `coma embed` what is nearest to a text, to an image, or to both together.

The search is exact: the query is compared with every row, a piece of the file at a time. The model must be the one
that made the file.

  coma search my-coma photos.parquet "a red bicycle"
  coma search my-coma photos.parquet --image sketch.png -k 3
  coma search my-coma photos.parquet "the same, but in blue" --image bicycle.jpg
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.arguments import add_model_options, command_parser, positive
from hub_scripts.common.terminal import one_line
from hub_scripts.hub.golden import ANY_PRECISION, distances


if TYPE_CHECKING:
    import torch

    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["main"]

WIDEST_TEXT = 60  # characters of a text in the table


def main(argv: list[str]) -> int:
    """Runs `coma search`; returns the exit code."""
    parser = command_parser("search", __doc__)
    parser.add_argument("model", metavar="MODEL", help="the CoMa model that made the index")
    parser.add_argument("index", metavar="INDEX", type=Path, help="Parquet file made by `coma embed`")
    parser.add_argument("query", metavar="QUERY", nargs="?", help="a text")
    parser.add_argument("--image", type=Path, metavar="PATH", help="an image, alone or before the text")
    parser.add_argument("-k", type=positive, default=10, help="how many rows (default: %(default)s)")
    add_model_options(parser)
    arguments = parser.parse_intermixed_args(argv)
    if arguments.query is None and arguments.image is None:
        parser.error("give a QUERY, an --image, or both")

    from hub_scripts.common.loading import load_model
    from hub_scripts.embedding.index import index_metadata, nearest
    from hub_scripts.hub.golden import probe

    metadata = index_metadata(arguments.index)
    model, processor = load_model(arguments.model, arguments.dtype, arguments.device)
    _check_same_model(metadata, arguments, probe(model, processor))
    hits = nearest(arguments.index, _embed_query(arguments, model, processor), arguments.k)
    print("rank  cosine  id")
    for rank, hit in enumerate(hits, 1):
        print(f"{rank:>4}  {hit.score:>6.3f}  {_describe(hit.row)}")
    return 0


def _embed_query(arguments: Any, model: "ComaForEmbedding", processor: "ComaProcessor") -> "torch.Tensor":
    import torch

    image = None if arguments.image is None else str(arguments.image)
    try:
        inputs = processor.process([{"image": image, "text": arguments.query}]).to(model.device)
    except ValueError as error:  # the one row that there is
        raise ValueError(f"The query cannot be embedded: {re.sub(r'^Row 0:? ', '', str(error))}") from error
    with torch.no_grad():
        return model(**inputs).embeddings[0].float().cpu()


def _check_same_model(metadata: dict[str, Any], arguments: Any, numbers: list[float]) -> None:
    (distance,) = distances(numbers, metadata["probe"])
    if distance > ANY_PRECISION:
        made = f"{metadata['model']}, K {metadata['num_compression_tokens']}, {metadata['dim']} dimensions"
        raise ValueError(
            f"{arguments.index} was made by another model ({made}): its embedding of an image is other by "
            f"{distance:.2f} of its length. Search with that model, or embed the corpus again."
        )


def _describe(row: dict[str, Any]) -> str:
    """The row in one line: its id, the path of its image where that is something else, the beginning of its text."""
    text = one_line(" ".join((row["text"] or "").split()), WIDEST_TEXT)
    image = row["image"] if row["image"] != row["id"] else None
    return "  ".join(part for part in (one_line(row["id"] or ""), one_line(image or ""), text) if part)
