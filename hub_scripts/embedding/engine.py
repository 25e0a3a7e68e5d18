"""What makes the parts of `coma embed`: one model on this machine. `ray_engine.py` has the same for many machines."""

from pathlib import Path
from typing import Any

from hub_scripts.embedding.corpus_parts import corpus_rows
from hub_scripts.embedding.model_record import model_record
from hub_scripts.embedding.model_settings import ModelSettings
from trainers.data.corpus import Corpus
from trainers.encoding.encoder import Encoder
from trainers.encoding.shards import embed_in_shards


__all__ = ["LocalEngine", "record_of"]


def record_of(settings: ModelSettings, encoder: Encoder) -> dict[str, Any]:
    """The record of a model as [`model_record`] has it, with the form of the memories that are kept, if they are."""
    form = encoder.memory_form
    return model_record(settings.name, encoder.coma) | ({"memory": form._asdict()} if form else {})


class LocalEngine:
    """
    One model in this process.

    Args:
        settings ([`ModelSettings`]): the model.
        corpus ([`Corpus`]): what is embedded.
    """

    def __init__(self, settings: ModelSettings, corpus: Corpus) -> None:
        self.corpus, self.encoder = corpus, settings.load()
        self.record = record_of(settings, self.encoder)

    def embed(self, folder: Path, **options: Any) -> tuple[list[Path], int]:
        """Makes the parts in a folder; options, what is returned and raised as in [`embed_in_shards`]."""
        return embed_in_shards(self.encoder, corpus_rows(self.corpus), folder, **options)
