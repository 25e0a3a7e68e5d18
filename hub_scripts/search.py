"""Finds in what `coma embed` made, a file or a folder, what is nearest to a text, an image, a video, or several.

The query is compared with every row as it is kept, a piece of the file at a time. Of `--precision ubinary` signs come
first, and the best 400 rows, or 20 for each that is looked for, are compared in int8. Scores are cosines, whatever the
precision; a query is cut to the dimensions that the index has. The model must be the one that made the index.

Of a file with several vectors of each row (coma embed --vectors) the 100 rows nearest by the one vector, or ten for
each that is looked for, are compared by MaxSim, which then is the score; with --exact all rows are. --by cosine
compares the one vector alone.

In a folder of `coma index` not every row is looked at, unless --exact is given or there are few; --where names, in
SQL, the rows that are looked for, by `row`, `id`, `text` and `image`.

  coma search my-coma photos.parquet "a red bicycle"
  coma search my-coma photos.parquet --image sketch.png -k 3
  coma search my-coma photos.parquet "the same, but in blue" --image bicycle.jpg
  coma search my-coma clips.parquet --video clip.mp4
  coma search my-coma photos.index "a red bicycle" --where "text LIKE '%steel%'"
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from hub_scripts.common.arguments import Dtype, add_model_options, command_parser, positive
from hub_scripts.common.terminal import one_line
from hub_scripts.hub.golden import ANY_PRECISION, distances, probe


if TYPE_CHECKING:
    import torch

    from hub_scripts.embedding.lance_index import LanceIndex
    from hub_scripts.embedding.nearest import Hit
    from hub_scripts.embedding.opened import OpenStore
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["main", "search_index"]

WIDEST_TEXT = 60  # characters of a text in the table
Measure = Literal["cosine", "maxsim"]


def main(argv: list[str]) -> int:
    """Runs `coma search`; returns the exit code."""
    parser = command_parser("search", __doc__)
    parser.add_argument("model", metavar="MODEL", help="the CoMa model that made the index")
    parser.add_argument("index", metavar="INDEX", type=Path, help="made by `coma embed` or `coma index`")
    parser.add_argument("query", metavar="QUERY", nargs="?", help="a text")
    parser.add_argument("--image", type=Path, metavar="PATH", help="an image, alone or before the text")
    parser.add_argument("--video", type=Path, metavar="PATH", help="a video, alone or before the text")
    parser.add_argument("--where", metavar="CONDITION", help="rows of a folder of `coma index` that are looked for")
    parser.add_argument("--exact", action="store_true", help="there, or by MaxSim: compare with every row")
    by = "one vector, or several by MaxSim (default: several, where the index has them)"
    parser.add_argument("--by", choices=get_args(Measure), help=by)
    parser.add_argument("-k", type=positive, default=10, help="how many rows (default: %(default)s)")
    add_model_options(parser)
    arguments = parser.parse_intermixed_args(argv)
    if arguments.query is None and arguments.image is None and arguments.video is None:
        parser.error("give a QUERY, an --image, a --video, or several of them")
    hits = search_index(**vars(arguments))
    print(f"rank  {hits[0].measure if hits else 'cosine'}  id", *_lines(hits), sep="\n")
    return 0


def search_index(  # noqa: PLR0913 - what can be set
    index: str | Path,
    query: str | None = None,
    *,
    image: str | Path | None = None,
    video: Any = None,
    model: "str | Path | tuple[ComaForEmbedding, ComaProcessor] | None" = None,
    k: int = 10,
    where: str | None = None,
    exact: bool = False,
    by: Measure | None = None,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_image_pixels: int | None = None,
) -> "list[Hit]":
    r"""
    Finds in what [`~hub_scripts.embed.embed_table`] or [`~hub_scripts.index.build_index`] made what is nearest to a
    query, as `coma search` does.

    Args:
        index (`str` or `Path`): the file, the folder of files, or the folder of an index.
        query (`str`, *optional*): a text.
        image (`str` or `Path`, *optional*): an image, alone or before the text.
        video (*optional*): a video, alone or before the text: a path, or another form that [`ComaProcessor`] takes.
        model (`str`, `Path` or `tuple[ComaForEmbedding, ComaProcessor]`, *optional*): that of the index; by default
            what it was called by then; loaded already, if there are several queries.
        k (`int`, *optional*, defaults to 10): how many rows; fewer if there are fewer.
        where (`str`, *optional*): a condition in SQL on `row`, `id`, `text` and `image`, for the folder of an index.
        exact (`bool`, *optional*, defaults to `False`): there, and by MaxSim, compares with every row.
        by (`str`, *optional*): `"cosine"` of the one vector, or `"maxsim"` of several; by default where there are,
            of the rows that are nearest by the one vector, a hundred or ten times `k`.
        dtype, device (`str`, *optional*, defaults to `"auto"`): precision, and where to compute.
        max_image_pixels (`int`, *optional*): images with more are refused; by default as the model has it.

    Returns:
        `list[Hit]`: best first, each with its `score`, the cosine with the row as it is kept or MaxSim, as `measure`
            says ([`~hub_scripts.embedding.nearest.Hit`]), and its `row`: `row`, `id`, `text` and `image`.

    Raises:
        ValueError: for an index that is damaged, was made by another model or has not several vectors of a row, and
            for a query that cannot be embedded.

    Example:

        >>> for hit in search_index("photos.parquet", "a red bicycle", model="my-coma"):
        ...     print(hit.score, hit.row["id"])
    """
    from hub_scripts.embedding.opened import open_any

    if k < 1:
        raise ValueError(f"k={k} must be 1 or more.")
    opened = open_any(Path(index))
    if where is not None:
        opened.count(where)  # what is wrong with it is said before a model is loaded
    num_vectors = _query_vectors(opened, by)
    coma = model_of_index(opened.path, opened.metadata, model, dtype, device, max_image_pixels)
    return opened.nearest(embed_query(coma, query, image, num_vectors, video), k, where, is_exact=exact)


def _query_vectors(opened: "OpenStore | LanceIndex", by: Measure | None) -> int | None:
    """How many vectors of a query are compared with those of an index; none, if it is the one."""
    if by not in (None, *get_args(Measure)):
        raise ValueError(f"by={by!r} is neither cosine nor maxsim.")
    found = opened.metadata.get("query_vectors")
    if by == "maxsim" and found is None:
        raise ValueError(
            f"{opened.path} has one vector of each row, and MaxSim needs several: search the file or folder of "
            "`coma embed --vectors N`."
        )
    return None if by == "cosine" else found


def model_of_index(
    index: Path,
    metadata: Mapping[str, Any],
    model: "str | Path | tuple[ComaForEmbedding, ComaProcessor] | None" = None,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_image_pixels: int | None = None,
) -> "tuple[ComaForEmbedding, ComaProcessor]":
    """The model that made an index, loaded; arguments as of [`search_index`]. `ValueError` for another model."""
    from hub_scripts.common.loading import load_model

    name = metadata["model"] if model is None else model
    coma, processor = name if isinstance(name, tuple) else load_model(str(name), dtype, device, max_image_pixels)
    (distance,) = distances(probe(coma, processor), metadata["probe"])
    if distance > ANY_PRECISION:
        made = f"{metadata['model']}, K {metadata['num_compression_tokens']}, {metadata['dim']} dimensions"
        raise ValueError(
            f"{index} was made by another model ({made}): its embedding of an image is other by {distance:.2f} of its "
            "length. Search with that model, or embed the corpus again."
        )
    return coma, processor


def embed_query(
    coma: "tuple[ComaForEmbedding, ComaProcessor]",
    query: str | None,
    image: str | Path | None,
    num_vectors: int | None = None,
    video: Any = None,
) -> "torch.Tensor":
    """
    The embedding of a text, an image, a video or several of them.

    Args:
        coma (`tuple[ComaForEmbedding, ComaProcessor]`): the model.
        query (`str`, *optional*): the text.
        image (`str` or `Path`, *optional*): the image, before the text.
        num_vectors (`int`, *optional*): gives so many of its states after it.
        video (*optional*): a video in any form that [`ComaProcessor`] takes, between the two.

    Returns:
        `torch.FloatTensor` of shape `(dim,)`, or `(1 + num_vectors, dim)`, on the CPU.

    Raises:
        ValueError: for what cannot be embedded.
    """
    import torch

    model, processor = coma
    try:
        files = {"image": None if image is None else str(image), "video": video}
        inputs = processor.process([{**files, "text": query}])
    except ValueError as error:  # the one row that there is
        raise ValueError(f"The query cannot be embedded: {re.sub(r'^Row 0:? ', '', str(error))}") from error
    with torch.no_grad():
        output = model(**inputs.to(model.device))
    vectors = torch.cat([output.embeddings[0, None], output.compression_states[0, : num_vectors or 0]])
    return (vectors[0] if num_vectors is None else vectors).float().cpu()


def _lines(hits: "list[Hit]") -> list[str]:
    return [f"{rank:>4}  {hit.score:>6.3f}  {_describe(hit.row)}" for rank, hit in enumerate(hits, 1)]


def _describe(row: dict[str, Any]) -> str:
    """The row in one line: its id, the path of its image where that is something else, the beginning of its text."""
    text = one_line(" ".join((row["text"] or "").split()), WIDEST_TEXT)
    image = row["image"] if row["image"] != row["id"] else None
    return "  ".join(part for part in (one_line(row["id"] or ""), one_line(image or ""), text) if part)
