"""What `coma embed` keeps of a row, as it is told, and whether the model was trained for that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hub_scripts.common.arguments import PRECISIONS, Precision


__all__ = ["Kept", "Untrained"]


class Untrained(NamedTuple):
    """What is kept as well where the model was not trained for it."""

    dims: bool
    vectors: bool
    memory: bool


@dataclass(frozen=True)
class Kept:
    """
    What is kept of a row. The fields are those of [`~hub_scripts.embed.embed_table`].

    Raises:
        ValueError: for what can be known to be wrong before a model is there.
        ImportError: if the precision needs sentence-transformers, which only the last step would import.
    """

    dims: int | None
    precision: Precision
    vectors: int | None
    memory: bool
    untrained: Untrained

    def __post_init__(self) -> None:
        from hub_scripts.embedding.precision import VectorForm

        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is none of {', '.join(PRECISIONS)}.")
        if self.untrained.vectors and self.vectors is None:
            raise ValueError("--any-vectors (any_vectors=True) says that --vectors N may be any: give them, too.")
        if self.untrained.memory and not self.memory:
            raise ValueError("--any-memory (any_memory=True) says that --memory may be any: give that, too.")
        if VectorForm(1, self.precision).needs_ranges:
            import sentence_transformers  # noqa: F401

    @property
    def encoding(self) -> dict[str, Any]:
        """The settings of [`~trainers.encoding.encoder.Encoder`] for it."""
        return {"num_vectors": self.vectors, "keeps_memory": self.memory}

    def of_model(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """
        What the metadata of an index say of vectors.

        Args:
            record (`Mapping[str, Any]`): the model, as [`~hub_scripts.embedding.engine.record_of`] has it.

        Raises:
            ValueError: for what it was not trained for.
        """
        from hub_scripts.hub.trained_dims import check_memory, checked_budgets, checked_dims

        name, states = record["model"], record["num_compression_tokens"]
        said = {"dims": checked_dims(name, self.dims, record["dim"], self.untrained.dims), "precision": self.precision}
        if self.vectors is not None:
            ((of_queries, _),) = checked_budgets(name, [self.vectors], states, self.untrained.vectors)
            said |= {"vectors": self.vectors, "query_vectors": of_queries}
        if self.memory:
            check_memory(name, self.untrained.memory)
        return said
