"""Makes an index of what `coma embed` wrote, so that a search in millions of rows takes milliseconds.

The index is a folder of LanceDB (pip install "coma-embedding[index]"); no server is needed. `coma search` takes it in
place of the file. It is there whole or not at all: after an interruption the same command makes it anew. With fewer
than 10,000 rows it has no index over the vectors, and every search in it is exact.

Rows of the same model can be added later; an id that is there already is refused by name, or its row is replaced.
What is deleted is named by a condition in SQL on `row`, `id`, `text` and `image`.

  coma index photos.parquet photos.index
  coma index more.parquet photos.index --append
  coma index photos.index --delete "id = 'cat.png' OR text LIKE '%draft%'"
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hub_scripts.common.arguments import command_parser
from hub_scripts.common.terminal import one_line


__all__ = ["BuiltIndex", "build_index", "delete_rows", "main"]


class BuiltIndex(NamedTuple):
    """
    What [`build_index`] has done.

    Args:
        num_rows (`int`): rows that the index has now.
        num_added (`int`): those that were not there before.
        num_replaced (`int`): rows that have taken the place of others with the same id.
        is_exact (`bool`): whether there are so few rows that every search is exact.
        seconds (`float`): how long it took.
    """

    num_rows: int
    num_added: int
    num_replaced: int
    is_exact: bool
    seconds: float


def main(argv: list[str]) -> int:
    """Runs `coma index`; returns the exit code."""
    parser = command_parser("index", __doc__)
    add = parser.add_argument
    add("store", metavar="STORE", type=Path, help="file or folder made by `coma embed`; with --delete, the index")
    add("out", metavar="OUT", type=Path, nargs="?", help="folder of the index")
    add("--append", action="store_true", help="add to an index that is there")
    add("--replace", action="store_true", help="as --append, and rows take the place of those with the same id")
    add("--delete", metavar="CONDITION", help="delete the rows of an index that fit a condition in SQL")
    arguments = parser.parse_args(argv)
    if arguments.delete is not None:
        if arguments.out is not None or arguments.append or arguments.replace:
            parser.error("--delete takes the index alone: coma index INDEX --delete CONDITION")
        number = delete_rows(arguments.store, arguments.delete, tell=_tell)
        print(f"{number} rows deleted from {one_line(arguments.store)}")
        return 0
    if arguments.out is None:
        parser.error("the following arguments are required: OUT")
    made = build_index(
        arguments.store,
        arguments.out,
        append=arguments.append,
        replace=arguments.replace,
        show_progress=sys.stderr is not None and sys.stderr.isatty(),
        tell=_tell,
    )
    kind = "few enough that every search is exact" if made.is_exact else "with an IVF_RQ index over their vectors"
    print(f"{made.num_rows} rows in {one_line(arguments.out)}, {kind}")
    print(f"{made.num_added} added, {made.num_replaced} replaced now, in {made.seconds:.1f} s")
    return 0


def _tell(line: str) -> None:
    print(one_line(line), flush=True)


def build_index(
    store: str | Path,
    out: str | Path,
    *,
    append: bool = False,
    replace: bool = False,
    show_progress: bool = False,
    tell: Callable[[str], None] | None = None,
) -> BuiltIndex:
    r"""
    Makes an index of a store, or adds to it, as `coma index` does.

    Args:
        store (`str` or `Path`): a file or folder of [`~hub_scripts.embed.embed_table`].
        out (`str` or `Path`): folder of the index.
        append (`bool`, *optional*, defaults to `False`): adds to an index that is there; an id that it has is refused.
        replace (`bool`, *optional*, defaults to `False`): as `append`, and rows take the place of those with the same
            id.
        show_progress (`bool`, *optional*, defaults to `False`): draws a bar.
        tell (`Callable`, *optional*): is given a line for a person before what takes long.

    Returns:
        [`BuiltIndex`]

    Raises:
        ImportError: without LanceDB, the extra `index`.
        ValueError: for a store or an index that is damaged, a store of another model, an id that is there already, a
            folder that is there already, or that another process writes.
        OSError: if it cannot be written; an index that was there is as it was.

    Example:

        >>> build_index("photos.parquet", "photos.index").num_rows
        >>> build_index("more.parquet", "photos.index", append=True).num_added
    """
    from hub_scripts.embedding.lance_build import add_to_index, create_index
    from hub_scripts.embedding.lance_index import open_index
    from trainers.files import one_writer

    store, out, tell = Path(store), Path(out), tell or (lambda line: None)
    began, num_replaced = time.perf_counter(), 0
    with one_writer(out):
        if append or replace:
            num_added, num_replaced = add_to_index(store, open_index(out), replace, tell, show_progress)
        elif out.exists() or out.is_symlink():
            raise ValueError(f"{out} is there already: add to it (--append), remove it, or give another OUT.")
        else:
            num_added = create_index(store, out, tell, show_progress)
        index = open_index(out)
        seconds = time.perf_counter() - began
        return BuiltIndex(index.count(), num_added, num_replaced, not index.has_ann, seconds)


def delete_rows(index: str | Path, where: str, *, tell: Callable[[str], None] | None = None) -> int:
    r"""
    Deletes rows of an index, as `coma index INDEX --delete CONDITION` does.

    Args:
        index (`str` or `Path`): folder of [`build_index`].
        where (`str`): a condition in SQL on `row`, `id`, `text` and `image`.
        tell (`Callable`, *optional*): is given a line for a person before what takes long.

    Returns:
        `int`: how many rows there were.

    Raises:
        ImportError: without LanceDB, the extra `index`.
        ValueError: for a condition that is none, an index that is damaged, or that another process writes.
        OSError: if it cannot be written.

    Example:

        >>> delete_rows("photos.index", "id = 'cat.png'")
    """
    from hub_scripts.embedding.lance_build import delete_from_index
    from hub_scripts.embedding.lance_index import open_index
    from trainers.files import one_writer

    with one_writer(index):
        return delete_from_index(open_index(Path(index)), where, tell or (lambda line: None))
