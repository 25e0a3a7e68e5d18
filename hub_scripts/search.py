"""Finds in the file of `coma embed` what is nearest to a text, to a picture, or to both together.

The search is exact: the query is compared with every row, a piece of the file at a time. The model must be the one
that made the file.

  coma search my-coma photos.parquet "a red bicycle"
  coma search my-coma photos.parquet --image sketch.png -k 3
  coma search my-coma photos.parquet "the same, but in blue" --image bicycle.jpg
"""

from pathlib import Path
from typing import Any

from hub_scripts.arguments import add_model_options, command_parser, positive


__all__ = ["main"]

SAME_MODEL = 0.99  # cosine of the probes; other precisions of one model stay above it
WIDEST_TEXT = 60  # characters of a text in the table


def main(argv: list[str]) -> int:
    """Runs `coma search`; returns the exit code."""
    parser = command_parser("search", __doc__)
    parser.add_argument("model", metavar="MODEL", help="the CoMa model that made the index")
    parser.add_argument("index", metavar="INDEX", type=Path, help="Parquet file made by `coma embed`")
    parser.add_argument("query", metavar="QUERY", nargs="?", help="a text")
    parser.add_argument("--image", type=Path, metavar="PATH", help="a picture, alone or before the text")
    parser.add_argument("-k", type=positive, default=10, help="how many rows (default: %(default)s)")
    add_model_options(parser)
    arguments = parser.parse_intermixed_args(argv)
    if arguments.query is None and arguments.image is None:
        parser.error("give a QUERY, an --image, or both")

    import torch

    from hub_scripts.identity import probe
    from hub_scripts.index import index_metadata, nearest
    from hub_scripts.loading import load_model

    metadata = index_metadata(arguments.index)
    model, processor = load_model(arguments.model, arguments.dtype, arguments.device)
    _check_same_model(metadata, arguments, probe(model, processor))
    image = None if arguments.image is None else str(arguments.image)
    with torch.no_grad():
        inputs = processor.process([{"image": image, "text": arguments.query}]).to(model.device)
        query = model(**inputs).embeddings[0].float().cpu()
    print("rank  cosine  id")
    for rank, hit in enumerate(nearest(arguments.index, query, arguments.k), 1):
        print(f"{rank:>4}  {hit.score:>6.3f}  {_describe(hit.row)}")
    return 0


def _check_same_model(metadata: dict[str, Any], arguments: Any, numbers: list[float]) -> None:
    import torch

    theirs, ours = torch.tensor(metadata["probe"]), torch.tensor(numbers)
    cosine = torch.cosine_similarity(ours, theirs, dim=0).item() if len(ours) == len(theirs) else 0.0
    if cosine < SAME_MODEL:
        made = f"{metadata['model']}, K {metadata['num_compression_tokens']}, {metadata['dim']} dimensions"
        raise ValueError(
            f"{arguments.index} was made by another model ({made}): a picture embedded by both has a cosine of "
            f"{cosine:.2f}. Search with that model, or embed the corpus again."
        )


def _describe(row: dict[str, Any]) -> str:
    """The row in one line: its id, the path of its picture where that is something else, the beginning of its text."""
    text = " ".join((row["text"] or "").split())
    text = text if len(text) <= WIDEST_TEXT else f"{text[: WIDEST_TEXT - 1]}…"
    image = row["image"] if row["image"] != row["id"] else None
    return "  ".join(part for part in (row["id"], image, text) if part)
