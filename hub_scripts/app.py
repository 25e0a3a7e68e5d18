"""Opens a page on this machine over an index of `coma embed` or `coma index`, in a browser.

It searches by words, by an image, and by both; a click on a result finds more like it. Beside each cosine stands the
share of random pairs of rows that have a lower one. What the model remembers of an image can be asked, too: it answers
from the compression tokens alone. Images are looked up by the paths that the index has, and only below one folder;
nothing else of this machine is shown.

  coma app photos.parquet --image-root photos/
  coma app demo/index.parquet                    # what `coma demo` has left
  coma app photos.parquet --model my-coma --port 8080
  coma app photos.parquet --image-root photos/ --model my-org/my-coma --space my-space
"""

import argparse
import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hub_scripts.common.address import check_address
from hub_scripts.common.arguments import Dtype, add_model_options, command_parser, positive
from hub_scripts.common.terminal import one_line


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["main", "open_app"]

HOST = "127.0.0.1"
LARGEST_UPLOAD = "64mb"


def main(argv: list[str]) -> int:
    """Runs `coma app`; returns the exit code."""
    parser = command_parser("app", __doc__)
    add = parser.add_argument
    add("index", metavar="INDEX", type=Path, help="made by `coma embed` or `coma index`")
    add("--model", metavar="MODEL", help="the CoMa model that made the index (default: what it was called by then)")
    add("--image-root", metavar="FOLDER", type=Path, help="where paths begin (default: at the folder of the index)")
    add("--host", default=HOST, help="address to listen at (default: %(default)s, this machine alone)")
    add("--port", type=positive, metavar="N", help="port to listen at (default: the first free one from 7860)")
    add("--space", type=Path, metavar="FOLDER", help="write a Hugging Face Space with the page instead of opening it")
    add_model_options(parser)
    arguments = parser.parse_args(argv)
    if (space := vars(arguments).pop("space")) is not None:
        return _write_space(arguments, space)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which ends the page as Ctrl-C does
    with contextlib.suppress(KeyboardInterrupt), open_app(**vars(arguments)) as url:
        print(f"The page is open at {one_line(url)} (Ctrl-C closes it).", flush=True)
        if arguments.host not in (HOST, "localhost", "::1"):
            print("Whoever reaches this machine can search, and sees the images of the index.", flush=True)
        threading.Event().wait()
    return 0


def _write_space(arguments: argparse.Namespace, folder: Path) -> int:
    _find_gradio()
    from hub_scripts.app_page.space import write_space

    index, root = arguments.index, arguments.image_root
    size = write_space(index, folder, arguments.model, index.parent if root is None else root)
    print(f"{one_line(folder)} is a Space: its index and images have {size / 1e6:.1f} MB. Look at it, then send it:")
    print(f"hf upload ORG/NAME {one_line(folder)} --repo-type space")
    return 0


@contextlib.contextmanager
def open_app(
    index: str | Path,
    *,
    model: "str | Path | tuple[ComaForEmbedding, ComaProcessor] | None" = None,
    image_root: str | Path | None = None,
    host: str = HOST,
    port: int | None = None,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_image_pixels: int | None = None,
) -> Iterator[str]:
    r"""
    Opens the page of `coma app`, for as long as a `with` block runs.

    Args:
        index (`str` or `Path`): made by [`~hub_scripts.embed.embed_table`] or
            [`~hub_scripts.index.build_index`].
        model (`str`, `Path` or `tuple[ComaForEmbedding, ComaProcessor]`, *optional*): the model that made the index;
            by default what it was called by then.
        image_root (`str` or `Path`, *optional*): where paths of images begin, and below which all images lie: by
            default the folder of the index.
        host (`str`, *optional*, defaults to `"127.0.0.1"`): address to listen at.
        port (`int`, *optional*): port to listen at; by default the first free one from 7860.
        dtype, device (`str`, *optional*, defaults to `"auto"`): precision, and where to compute.
        max_image_pixels (`int`, *optional*): images with more are refused; by default as the model has it.

    Yields:
        `str`: the address of the page.

    Raises:
        ValueError: for an index that is damaged or was made by another model, and for a folder that is not there.
        ImportError: if Gradio is not installed.
        OSError: if nothing can listen there.

    Example:

        >>> with open_app("photos.parquet", image_root="photos/") as url:
        ...     input(f"{url} is open until Enter is pressed.")
    """
    _find_gradio()
    check_address(host, port)  # Gradio would try a hundred ports
    with _own_folder():
        from hub_scripts.app_page.layout import LOOK, layout
        from hub_scripts.app_page.session import Session
        from hub_scripts.embedding.opened import open_any
        from hub_scripts.search import model_of_index

        opened = open_any(index := Path(index))
        coma = model_of_index(index, opened.metadata, model, dtype, device, max_image_pixels)
        session = Session(opened, coma, index.parent if image_root is None else image_root)
        page = layout(session)
        try:
            _, url, _ = page.launch(
                **LOOK,
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=[],
                max_file_size=LARGEST_UPLOAD,
            )
            yield url
        finally:
            page.close(verbose=False)


def _find_gradio() -> None:
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ImportError('The page needs Gradio: pip install "coma-embedding[app]"') from error


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    """
    Gives Gradio a folder for images that are given to the page, which vanishes with it. It serves what lies in its
    folders; by default it shares them with every other page on this machine, and adds what the environment names.
    """
    with tempfile.TemporaryDirectory(prefix="coma-app-") as folder:
        ours = {"GRADIO_TEMP_DIR": folder, "GRADIO_EXAMPLES_CACHE": folder, "GRADIO_ALLOWED_PATHS": ""}
        before = {name: os.environ.pop(name, None) for name in ours}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value
