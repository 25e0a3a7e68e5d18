"""What runs in an actor of Ray: a model, loaded once, that reads rows by their numbers and embeds them."""

import socket
import tempfile
from pathlib import Path
from typing import Any

from hub_scripts.embedding.corpus_parts import corpus_rows
from hub_scripts.embedding.engine import record_of
from hub_scripts.embedding.model_settings import ModelSettings
from hub_scripts.embedding.remote_inputs import Inputs
from trainers.data.corpus import Corpus
from trainers.encoding.shards import ShardRows, digest_of_part, embed_in_shards


__all__ = ["PartEmbedder"]


class PartEmbedder:
    """
    A model, and a corpus that it reads for itself. Nothing happens before [`load`], so that what goes wrong is an
    error of that call.

    Args:
        settings ([`ModelSettings`]): the model.
        corpus ([`Corpus`]): as it was opened where the run was started.
        source ([`Inputs`]): where it lies.
        sizes (`dict[Path, int]`): its files and how many bytes they have there; `None` for a folder.
    """

    def __init__(self, settings: ModelSettings, corpus: Corpus, source: Inputs, sizes: dict[Path, int | None]) -> None:
        self.settings, self.rows, self.source, self.sizes = settings, corpus_rows(corpus), source, sizes

    def load(self) -> dict[str, Any]:
        """
        Loads the model.

        Returns:
            `dict`: its record.

        Raises:
            ValueError: if it is no model, or the corpus is not on this machine, or another one.
        """
        self.source.fetch()
        for file, size in self.sizes.items():
            if not file.exists():
                raise ValueError(f"{file} is not on {socket.gethostname()}: all machines must see it there.")
            if size is not None and file.stat().st_size != size:
                raise ValueError(f"{file} is another file on {socket.gethostname()}, or has just been changed.")
        self.encoder = self.settings.load()
        return record_of(self.settings, self.encoder)

    def embed(self, start: int, stop: int, kept: str | None, made_by: str, **options: Any) -> bytes | None:
        """
        Embeds the rows from one number up to, and without, another.

        Args:
            start, stop (`int`): their numbers.
            kept (`str`, *optional*): what the shard that is there already was made of.
            made_by (`str`): what the model is known by.
            options: others of [`embed_in_shards`].

        Returns:
            `bytes` or `None`: the shard; `None` if the one that is there is the same.

        Raises:
            ValueError: for a row that cannot be embedded, with its name.
        """
        part = self.rows.read(start, stop)
        if digest_of_part(made_by, part) == kept:
            return None
        rows = ShardRows(stop - start, lambda *_: part, lambda row: self.rows.names(start + row), self.rows.way_out)
        with tempfile.TemporaryDirectory() as folder:
            options |= {"made_by": made_by, "shard_rows": stop - start}
            (file,), _ = embed_in_shards(self.encoder, rows, Path(folder), **options)
            return file.read_bytes()
