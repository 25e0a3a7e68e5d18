"""What a model is known by, so that scores and embeddings of one are never taken for those of another."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["identity", "probe", "rounded"]

PROBE_SIZE = 64


def identity(name: str, model: "ComaForEmbedding", processor: "ComaProcessor") -> dict[str, Any]:
    """Everything of a model that its embeddings depend on, and the name it was called by."""
    size = processor.image_processor.size
    return {
        "model": name,
        "num_compression_tokens": model.config.num_compression_tokens,
        "pooling": model.config.pooling,
        "dtype": str(model.dtype).removeprefix("torch."),
        "pixels": [size["shortest_edge"], size["longest_edge"]],
        "max_length": processor.max_length,
        "probe": probe(model, processor),
    }


def probe(model: "ComaForEmbedding", processor: "ComaProcessor") -> list[float]:
    """The beginning of the embedding of an image with a text: every part of the model has a share in it."""
    import torch

    from hub_scripts.hub.golden import golden_inputs

    with torch.no_grad():
        inputs = processor.process([golden_inputs()["an image and a text"]]).to(model.device)
        embedding = model(**inputs).embeddings[0]
    return [round(value, 6) for value in embedding[:PROBE_SIZE].tolist()]


def rounded(numbers: list[float]) -> list[float]:
    """A probe that is the same on machines that round differently, -0.0 being 0.0."""
    return [round(value, 3) + 0.0 for value in numbers]
